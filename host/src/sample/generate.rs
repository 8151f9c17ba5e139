//! The sampling loop.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::{Error, Guidance, Sampler, Step, guidance::guide};
use crate::diffusion::Process;
use crate::random::Stream;

/// Conditioning tensors by name, such as `class_labels`; their leading dimension counts images.
pub type Rows = BTreeMap<String, Tensor>;

/// Which of the two predictions that guidance compares; without guidance there is the conditional one alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    /// What was asked for.
    Conditional,
    /// The same without it.
    Unconditional,
}

/// One pass of the network.
#[derive(Clone, Copy, Debug)]
pub struct NetworkPass<'a> {
    /// What the network sees, `[B, C, H, W]`.
    pub input: &'a Tensor,
    /// The timestep it is told, `[B]` f32.
    pub timesteps: &'a Tensor,
    /// Its conditioning, `B` rows: of its half.
    pub conditioning: &'a Rows,
    /// Which half.
    pub half: Half,
}

/// A network: its output is `[B, C, H, W]` (`[B, 2C, H, W]` with learned variance).
pub type Denoise<'a> = dyn FnMut(&NetworkPass<'_>) -> TensorResult<Tensor> + 'a;

/// What to sample.
#[derive(Clone, Debug)]
pub struct Request {
    /// One seed an image. An image depends on its own seed and conditioning, not on the others or on the batch size.
    pub seeds: Vec<u64>,
    /// Channels, height and width of the data the network denoises.
    pub shape: (usize, usize, usize),
    /// Conditioning, one row an image.
    pub conditioning: Rows,
    /// The unconditional form of each conditioning tensor, one row; needed for guidance only.
    pub unconditional: Rows,
    /// The sampler.
    pub sampler: Sampler,
    /// Guidance.
    pub guidance: Guidance,
    /// Images at a time, at least 1.
    pub batch_size: usize,
    /// Whether the data are pixels, to be clamped to `-1..=1` at the end.
    pub pixels: bool,
    /// Where to sample.
    pub device: Device,
}

/// How far sampling is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Steps taken, over all batches.
    pub done: usize,
    /// Steps to take.
    pub total: usize,
    /// Images finished.
    pub images: usize,
}

/// How a batch of images begins. A hook may change all of it, but for the number of images and of channels.
#[derive(Clone, Debug)]
pub struct Begin {
    /// The latents to start from, `[B, C, H, W]`: noise of the scheduler's first level, which does not follow when the timesteps change.
    pub latents: Tensor,
    /// The timesteps to visit; those of the sampler may repeat, any others must fall strictly.
    pub timesteps: Vec<f32>,
    /// Guidance scale; 1 is none.
    pub scale: f64,
    /// Conditioning, by the names that the request has.
    pub conditioning: Rows,
}

/// Where in the loop a hook is called.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    /// Which images of the request the batch holds.
    pub images: Range<usize>,
    /// The step, from 0.
    pub index: usize,
    /// The timesteps of all steps, from the noise to the data.
    pub timesteps: &'a [f32],
    /// The timestep that the network is told at this step.
    pub timestep: f32,
}

/// Where plugins take part in sampling. Latents are `[B, C, H, W]`, f32, at the scale of the process whatever the sampler.
pub trait SampleHooks {
    /// How the batch of these images begins.
    ///
    /// # Errors
    /// The hook's own; sampling stops.
    fn begin(&mut self, _images: &Range<usize>, begin: Begin) -> TensorResult<Begin> {
        Ok(begin)
    }

    /// What the network sees in place of the latents; it may have more channels. `conditioning` is that of the half.
    ///
    /// # Errors
    /// The hook's own; sampling stops.
    fn denoiser_input(
        &mut self,
        _moment: &Moment<'_>,
        _half: Half,
        _conditioning: &Rows,
        latents: &Tensor,
    ) -> TensorResult<Tensor> {
        Ok(latents.clone())
    }

    /// The latents after a step that went by `prediction` (guidance included) from the latents `before` it.
    ///
    /// # Errors
    /// The hook's own; sampling stops.
    fn step(
        &mut self,
        _moment: &Moment<'_>,
        _prediction: &Tensor,
        _before: &Tensor,
        latents: Tensor,
    ) -> TensorResult<Tensor> {
        Ok(latents)
    }

    /// These images are done; `latents` are the clean ones, or the images of a network that makes pixels.
    ///
    /// # Errors
    /// The hook's own; sampling stops.
    fn end(&mut self, _images: &Range<usize>, _latents: &Tensor) -> TensorResult<()> {
        Ok(())
    }
}

/// Plain sampling.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoHooks;

impl SampleHooks for NoHooks {}

/// Samples what a request asks for: `[N, C, H, W]`, f32, latents or pixels as the network has them.
///
/// `pretrained` is the network before fine-tuning, for [`Guidance::Domain`]. `progress` is called before every step and once at the end;
/// `Break` ends sampling with [`Error::Interrupted`].
///
/// # Errors
/// A request that makes no sense (see [`Error`]), an interruption, or whatever the network or a hook fails with.
pub fn generate(
    process: &Process,
    request: &Request,
    denoise: &mut Denoise<'_>,
    mut pretrained: Option<&mut Denoise<'_>>,
    hooks: &mut dyn SampleHooks,
    progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Tensor, Error> {
    check(request, pretrained.is_some())?;
    for setting in request.sampler.ignored_settings(process.config()) {
        tracing::warn!(
            "sampler {} ignores {setting} of the scheduler file",
            request.sampler.kind
        );
    }
    let images = request.seeds.len();
    let batches = images.div_ceil(request.batch_size);
    let mut finished = Vec::with_capacity(batches);
    let mut done = 0;
    let mut total = 0;
    for (batch, first) in (0..images).step_by(request.batch_size).enumerate() {
        let range = first..images.min(first + request.batch_size);
        let mut scheduler = request.sampler.build(process)?;
        let mut streams: Vec<Stream> = request.seeds[range.clone()]
            .iter()
            .map(|&seed| Stream::new(seed, "sample"))
            .collect();
        let (channels, height, width) = request.shape;
        let start = noise(&mut streams, (channels, height, width), &request.device)?;
        let planned = Begin {
            latents: (start * scheduler.init_noise_sigma())?,
            timesteps: scheduler.timesteps().to_vec(),
            scale: request.guidance.scale(),
            conditioning: rows(&request.conditioning, &range)?,
        };
        let begun = hooks.begin(&range, planned)?;
        if begun.timesteps != scheduler.timesteps() {
            scheduler = request.sampler.build_along(process, &begun.timesteps)?;
        }
        let guidance = request.guidance.at_scale(begun.scale);
        check_guidance(request, guidance, pretrained.is_some())?;
        let timesteps = begun.timesteps;
        // Plugins may plan each batch otherwise; those to come are taken to be as long as this one.
        total = done + (batches - batch) * timesteps.len();
        let mut guided = Guided {
            process,
            guidance,
            unconditional: match guidance.is_active() {
                true => unconditional(request, &begun.conditioning, range.len())?,
                false => Rows::new(),
            },
            conditioning: begun.conditioning,
            denoise: &mut *denoise,
            pretrained: pretrained.as_deref_mut(),
        };
        let mut latents = begun.latents; // [B, C, H, W]
        let (_, channels, height, width) = latents.dims4()?;
        for (index, &timestep) in timesteps.iter().enumerate() {
            let now = Progress {
                done,
                total,
                images: first,
            };
            if progress(now).is_break() {
                return Err(Error::Interrupted);
            }
            let moment = Moment {
                images: range.clone(),
                index,
                timesteps: &timesteps,
                timestep,
            };
            let (prediction, variance) = guided.predict(&moment, &latents, hooks)?;
            let fresh = match scheduler.uses_noise(index) {
                true => Some(noise(
                    &mut streams,
                    (channels, height, width),
                    &request.device,
                )?),
                false => None,
            };
            let stepped = scheduler.step(&Step {
                index,
                prediction: &prediction,
                variance: variance.as_ref(),
                sample: &latents,
                noise: fresh.as_ref(),
            })?;
            // Sampling is never differentiated; without this the graph of every step would stay in memory.
            latents = hooks
                .step(&moment, &prediction, &latents, stepped)?
                .detach();
            done += 1;
        }
        let latents = match request.pixels {
            true => latents.clamp(-1.0, 1.0)?,
            false => latents,
        };
        hooks.end(&range, &latents)?;
        finished.push(latents);
    }
    let now = Progress {
        done,
        total,
        images,
    };
    // Everything is done: there is nothing left to interrupt.
    let _ = progress(now);
    Ok(Tensor::cat(&finished, 0)?)
}

/// The network of one batch, under guidance.
struct Guided<'a, 'd, 'p> {
    process: &'a Process,
    guidance: Guidance,
    conditioning: Rows,
    /// Empty without guidance.
    unconditional: Rows,
    denoise: &'a mut Denoise<'d>,
    pretrained: Option<&'a mut Denoise<'p>>,
}

impl Guided<'_, '_, '_> {
    /// The guided prediction and the conditional variance, each `[B, C, H, W]`.
    ///
    /// The halves are two passes, so that hooks see each with its own conditioning, and no batch grows in anyone's hands.
    fn predict(
        &mut self,
        moment: &Moment<'_>,
        latents: &Tensor,
        hooks: &mut dyn SampleHooks,
    ) -> TensorResult<(Tensor, Option<Tensor>)> {
        let timesteps = Tensor::full(moment.timestep, latents.dim(0)?, latents.device())?;
        let mut half = |network: &mut Denoise<'_>, half: Half, conditioning: &Rows| {
            let input = hooks.denoiser_input(moment, half, conditioning, latents)?;
            let output = network(&NetworkPass {
                input: &input,
                timesteps: &timesteps,
                conditioning,
                half,
            })?;
            self.process.split_variance(&output.to_dtype(DType::F32)?)
        };
        let (prediction, variance) = half(self.denoise, Half::Conditional, &self.conditioning)?;
        if !self.guidance.is_active() {
            return Ok((prediction, variance));
        }
        let (without, _) = match (self.guidance, &mut self.pretrained) {
            (Guidance::Domain { .. }, Some(pretrained)) => {
                half(pretrained, Half::Unconditional, &self.unconditional)?
            }
            _ => half(self.denoise, Half::Unconditional, &self.unconditional)?,
        };
        Ok((
            guide(&prediction, &without, self.guidance.scale())?,
            variance,
        ))
    }
}

fn check(request: &Request, has_pretrained: bool) -> Result<(), Error> {
    let images = request.seeds.len();
    if images == 0 {
        return Err(Error::NoImages);
    }
    if request.batch_size == 0 {
        return Err(Error::BatchSize);
    }
    for (name, tensor) in &request.conditioning {
        let rows = tensor.dims().first().copied().unwrap_or(0);
        if rows != images {
            return Err(Error::Rows {
                name: name.clone(),
                rows,
                images,
            });
        }
    }
    check_guidance(request, request.guidance, has_pretrained)
}

/// Whether the request has what this guidance needs.
fn check_guidance(
    request: &Request,
    guidance: Guidance,
    has_pretrained: bool,
) -> Result<(), Error> {
    let scale = guidance.scale();
    if !scale.is_finite() || scale < 0.0 {
        return Err(Error::Scale(scale));
    }
    if guidance.is_active() {
        let lacking = |name: &&String| {
            request
                .unconditional
                .get(*name)
                .is_none_or(|tensor| tensor.dims().first() != Some(&1))
        };
        if let Some(name) = request.conditioning.keys().find(lacking) {
            return Err(Error::Unconditional { name: name.clone() });
        }
        if matches!(guidance, Guidance::Domain { .. }) && !has_pretrained {
            return Err(Error::NoPretrained);
        }
    }
    Ok(())
}

/// The rows of some images.
fn rows(all: &Rows, images: &Range<usize>) -> TensorResult<Rows> {
    all.iter()
        .map(|(name, tensor)| Ok((name.clone(), tensor.narrow(0, images.start, images.len())?)))
        .collect()
}

/// The unconditional form of each conditioning tensor, repeated to `count` rows.
fn unconditional(request: &Request, conditional: &Rows, count: usize) -> TensorResult<Rows> {
    conditional
        .keys()
        .map(|name| {
            let Some(one) = request.unconditional.get(name) else {
                candle_core::bail!("conditioning `{name}` has no unconditional form");
            };
            let mut shape = one.dims().to_vec();
            shape[0] = count;
            Ok((name.clone(), one.broadcast_as(shape)?.contiguous()?))
        })
        .collect()
}

/// Fresh noise, each image's from its own stream: `[B, C, H, W]`.
fn noise(
    streams: &mut [Stream],
    shape: (usize, usize, usize),
    device: &Device,
) -> TensorResult<Tensor> {
    let drawn: Vec<Tensor> = streams
        .iter_mut()
        .map(|stream| stream.normal(shape, device))
        .collect::<TensorResult<_>>()?;
    Tensor::stack(&drawn, 0)
}
