//! Frozen pretrained backbones with hooks at every adaptable layer.
//!
//! A [`Backbone`] never changes once it is open. What a run trains lives outside: an [`Overlay`] of tensors that stand in for named parameters, a [`LayerHook`] that adapts layer
//! outputs, and residuals added between blocks. A [`Pass`] says which of these one forward uses, so the frozen model stays callable beside the tuned one.

mod assembly;
mod checkpoint;
mod config;
pub mod dit;
mod error;
pub mod forward_file;
mod front;
mod initial;
mod inspect;
mod layers;
pub(crate) mod ldm;
mod pass;
mod resnet;
mod source;
#[cfg(test)]
pub(crate) mod tests;
mod timesteps;
pub mod unet;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde::{Deserialize, Serialize};

pub(crate) use assembly::{Assembly, Conv2d as AssemblyConv2d, GroupNorm};
pub(crate) use checkpoint::{
    DIFFUSION_WEIGHTS, ModelFolder, only_variant, read_weights, write_folder,
};
pub use config::Config;
pub use dit::DitConfig;
pub use error::Error;
pub use front::Front;
pub(crate) use initial::Initial;
pub use inspect::{Inspection, inspect, layers_of};
pub use layers::{Conv, LayerInfo, LayerKind};
pub(crate) use layers::{Embedding, LayerNorm, Linear, Parameter};
pub use pass::{Conditioning, Input, LayerHook, Overlay, Pass, Piece, Positions, Replay};
pub(crate) use resnet::{Norms, Resnet};
pub(crate) use source::{Outline, Source};
pub use unet::UnetConfig;

use crate::adapter::merged::Merged;
use crate::adapter::{AdapterWeights, Report};
use checkpoint::{Checkpoint, Reading};
use dit::Dit;
use unet::Unet;

/// A result inside the network; on its way to a user, a tensor error becomes an [`Error`].
pub type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

/// The classes of samples among the conditioning.
pub(crate) const CLASS_LABELS: &str = "class_labels";

/// The facts about a backbone that other parts of a run need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// `"dit"` or `"unet"`.
    pub architecture: String,
    /// How many numbers the backbone holds; parameters shared between blocks count once.
    pub parameters: usize,
    /// Channels that the network takes: those of the latents, or more where others are joined to them.
    pub in_channels: usize,
    /// Channels of the prediction; twice the latents' with learned variance.
    pub out_channels: usize,
    /// Side of the latents it was trained on, in latent pixels.
    pub sample_size: usize,
    /// Side of a patch, in latent pixels; both sides of the latents must be multiples of it.
    pub patch_size: usize,
    /// How many classes it knows; the null class is this number. None for a network that is conditioned on something else.
    pub num_classes: Option<usize>,
    /// Width of the text's tokens, for a network that attends to a text.
    pub cross_attention: Option<usize>,
    /// Width of the embedding of the whole text, for a network that is told that and the picture's size beside the timestep (SDXL).
    pub text_embeds: Option<usize>,
    /// Whether the second half of the prediction's channels is the variance.
    pub learned_variance: bool,
    /// How many residuals a pass must bring, when it brings any.
    pub residual_sites: usize,
    /// Width of the hidden states; of a UNet's first level.
    pub width: usize,
    /// Number of transformer blocks; of a UNet's levels.
    pub depth: usize,
    /// Attention heads in each block; of a UNet's first level that has any.
    pub heads: usize,
    /// Whether all blocks share one timestep and class embedder.
    pub shared_embedders: bool,
}

impl ModelInfo {
    /// The label of no class; 0, which nothing reads, for a network without classes.
    pub fn null_class(&self) -> u32 {
        self.num_classes.unwrap_or(0) as u32
    }

    /// The same network for latents of this many channels, which tell whether half of the output's is the variance.
    pub fn of_latents(self, channels: usize) -> Self {
        Self {
            learned_variance: self.out_channels == 2 * channels,
            ..self
        }
    }

    /// The tensors of its conditioning, by the names of [`Conditioning`].
    pub fn reads(&self) -> Vec<&'static str> {
        [
            (CLASS_LABELS, self.num_classes),
            ("encoder_hidden_states", self.cross_attention),
            ("text_embeds", self.text_embeds),
            ("time_ids", self.text_embeds),
        ]
        .into_iter()
        .filter_map(|(name, read)| read.map(|_| name))
        .collect()
    }
}

/// A frozen pretrained network.
#[derive(Debug)]
pub struct Backbone {
    model: Model,
    info: ModelInfo,
    layers: Vec<LayerInfo>,
    parameters: Vec<(String, Tensor)>,
}

/// The architectures there are.
#[derive(Debug)]
enum Model {
    Dit(Box<Dit>),
    Unet(Box<Unet>),
}

impl Backbone {
    /// Reads a backbone: a diffusers pipeline folder, its `transformer/` or `unet/` folder, an original DiT file (`.pt` or `.safetensors`), or a whole
    /// Stable Diffusion in its original layout (`.safetensors` or `.ckpt`).
    ///
    /// Files are read and converted to `dtype` one tensor at a time.
    ///
    /// # Errors
    /// When there is nothing there, when a file is corrupt, or when the configuration and the weights disagree.
    pub fn open(path: &Path, device: &Device, dtype: DType) -> Result<Self, Error> {
        Ok(Self::open_adapted(path, &[], device, dtype)?.0)
    }

    /// Reads a backbone as [`Backbone::open`] does, and merges adapters into its weights, one after the other, each with its strength: the files stay as they are.
    ///
    /// # Errors
    /// As [`Backbone::open`], and for an adapter that does not fit.
    pub fn open_adapted(
        path: &Path,
        adapters: &[(AdapterWeights, f64)],
        device: &Device,
        dtype: DType,
    ) -> Result<(Self, Vec<Report>), Error> {
        let checkpoint = Checkpoint::open(path)?;
        Self::from_checkpoint(&checkpoint, adapters, device, dtype)
    }

    /// Reads a backbone held in memory: the text of a `config.json` and the bytes of a safetensors file, in full or compact form.
    ///
    /// # Errors
    /// As [`Backbone::open`].
    pub fn from_bytes(
        config_json: &str,
        safetensors: &[u8],
        device: &Device,
        dtype: DType,
    ) -> Result<Self, Error> {
        Ok(Self::from_bytes_adapted(config_json, safetensors, &[], device, dtype)?.0)
    }

    /// Reads a backbone as [`Backbone::from_bytes`] does, and merges adapters into its weights.
    ///
    /// # Errors
    /// As [`Backbone::open_adapted`].
    pub fn from_bytes_adapted(
        config_json: &str,
        safetensors: &[u8],
        adapters: &[(AdapterWeights, f64)],
        device: &Device,
        dtype: DType,
    ) -> Result<(Self, Vec<Report>), Error> {
        let checkpoint = Checkpoint::from_bytes(config_json, safetensors)?;
        Self::from_checkpoint(&checkpoint, adapters, device, dtype)
    }

    fn from_checkpoint(
        checkpoint: &Checkpoint<'_>,
        adapters: &[(AdapterWeights, f64)],
        device: &Device,
        dtype: DType,
    ) -> Result<(Self, Vec<Report>), Error> {
        let config = checkpoint.config().clone();
        if adapters.is_empty() {
            let reading = Reading {
                checkpoint,
                device,
                dtype,
            };
            return Ok((Self::build(config, &reading)?, Vec::new()));
        }
        config.check()?;
        let exact = Reading {
            checkpoint,
            device: &Device::Cpu,
            dtype: DType::F32,
        };
        let layers = config.layers()?;
        let copies = match &config {
            Config::Dit(config) => dit::every_copy(config),
            Config::Unet(_) => BTreeMap::new(),
        };
        let (merged, reports) = Merged::new(&exact, &layers, copies, adapters, device, dtype)?;
        Ok((Self::build(config, &merged)?, reports))
    }

    /// Builds a backbone from tensors by diffusers' keys; the embedders may be there for every block, or for block 0 alone (then all blocks share them).
    ///
    /// # Errors
    /// When a tensor is missing, unexpected, or of another shape than the configuration says.
    pub fn from_parts(
        config: impl Into<Config>,
        tensors: HashMap<String, Tensor>,
    ) -> Result<Self, Error> {
        Self::build(config.into(), &tensors)
    }

    /// A fresh network for pretraining, f32. A DiT by the original initialisation: shared embedders, adaLN and the last layer at zero (so the first prediction is zero). A UNet with
    /// the last layer of every part that is added at zero, and of the network.
    ///
    /// # Errors
    /// When the configuration makes no sense.
    pub fn init(config: impl Into<Config>, seed: u64, device: &Device) -> Result<Self, Error> {
        match config.into() {
            Config::Dit(config) => {
                let tensors = dit::init(&config, seed, device)?;
                Self::from_parts(config, tensors)
            }
            config @ Config::Unet(_) => {
                let zeros = &unet::starts_as_zeros;
                let start = Initial {
                    seed,
                    device,
                    zeros,
                };
                Self::build(config, &start)
            }
        }
    }

    /// The same backbone with other positions at sizes that it was not trained at; at its own size nothing changes, nor does a UNet, which has no positions.
    pub fn with_positions(mut self, positions: Positions) -> Self {
        match &mut self.model {
            Model::Dit(dit) => dit.set_positions(positions),
            Model::Unet(_) if positions == Positions::default() => {}
            Model::Unet(_) => {
                tracing::warn!("`positions` changes nothing: a UNet has no table of positions");
            }
        }
        self
    }

    /// The same backbone for latents of this many channels; of more than these a network takes where others are joined to them.
    pub fn of_latents(self, channels: usize) -> Self {
        Self {
            info: self.info.of_latents(channels),
            ..self
        }
    }

    fn build(config: Config, source: &dyn Source) -> Result<Self, Error> {
        match config {
            Config::Dit(config) => {
                let (dit, layers, parameters) = Dit::load(config, source)?;
                let count = parameters
                    .iter()
                    .map(|(_, tensor)| tensor.elem_count())
                    .sum();
                Ok(Self {
                    info: dit.info(count),
                    model: Model::Dit(Box::new(dit)),
                    layers,
                    parameters,
                })
            }
            Config::Unet(config) => {
                let mut net = Assembly::new(source);
                let unet = Unet::load(config, &mut net)?;
                let built = net.finish()?;
                Ok(Self {
                    info: unet::info(unet.config(), built.count()),
                    model: Model::Unet(Box::new(unet)),
                    layers: built.layers,
                    parameters: built.parameters,
                })
            }
        }
    }

    /// The prediction, `[B, C_out, H, W]`, in the type of the latents.
    ///
    /// # Errors
    /// When an input has the wrong shape, a label is out of range, a side is not a multiple of the patch size, or the number of residuals is not that of the sites.
    pub fn forward(&self, input: &Input<'_>, pass: &Pass<'_>) -> Result<Tensor> {
        match &self.model {
            Model::Dit(dit) => dit.forward(input, pass),
            Model::Unet(unet) => unet.forward(input, pass),
        }
    }

    /// The adaptable layers, in the order of the network; a [`LayerHook`] is told indices into this list.
    pub fn layers(&self) -> &[LayerInfo] {
        &self.layers
    }

    /// Every parameter with its name (the diffusers key), in the order of the network. Embedders shared by all blocks appear once, under block 0.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.parameters
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The facts other parts need.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// The configuration, as in `config.json`.
    pub fn config(&self) -> Config {
        match &self.model {
            Model::Dit(dit) => dit.config().clone().into(),
            Model::Unet(unet) => unet.config().clone().into(),
        }
    }

    /// The layers that an adapter can be for: those of [`Backbone::layers`], and of a DiT the embedders of every block, also where all share one.
    pub fn adapter_layers(&self) -> Vec<LayerInfo> {
        match &self.model {
            Model::Dit(dit) => dit::layers(dit.config(), dit::Sharing::PerBlock),
            Model::Unet(_) => self.layers.clone(),
        }
    }

    /// The type that the network computes in.
    pub fn dtype(&self) -> DType {
        self.parameters
            .first()
            .map_or(DType::F32, |(_, tensor)| tensor.dtype())
    }

    /// The device that the network computes on.
    pub fn device(&self) -> &Device {
        self.parameters
            .first()
            .map_or(&Device::Cpu, |(_, tensor)| tensor.device())
    }

    /// The layer that the latents enter by: the first convolution.
    pub fn input_layer(&self) -> Option<&LayerInfo> {
        (self.layers.iter()).find(|layer| layer.kind == LayerKind::Conv2d)
    }

    /// How many channels the network takes with these stand-ins.
    pub fn input_channels(&self, overlay: &Overlay) -> usize {
        self.input_layer()
            .and_then(|layer| overlay.get(&layer.weight().0))
            .and_then(|weight| weight.dims().get(1).copied())
            .unwrap_or(self.info.in_channels)
    }

    /// Whether a tensor of shape `shape` can stand in for the parameter `name` of shape `own`: one of the same shape, and for the weight of the
    /// [input layer](Backbone::input_layer) also one of more or fewer input channels.
    pub fn takes(&self, name: &str, own: &[usize], shape: &[usize]) -> bool {
        let Some((input, _)) = self.input_layer().map(LayerInfo::weight) else {
            return shape == own;
        };
        let same_but_inputs = || {
            let mut other = own.to_vec();
            if let (Some(inputs), Some(&given)) = (other.get_mut(1), shape.get(1)) {
                *inputs = given.max(1);
            }
            other == shape
        };
        shape == own || (name == input && same_but_inputs())
    }

    /// Whether every tensor of the overlay can stand in for its parameter. Ask once before training: [`Backbone::forward`] does not look for names nobody uses.
    ///
    /// # Errors
    /// Naming the parameters that do not exist, or the first whose shape differs.
    pub fn check_overlay(&self, overlay: &Overlay) -> Result<(), Error> {
        let by_name: HashMap<&str, &Tensor> = self.parameters().collect();
        let unknown: Vec<String> = overlay
            .keys()
            .filter(|name| !by_name.contains_key(name.as_str()))
            .cloned()
            .collect();
        if !unknown.is_empty() {
            return Err(Error::UnknownParameters { unknown });
        }
        for (name, tensor) in overlay {
            let expected = by_name[name.as_str()].dims();
            if !self.takes(name, expected, tensor.dims()) {
                return Err(Error::Shape {
                    name: name.clone(),
                    expected: expected.to_vec(),
                    found: tensor.dims().to_vec(),
                });
            }
        }
        Ok(())
    }

    /// Writes `dir/transformer/` or `dir/unet/` as diffusers reads it (`config.json` and `diffusion_pytorch_model.safetensors`), with the overlay in place of what it stands for.
    ///
    /// # Errors
    /// When the overlay does not fit, or the files cannot be written; a file that exists is replaced only once its successor is complete.
    pub fn save(&self, dir: &Path, overlay: &Overlay, dtype: DType) -> Result<(), Error> {
        self.write(
            &dir.join(self.config().folder()),
            overlay,
            dtype,
            Embedders::EveryBlock,
        )
    }

    /// Writes the compact form, `dir/config.json` and `dir/diffusion_pytorch_model.safetensors`, in which embedders shared by all blocks are stored once. diffusers does not read it;
    /// [`Backbone::open`] and [`Backbone::from_bytes`] do.
    ///
    /// # Errors
    /// As [`Backbone::save`].
    pub fn save_compact(&self, dir: &Path, overlay: &Overlay, dtype: DType) -> Result<(), Error> {
        self.write(dir, overlay, dtype, Embedders::AsHeld)
    }

    fn write(
        &self,
        dir: &Path,
        overlay: &Overlay,
        dtype: DType,
        embedders: Embedders,
    ) -> Result<(), Error> {
        self.check_overlay(overlay)?;
        let mut tensors: BTreeMap<String, &Tensor> = BTreeMap::new();
        for (name, frozen) in self.parameters() {
            let tensor = overlay.get(name).unwrap_or(frozen);
            tensors.insert(name.to_owned(), tensor);
            if embedders == Embedders::EveryBlock && self.info.shared_embedders {
                for copy in dit::copies_of_shared(name, self.info.depth) {
                    tensors.insert(copy, tensor);
                }
            }
        }
        let config = self.config_with(self.input_channels(overlay))?;
        write_folder(dir, DIFFUSION_WEIGHTS, &config, &tensors, dtype)
    }

    /// The text of `config.json` for a network of this many input channels.
    fn config_with(&self, channels: usize) -> Result<String, Error> {
        let config = self.config().to_json();
        if channels == self.info.in_channels {
            return Ok(config);
        }
        let unreadable = |error| candle_core::Error::Msg(format!("config.json: {error}"));
        let mut config: serde_json::Value = serde_json::from_str(&config).map_err(unreadable)?;
        config["in_channels"] = channels.into();
        // Left out, they are as many as the inputs.
        config["out_channels"] = self.info.out_channels.into();
        Ok(format!("{config:#}\n"))
    }
}

/// How many copies of shared embedders a file gets.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Embedders {
    EveryBlock,
    AsHeld,
}
