//! The sampling loop.

use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};

use candle_core::{DType, Device, Result as TensorResult, Tensor};

use super::{Error, Guidance, Sampler, Step, guidance::guide};
use crate::diffusion::Process;
use crate::random::Stream;

/// Conditioning tensors by name, such as `class_labels`; their leading dimension counts images.
pub type Rows = BTreeMap<String, Tensor>;

/// A network: data `[N, C, H, W]`, timesteps `[N]` f32 and conditioning of `N` rows to its output `[N, C, H, W]` (`[N, 2C, H, W]` with
/// learned variance).
pub type Denoise<'a> = dyn FnMut(&Tensor, &Tensor, &Rows) -> TensorResult<Tensor> + 'a;

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
    /// Images at a time, at least 1. Under classifier-free guidance the network sees twice as many.
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

/// Where in the loop a hook is called.
#[derive(Clone, Debug)]
pub struct Moment<'a> {
    /// Which images of the request the batch holds.
    pub images: Range<usize>,
    /// Their conditioning.
    pub conditioning: &'a Rows,
    /// The step, from 0.
    pub index: usize,
    /// The timesteps of all steps, from the noise to the data.
    pub timesteps: &'a [f32],
    /// The timestep that the network is told at this step.
    pub timestep: f32,
}

/// Where plugins take part in sampling. Latents are `[B, C, H, W]`, f32, at the scale of the process whatever the sampler.
pub trait SampleHooks {
    /// The latents to start from, given noise.
    ///
    /// # Errors
    /// The hook's own; sampling stops.
    fn begin(&mut self, _moment: &Moment<'_>, latents: Tensor) -> TensorResult<Tensor> {
        Ok(latents)
    }

    /// What the network sees in place of the latents; it may have more channels.
    ///
    /// # Errors
    /// The hook's own; sampling stops.
    fn denoiser_input(&mut self, _moment: &Moment<'_>, latents: &Tensor) -> TensorResult<Tensor> {
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
    for first in (0..images).step_by(request.batch_size) {
        let range = first..images.min(first + request.batch_size);
        let conditioning = rows(&request.conditioning, &range)?;
        let mut scheduler = request.sampler.build(process)?;
        let timesteps = scheduler.timesteps().to_vec();
        total = batches * timesteps.len();
        let mut moment = Moment {
            images: range.clone(),
            conditioning: &conditioning,
            index: 0,
            timesteps: &timesteps,
            timestep: timesteps[0],
        };
        let mut streams: Vec<Stream> = request.seeds[range.clone()]
            .iter()
            .map(|&seed| Stream::new(seed, "sample"))
            .collect();
        let start = (noise(&mut streams, request)? * scheduler.init_noise_sigma())?;
        let mut latents = hooks.begin(&moment, start)?; // [B, C, H, W]
        for (index, &timestep) in timesteps.iter().enumerate() {
            let now = Progress {
                done,
                total,
                images: first,
            };
            if progress(now).is_break() {
                return Err(Error::Interrupted);
            }
            (moment.index, moment.timestep) = (index, timestep);
            let input = hooks.denoiser_input(&moment, &latents)?;
            let (prediction, variance) = predict(
                process,
                request,
                denoise,
                pretrained.as_deref_mut(),
                &moment,
                &input,
            )?;
            let fresh = match scheduler.uses_noise(index) {
                true => Some(noise(&mut streams, request)?),
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
        finished.push(match request.pixels {
            true => latents.clamp(-1.0, 1.0)?,
            false => latents,
        });
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

/// The guided prediction and the conditional variance, each `[B, C, H, W]`.
fn predict(
    process: &Process,
    request: &Request,
    denoise: &mut Denoise<'_>,
    pretrained: Option<&mut Denoise<'_>>,
    moment: &Moment<'_>,
    input: &Tensor,
) -> Result<(Tensor, Option<Tensor>), Error> {
    let count = moment.images.len();
    let conditional = moment.conditioning;
    let times = |count: usize| Tensor::full(moment.timestep, count, &request.device);
    let split = |network: &mut Denoise<'_>, input: &Tensor, conditioning: &Rows| {
        let output = network(input, &times(input.dim(0)?)?, conditioning)?.to_dtype(DType::F32)?;
        process.split_variance(&output)
    };
    if !request.guidance.is_active() {
        return Ok(split(denoise, input, conditional)?);
    }
    let unconditional = unconditional(request, conditional, count)?;
    let scale = request.guidance.scale();
    match (request.guidance, pretrained) {
        (Guidance::Domain { .. }, Some(pretrained)) => {
            let (prediction, variance) = split(denoise, input, conditional)?;
            let (without, _) = split(pretrained, input, &unconditional)?;
            Ok((guide(&prediction, &without, scale)?, variance))
        }
        (Guidance::Domain { .. }, None) => Err(Error::NoPretrained),
        _ => {
            let mut both = Rows::new();
            for (name, with) in conditional {
                both.insert(name.clone(), Tensor::cat(&[with, &unconditional[name]], 0)?);
            }
            let (prediction, variance) = split(denoise, &Tensor::cat(&[input, input], 0)?, &both)?; // [2B, C, H, W]
            let guided = guide(
                &prediction.narrow(0, 0, count)?,
                &prediction.narrow(0, count, count)?,
                scale,
            )?;
            let variance = variance
                .map(|variance| variance.narrow(0, 0, count))
                .transpose()?;
            Ok((guided, variance))
        }
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
    let scale = request.guidance.scale();
    if !scale.is_finite() || scale < 0.0 {
        return Err(Error::Scale(scale));
    }
    if request.guidance.is_active() {
        let lacking = |name: &&String| {
            request
                .unconditional
                .get(*name)
                .is_none_or(|tensor| tensor.dims().first() != Some(&1))
        };
        if let Some(name) = request.conditioning.keys().find(lacking) {
            return Err(Error::Unconditional { name: name.clone() });
        }
        if matches!(request.guidance, Guidance::Domain { .. }) && !has_pretrained {
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
            let one = &request.unconditional[name];
            let mut shape = one.dims().to_vec();
            shape[0] = count;
            Ok((name.clone(), one.broadcast_as(shape)?.contiguous()?))
        })
        .collect()
}

/// Fresh noise, each image's from its own stream: `[B, C, H, W]`.
fn noise(streams: &mut [Stream], request: &Request) -> TensorResult<Tensor> {
    let drawn: Vec<Tensor> = streams
        .iter_mut()
        .map(|stream| stream.normal(request.shape, &request.device))
        .collect::<TensorResult<_>>()?;
    Tensor::stack(&drawn, 0)
}
