//! ControlNet (Zhang, Rao, Agrawala; ICCV 2023; arXiv 2302.05543): spatial control of a frozen backbone.
//!
//! A trainable copy of the backbone's first blocks gets the same input with an embedded hint picture added; what comes out of each of its blocks goes
//! through a layer that begins at zero and is added to the backbone's activations. So step 0 is the pretrained model exactly, whatever the hint.
//!
//! For a UNet the copy is its encoder and middle, as in the paper; for a DiT its first blocks with a linear layer after each, as the
//! ControlNet-Transformer of PixArt-delta (arXiv 2401.05252, section 3.3).

#![deny(unsafe_code)]

mod embedding;
mod files;
mod hints;
mod maker;
mod settings;
mod start;

use plugin_api::hooks::{
    BatchHook, PrepareHook, ResidualsHook, ResidualsIn, SampleBegin, SampleBeginHook,
};
use plugin_api::{
    Batch, BlockCopy, Conv2d, DType, Error, Host, Init, Plugin, Result, Tensor, bail, export_plugin,
};
use serde_json::json;

use embedding::{Embedding, Form, Plan};
use files::Facts;
use hints::Hints;
use maker::Maker;
pub use settings::{Canny, ChannelOrder, ControlnetSettings, Source};
use start::Start;

/// Under which name the copied blocks' parameters are saved.
const COPY: &str = "copy";

/// The plugin.
pub struct Controlnet {
    settings: ControlnetSettings,
    hints: Hints,
    /// Made by `prepare`.
    net: Option<Net>,
}

/// The trained network.
struct Net {
    copy: BlockCopy,
    embedding: Embedding,
    /// One a covered site, in order.
    zeros: Vec<Zero>,
    /// How many residual sites the backbone has.
    sites: usize,
    /// How many pixels of a picture make one of its latents, across or down.
    factor: usize,
}

/// A layer that begins at zero, behind each copied block: linear for tokens, a 1x1 convolution for maps.
struct Zero {
    weight: Tensor,
    bias: Tensor,
}

impl Zero {
    fn make(maker: &mut Maker<'_>, name: &str, form: Form, features: usize) -> Result<Self> {
        let shape = match form {
            Form::Tokens => vec![features, features],
            Form::Map => vec![features, features, 1, 1],
        };
        Ok(Self {
            weight: maker.parameter(&format!("{name}.weight"), &shape, Init::Zeros)?,
            bias: maker.parameter(&format!("{name}.bias"), &[features], Init::Zeros)?,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = x.to_dtype(DType::F32)?;
        match self.weight.rank() {
            2 => x.linear(&self.weight, Some(&self.bias)), // [B, T, D]
            _ => x.conv2d(&self.weight, Some(&self.bias), Conv2d::default()), // [B, C, h, w]
        }
    }
}

impl Plugin for Controlnet {
    type Settings = ControlnetSettings;
    const ID: &'static str = "controlnet";
    const SUMMARY: &'static str =
        "Follow a hint picture by a trainable copy of the backbone's first blocks";
    // Hints belong to the images as they are in the end.
    const AFTER: &'static [&'static str] = &["diff_tuning", "one_pic"];

    fn build(settings: ControlnetSettings, host: &Host) -> Result<Self> {
        settings.check()?;
        let hints = Hints::new(&settings);
        if let Some(columns) = host.run()?.columns {
            hints.check(&columns)?;
        }
        Ok(Self {
            settings,
            hints,
            net: None,
        })
    }
}

impl PrepareHook for Controlnet {
    fn prepare(&mut self, host: &Host) -> Result<()> {
        let settings = &self.settings;
        let backbone = host.backbone()?;
        let unet = backbone.architecture == "unet";
        if let Some(blocks) = settings.blocks.filter(|_| unet) {
            bail!(
                "`blocks` is {blocks}, but the backbone is a UNet, whose encoder is copied whole: leave it out"
            );
        }
        let start = match &settings.from {
            // Later on, the parameters' values are the checkpoint's.
            Some(path) if host.step() == 0 => Some(Start::read(path, host)?),
            _ => None,
        };
        let values = start.as_ref().map(Start::copied).unwrap_or_default();
        let begun = values.keys().cloned().collect::<Vec<_>>();
        let copy = host
            .copy_blocks_from(COPY, settings.blocks, values)
            .map_err(|error| match &start {
                Some(start) => Error::msg(format!("{}: {error}", start.path.display())),
                None => error,
            })?;
        let factor = backbone.image_size / backbone.sample_size.max(1);
        let (form, features, shrink) = match *copy.hint.as_slice() {
            [tokens, features] => {
                let patch = backbone.sample_size / tokens.isqrt().max(1);
                (Form::Tokens, features, factor * patch)
            }
            [channels, ..] => (Form::Map, channels, factor),
            [] => bail!("the host says nothing of the shape of the backbone's embedded input"),
        };
        let plan = Plan::new(form, shrink, settings.embedding_channels.as_deref())?;
        let facts = Facts {
            backbone: &copy.config,
            unet,
            blocks: copy.sites.len(),
            channels: &plan.channels,
            order: settings.channel_order.name(),
        };
        if let Some(start) = &start {
            start.check(&[
                (
                    "channel_order",
                    "controlnet_conditioning_channel_order",
                    json!(facts.order),
                ),
                (
                    "embedding_channels",
                    "conditioning_embedding_out_channels",
                    json!(facts.channels),
                ),
                ("blocks", "copied_blocks", json!(facts.blocks)),
            ])?;
            if let Some(missing) = copy.parameters.keys().find(|name| !begun.contains(name)) {
                start.get(missing)?;
            }
        }
        let mut maker = Maker {
            host,
            start: start.as_ref(),
            made: copy.parameters.clone(),
        };
        let embedding = Embedding::make(&mut maker, &plan, form, features, settings.channel_order)?;
        let last = copy.features.len().saturating_sub(1);
        let zeros = copy.features.iter().enumerate().map(|(site, &features)| {
            let name = match unet {
                false => format!("controlnet_blocks.{site}"),
                true if site == last => "controlnet_mid_block".to_owned(),
                true => format!("controlnet_down_blocks.{site}"),
            };
            Zero::make(&mut maker, &name, form, features)
        });
        let zeros = zeros.collect::<Result<Vec<_>>>()?;
        maker.finish()?;
        host.adapter(facts.file(&maker.made)?)?;
        let count: usize = maker.made.values().map(Tensor::elem_count).sum();
        tracing::info!(
            "a copy of the backbone up to {} of its {} residual sites, {count} parameters; hints are {}",
            copy.sites.len(),
            backbone.residual_sites,
            self.hints.described()
        );
        self.net = Some(Net {
            sites: backbone.residual_sites,
            copy,
            embedding,
            zeros,
            factor,
        });
        Ok(())
    }
}

impl Controlnet {
    fn net(&self) -> Result<&Net> {
        self.net
            .as_ref()
            .ok_or_else(|| Error::msg("the ControlNet is not prepared yet"))
    }
}

impl Net {
    /// The batch's name for something of this ControlNet; a run may have several.
    fn name(&self, part: &str) -> String {
        format!("controlnet.{}.{part}", self.copy.number())
    }

    /// What is added to the embedded input for `pictures` `[B, 3, H, W]`: nothing where `present` `[B]` is 0.
    fn embed(&self, pictures: &Tensor, present: Option<&Tensor>) -> Result<Tensor> {
        let embedded = self.embedding.forward(pictures)?;
        match present {
            Some(present) => embedded.broadcast_mul(&present.per_sample(embedded.rank())?),
            None => Ok(embedded),
        }
    }
}

impl BatchHook for Controlnet {
    /// Adds the hints, `controlnet.N.hint` `[B, 3, H, W]` in 0..1, and which samples have one, `controlnet.N.present` `[B]`.
    fn batch(&mut self, mut batch: Batch, host: &Host) -> Result<Batch> {
        let net = self.net()?;
        let pictures = self.hints.pictures(&batch, host)?;
        let count = pictures.dim(0)?;
        let mut present = self.hints.present(&batch, count)?;
        if self.settings.dropout > 0.0 {
            let draws = host.random().uniform([count])?.to_vec::<f32>()?;
            for (present, draw) in present.iter_mut().zip(draws) {
                if f64::from(draw) < self.settings.dropout {
                    *present = 0.0;
                }
            }
        }
        batch.set(net.name("hint"), pictures);
        batch.set(
            net.name("present"),
            Tensor::from_slice(&present, [count], host)?,
        );
        Ok(batch)
    }
}

impl SampleBeginHook for Controlnet {
    /// Embeds the hints once for all steps, and gives the pictures the hints' size.
    fn sample_begin(&mut self, mut begin: SampleBegin, host: &Host) -> Result<SampleBegin> {
        if self.settings.strength == 0.0 {
            return Ok(begin);
        }
        let net = self.net()?;
        let pictures = self.hints.pictures(&begin.batch, host)?;
        let [_, _, height, width] = pictures.dims_n::<4>()?;
        if !height.is_multiple_of(net.factor) || !width.is_multiple_of(net.factor) {
            bail!(
                "hints of {height}x{width} (height x width) do not divide into latents: both sides must be multiples of {}; set data.size",
                net.factor
            );
        }
        begin.latents = sized(
            &begin.latents,
            height / net.factor,
            width / net.factor,
            host,
        )?;
        begin
            .batch
            .set(net.name("embedded"), net.embed(&pictures, None)?);
        Ok(begin)
    }
}

/// Noise of another size: a part of what was drawn, or more of its kind.
fn sized(noise: &Tensor, height: usize, width: usize, host: &Host) -> Result<Tensor> {
    let [count, channels, high, wide] = noise.dims_n::<4>()?;
    if height <= high && width <= wide {
        // A part of independent noise is independent noise.
        return noise.narrow(2, 0, height)?.narrow(3, 0, width);
    }
    // The sampler's own scale.
    let scale = noise
        .to_dtype(DType::F32)?
        .sqr()?
        .mean_all()?
        .to_scalar::<f32>()?
        .sqrt();
    let fresh = host.random().normal([count, channels, height, width])?;
    fresh.affine(f64::from(scale), 0.0)?.to_dtype(noise.dtype())
}

impl ResidualsHook for Controlnet {
    fn residuals(&mut self, at: &ResidualsIn, host: &Host) -> Result<Vec<Option<Tensor>>> {
        let net = self.net()?;
        let strength = match host.is_training() {
            true => 1.0,
            false => self.settings.strength,
        };
        let mut residuals = vec![None; net.sites];
        if strength == 0.0 {
            return Ok(residuals);
        }
        let embedded = match at.batch.tensors.get(&net.name("embedded")) {
            Some(embedded) => embedded.clone(),
            None => {
                let pictures = match at.batch.tensors.get(&net.name("hint")) {
                    Some(pictures) => pictures.clone(),
                    None => self.hints.pictures(&at.batch, host)?,
                };
                net.embed(&pictures, at.batch.tensors.get(&net.name("present")))?
            }
        };
        let states =
            net.copy
                .forward(&at.input, &at.timesteps, &at.batch, Some(&embedded), host)?;
        for ((&site, state), zero) in net.copy.sites.iter().zip(&states).zip(&net.zeros) {
            let residual = zero.forward(state)?;
            residuals[site] = Some(match strength {
                1.0 => residual,
                strength => residual.affine(strength, 0.0)?,
            });
        }
        Ok(residuals)
    }
}

export_plugin!(Controlnet: Prepare, Batch, SampleBegin, Residuals);
