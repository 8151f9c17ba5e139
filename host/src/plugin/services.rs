//! What a plugin may ask of the host while one of its hooks runs, in the host's own types.
//!
//! A training or sampling session implements [`Services`]; the messages of the boundary are decoded and encoded in `dispatch`
//! alone. A session answers through `&self`, because it is asked in the middle of its own step: what changes (random streams,
//! metrics, new parameters) sits behind a `RefCell` there.

mod dispatch;
mod log;
mod making;

use std::collections::BTreeMap;
use std::path::PathBuf;

use candle_core::Tensor;
use plugin_api::{BackboneInfo, Error, LayerInfo, Model, Phase, ProcessInfo, RunInfo};

pub(super) use dispatch::{Context, table};
pub(super) use log::Speaking;
pub use making::{Draw, Init};

use super::slots::Slot;
use crate::adapter::LayerUpdate;
use crate::data::Batch;

/// Who asks, and when.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// The plugin's name in this run: parameters, streams and metrics go under it.
    pub plugin: &'a str,
    /// The plugin's id.
    pub id: &'a str,
    /// The hook that runs; `None` while the plugin is built.
    pub slot: Option<Slot>,
    /// The training step, from 0.
    pub step: u64,
    /// What the host is doing.
    pub phase: Phase,
}

/// An answer to a plugin; an error's sentence reaches the plugin's author.
pub type Answer<T> = Result<T, Error>;

/// Which formula of the diffusion process to apply, and so what its two tensors are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formula {
    /// Clean latents and noise to noisy latents.
    AddNoise,
    /// Clean latents and noise to what the network should predict.
    Target,
    /// Prediction and noisy latents to clean latents.
    ToX0,
    /// Prediction and noisy latents to noise.
    ToEpsilon,
}

/// A parameter a plugin asks for.
#[derive(Clone, Debug)]
pub struct ParameterRequest {
    /// Its name, unique within the plugin.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its first values; [`Init::make`] makes them.
    pub init: Init,
    /// Whether weight decay applies.
    pub decay: bool,
}

/// Pictures a plugin asks for.
#[derive(Clone, Debug)]
pub struct SampleRequest {
    /// Which weights.
    pub model: Model,
    /// How many.
    pub count: usize,
    /// Number of the first one: picture `i` depends on the seed and on `first + i` alone.
    pub first: u64,
    /// How many at a time, at least 1.
    pub batch_size: usize,
    /// A class for each; `None` is unconditional.
    pub class_labels: Option<Vec<u32>>,
    /// A caption for each.
    pub captions: Option<Vec<String>>,
    /// Denoising steps, at least 1.
    pub steps: usize,
    /// Scale of classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Seed.
    pub seed: u64,
    /// `ddpm`, `ddim`, `dpm++` or `euler`.
    pub sampler: String,
    /// Whether to decode: pictures if so, latents if not.
    pub decode: bool,
    /// What to call the work in the progress bar; `None` shows none.
    pub label: Option<String>,
    /// More inputs of the model.
    pub batch: Batch,
}

/// A file of the result that a plugin declares. Paths are relative to the run's `adapter/` folder and stay within it.
#[derive(Clone, Debug)]
pub struct AdapterFile {
    /// Its path; ends in `.safetensors`.
    pub file: String,
    /// What it holds, under the format's names; at least one.
    pub tensors: BTreeMap<String, Tensor>,
    /// The shapes in which the format wants tensors that are kept in another, by name.
    pub shapes: BTreeMap<String, Vec<usize>>,
    /// Texts of its header.
    pub metadata: BTreeMap<String, String>,
    /// Text files that belong to it: path and content.
    pub texts: BTreeMap<String, String>,
}

impl AdapterFile {
    /// Whether it is a network of its own, such as a ControlNet, under the name that diffusers gives a model's weights: not something to merge.
    pub fn is_network(&self) -> bool {
        self.file.rsplit('/').next() == Some("diffusion_pytorch_model.safetensors")
    }

    /// The tensors as the file holds them: each in the shape that the format wants.
    ///
    /// # Errors
    /// A shape of another number of elements.
    pub fn written(&self) -> candle_core::Result<BTreeMap<String, Tensor>> {
        let shaped = |(name, tensor): (&String, &Tensor)| {
            let tensor = match self.shapes.get(name) {
                Some(shape) => tensor.reshape(shape.as_slice())?,
                None => tensor.clone(),
            };
            Ok((name.clone(), tensor))
        };
        self.tensors.iter().map(shaped).collect()
    }
}

/// An adapter file as a plugin gets it.
#[derive(Clone, Debug, Default)]
pub struct AdapterRead {
    /// What it holds for each layer of the backbone, in the backbone's order.
    pub layers: Vec<LayerUpdate>,
    /// Keys for the denoiser that fit no layer.
    pub unmatched: Vec<String>,
    /// How many keys are for another part of a pipeline.
    pub other_parts: usize,
}

/// A copy of backbone blocks that a plugin asks for.
#[derive(Clone, Debug)]
pub struct CopyRequest {
    /// Its parameters are called `PLUGIN.NAME.KEY`.
    pub name: String,
    /// How many residual sites to cover; `None` is what is usual for the architecture.
    pub sites: Option<usize>,
    /// Whether it trains.
    pub trainable: bool,
    /// Values to begin at, by the backbone's keys; the rest begins at the backbone's own.
    pub values: BTreeMap<String, Tensor>,
}

/// A copy of backbone blocks, as its plugin is told of it.
#[derive(Clone, Debug)]
pub struct BlockCopyInfo {
    /// Its number.
    pub copy: u64,
    /// For each covered site, its number among the backbone's residual sites.
    pub sites: Vec<usize>,
    /// For each covered site, the channels or features of its output.
    pub features: Vec<usize>,
    /// Shape of the input embedding without the batch.
    pub hint: Vec<usize>,
    /// Its parameters by the backbone's keys.
    pub parameters: BTreeMap<String, Tensor>,
    /// The `config.json` of the backbone.
    pub config: String,
}

/// What a model folder or a weights file holds.
#[derive(Clone, Debug, Default)]
pub struct WeightsRead {
    /// Tensors by the names they are stored under.
    pub tensors: BTreeMap<String, Tensor>,
    /// The configuration beside them.
    pub config: Option<String>,
}

/// A cache folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFolder {
    /// Where it is: final if complete, else a staging folder to fill.
    pub path: PathBuf,
    /// Whether its content is complete.
    pub complete: bool,
}

macro_rules! services {
    ($($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),*) -> $out:ty;)*) => {
        /// What a session offers to plugins. What an implementation leaves out is answered with a refusal.
        pub trait Services {
            $(
                $(#[$meta])*
                ///
                /// # Errors
                /// What cannot be done, in one sentence for the plugin's author.
                fn $name(&self, caller: &Caller<'_>, $($arg: $ty),*) -> Answer<$out> {
                    $(let _ = $arg;)*
                    Err(not_now(caller, stringify!($name)))
                }
            )*
        }
    };
}

fn not_now(caller: &Caller<'_>, service: &str) -> Error {
    let when = caller
        .slot
        .map_or("while the plugin is built".to_owned(), |slot| {
            format!("in `{slot}`")
        });
    Error::msg(format!("the host does not offer `{service}` {when}"))
}

services! {
    /// A trainable f32 parameter of the plugin: made on the first call, the same tensor on every later one. It is updated in
    /// place, so the tensor stays current.
    fn parameter(request: ParameterRequest) -> Tensor;
    /// A tensor in place of a backbone weight; `value` `None` is a copy of the frozen one.
    fn stand_in(name: &str, value: Option<Tensor>, trainable: bool) -> Tensor;
    /// A weight of the frozen backbone, without gradient.
    fn weight(name: &str) -> Tensor;
    /// A weight of the backbone as the current model has it: its stand-in where there is one.
    fn current_weight(name: &str) -> Tensor;
    /// Numbers of the plugin's own random stream; [`Draw::take`] draws them.
    fn random(draw: Draw, shape: &[usize]) -> Tensor;
    /// Pictures `[B, 3, H, W]` to latents `[B, C, h, w]`, with gradients.
    fn encode(images: &Tensor) -> Tensor;
    /// Latents `[B, C, h, w]` to pictures `[B, 3, H, W]`, with gradients.
    fn decode(latents: &Tensor) -> Tensor;
    /// Captions to conditioning tensors.
    fn encode_texts(texts: Vec<String>) -> Batch;
    /// The network's prediction `[B, C, H, W]`, without learned variance. [`Model::Frozen`] is the teacher.
    fn denoise(model: Model, latents: &Tensor, timesteps: &Tensor, batch: &Batch) -> Tensor;
    /// Pictures `[count, 3, H, W]` f32 in -1..1, or latents; no gradients.
    fn sample(request: SampleRequest) -> Tensor;
    /// A copy of the blocks that lead up to the backbone's first residual sites.
    fn copy_blocks(request: CopyRequest) -> BlockCopyInfo;
    /// A pass through such a copy: its output at each covered site.
    fn run_blocks(copy: u64, latents: &Tensor, timesteps: &Tensor, batch: &Batch, hint: Option<&Tensor>) -> Vec<Tensor>;
    /// The cache folder of a key; the host adds the plugin's id and the backbone's fingerprint to it.
    fn cache_open(key: &str) -> CacheFolder;
    /// A filled staging folder made permanent.
    fn cache_commit(key: &str, path: PathBuf) -> CacheFolder;
    /// What the backbone is.
    fn backbone() -> BackboneInfo;
    /// The backbone's adaptable layers, in the order of their numbers.
    fn layers() -> Vec<LayerInfo>;
    /// Names and shapes of the backbone's parameters.
    fn parameters() -> Vec<(String, Vec<usize>)>;
    /// What the diffusion process is.
    fn process() -> ProcessInfo;
    /// A formula of the process; `timesteps` `[B]`.
    fn formula(formula: Formula, a: &Tensor, b: &Tensor, timesteps: &Tensor) -> Tensor;
    /// Signal-to-noise ratio at `timesteps`, `[B]` f32.
    fn snr(timesteps: &Tensor) -> Tensor;
    /// What the run is.
    fn run() -> RunInfo;
    /// A number of this step, to be recorded as `plugin/<name>/<metric>`.
    fn metric(name: &str, value: f64) -> ();
    /// How far a long task is; [`Error::Cancelled`] when the user wants to stop.
    fn progress(done: u64, total: u64, label: &str) -> ();
    /// A file for the run folder; `name` has no folders in it.
    fn artifact(name: &str, content: Vec<u8>) -> ();
    /// A file of the result in a format that others read.
    fn adapter(file: AdapterFile) -> ();
    /// What an adapter file holds for the backbone's layers.
    fn read_adapter(path: PathBuf) -> AdapterRead;
    /// The tensors of a model folder or a weights file, without gradient.
    fn read_weights(path: PathBuf) -> WeightsRead;
    /// A request to end training after this step.
    fn stop(reason: &str) -> ();
}

/// A session that offers nothing: for inspecting and testing plugins outside of a run.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoServices;

impl Services for NoServices {}
