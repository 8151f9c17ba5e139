//! Samples of a run: the same seeds and classes before, during and after training, so that they can stand side by side.

mod hooks;

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use plugin_api::Phase;

use crate::backbone::{CLASS_LABELS, Input, Overlay, Pass};
use crate::config::SampleSection;
use crate::data::{Batch, Size};
use crate::ops::autograd::no_grad;
use crate::plugin::stack::{NetworkInput, OutputPicture};
use crate::sample::{
    Guidance, Half, NetworkPass, NoHooks, Request, Rows, SampleHooks, Sampler, generate,
};

pub(super) use hooks::plain;
use hooks::{Hooks, Shared, decoded};

use super::conditioning::set_captions;
use super::{Error, Session};

/// What to draw, but for the weights.
#[derive(Clone, Debug)]
pub struct Drawing {
    /// How.
    pub sampler: Sampler,
    /// Guidance.
    pub guidance: Guidance,
    /// One seed an image.
    pub seeds: Vec<u64>,
    /// One class an image; the null class draws unconditionally.
    pub classes: Vec<u32>,
    /// One text an image; an empty one draws unconditionally.
    pub prompts: Vec<String>,
    /// What guidance leads away from, in words; empty for no text.
    pub negative: String,
    /// Images at a time.
    pub batch_size: usize,
    /// What the progress bar calls it; none without a bar.
    pub label: Option<String>,
    /// What else plugins find in the bag of `sample_begin`; one row an image.
    pub inputs: Batch,
}

/// What there is to draw where a `[sample]` section does not say.
#[derive(Clone, Debug, Default)]
pub struct Subjects {
    /// Classes, in turn.
    pub classes: Vec<u32>,
    /// Captions, in turn.
    pub captions: Vec<String>,
}

impl Drawing {
    /// What a `[sample]` section asks of a run's network; the subjects are drawn in turn where the section names none, no class or text at all draws
    /// unconditionally.
    pub fn new(
        section: &SampleSection,
        subjects: &Subjects,
        label: &str,
        session: &Session,
    ) -> Self {
        let null = session.backbone.info().null_class();
        let classes = section.classes.as_deref().unwrap_or(&subjects.classes);
        let class = |image: usize| in_turn(classes, image).unwrap_or(null);
        let prompts = section.prompts.as_deref().unwrap_or(&subjects.captions);
        let prompt = |image: usize| in_turn(prompts, image).unwrap_or_default();
        let guidance = match (section.domain_guidance, section.guidance) {
            (true, scale) => Guidance::Domain { scale },
            (false, 1.0) => Guidance::Off,
            (false, scale) => Guidance::ClassifierFree { scale },
        };
        Self {
            sampler: Sampler {
                spacing: section.spacing,
                eta: section.eta,
                ..Sampler::new(section.sampler, section.steps)
            },
            guidance,
            seeds: (0..section.count as u64)
                .map(|image| section.seed.wrapping_add(image))
                .collect(),
            classes: (0..section.count).map(class).collect(),
            prompts: (0..section.count).map(prompt).collect(),
            negative: section.negative.clone(),
            batch_size: section.batch_size,
            label: Some(label.to_owned()),
            inputs: Batch::default(),
        }
    }
}

/// The entry that is an image's when entries are taken in turn.
fn in_turn<T: Clone>(all: &[T], image: usize) -> Option<T> {
    all.get(image % all.len().max(1)).cloned()
}

/// Which weights a pass uses.
#[derive(Clone, Debug)]
pub enum Weights {
    /// The pretrained backbone alone.
    Frozen,
    /// The backbone with these stand-ins, and with the plugins' layers and residuals.
    Current(Overlay),
}

impl Weights {
    /// The network's output for `input`, learned variance included, `[B, C or 2C, H, W]`. Its conditioning is the batch of `at`: what the network reads by name, and
    /// of what is missing no class, the captions, and the images' own sizes. No gradients for the frozen weights.
    ///
    /// # Errors
    /// Inputs that do not fit, or a plugin that fails.
    pub fn forward(
        &self,
        session: &Session,
        input: &Tensor,
        at: &NetworkInput<'_>,
        step: u64,
        phase: Phase,
    ) -> Result<Tensor, Error> {
        let (count, _, height, width) = input.dims4()?;
        let conditioning = session.conditioning(at.batch, count, Size { height, width })?;
        let asked = Input {
            latents: input,
            timesteps: at.timesteps,
            conditioning: &conditioning,
        };
        let Self::Current(overlay) = self else {
            return Ok(session.backbone.forward(&asked, &Pass::frozen())?);
        };
        let stack = session.stack()?;
        let scene = session.scene(step, phase);
        let sites = session.backbone.info().residual_sites;
        let residuals = stack.residuals(&scene, at, input, sites)?;
        let hook = stack.layer_hook(scene);
        session.forward(&asked, overlay, hook.as_ref(), residuals.as_deref(), None)
    }
}

/// Draws latents `[N, C, H, W]` as the weights have it, with the plugins' hooks for the current ones; for a pixel-space model images, clamped to
/// `-1..=1`. Nothing is shown to the slot `output`: that is for what a user gets to see.
///
/// # Errors
/// A drawing the process or the backbone cannot serve, a plugin that fails, or an interruption.
pub fn draw_latents(
    session: &Session,
    weights: &Weights,
    drawing: &Drawing,
) -> Result<Tensor, Error> {
    let shared = Shared::new(session);
    match weights {
        Weights::Frozen => draw(&shared, weights, drawing, &mut NoHooks),
        Weights::Current(_) => {
            let mut hooks = Hooks {
                shared: &shared,
                drawing,
                pictures: None,
            };
            draw(&shared, weights, drawing, &mut hooks)
        }
    }
}

/// Draws the pictures to keep: one entry a kind, each of all images. They are what the plugin at the slot `output` makes of the images; without one,
/// and for the pretrained backbone alone, the images.
///
/// # Errors
/// As [`draw_latents`].
pub fn draw_pictures(
    session: &Session,
    weights: &Weights,
    drawing: &Drawing,
) -> Result<Vec<OutputPicture>, Error> {
    let shared = Shared::new(session);
    if let Weights::Frozen = weights {
        let latents = draw(&shared, weights, drawing, &mut NoHooks)?;
        return Ok(vec![plain(decoded(session, &latents)?)]);
    }
    let mut batches = Vec::new();
    let mut hooks = Hooks {
        shared: &shared,
        drawing,
        pictures: Some(&mut batches),
    };
    draw(&shared, weights, drawing, &mut hooks)?;
    joined(batches)
}

/// The batches' pictures of one kind as one.
fn joined(batches: Vec<OutputPicture>) -> Result<Vec<OutputPicture>, Error> {
    let mut whole: Vec<OutputPicture> = Vec::new();
    for part in batches {
        let same =
            |one: &&mut OutputPicture| (&one.kind, one.encoding) == (&part.kind, part.encoding);
        match whole.iter_mut().find(same) {
            Some(one) => one.images = Tensor::cat(&[&one.images, &part.images], 0)?,
            None => whole.push(part),
        }
    }
    Ok(whole)
}

fn draw(
    shared: &Shared<'_>,
    weights: &Weights,
    drawing: &Drawing,
    hooks: &mut dyn SampleHooks,
) -> Result<Tensor, Error> {
    let session = shared.session;
    let info = session.backbone.info();
    let device = session.backbone.device().clone();
    let told = |classes: Vec<u32>, prompts: &[String]| -> Result<Rows, Error> {
        let mut batch = Batch::default();
        let count = classes.len();
        let labels = Tensor::new(classes, &device)?;
        batch.tensors.insert(CLASS_LABELS.to_owned(), labels);
        set_captions(&mut batch, prompts);
        let size = Size::square(info.sample_size);
        Ok(session.conditioning(&batch, count, size)?.tensors)
    };
    let request = Request {
        seeds: drawing.seeds.clone(),
        shape: (
            session.encoder.latent_channels(),
            info.sample_size,
            info.sample_size,
        ),
        conditioning: told(drawing.classes.clone(), &drawing.prompts)?,
        unconditional: told(
            vec![info.null_class()],
            std::slice::from_ref(&drawing.negative),
        )?,
        sampler: drawing.sampler.clone(),
        guidance: drawing.guidance,
        batch_size: drawing.batch_size,
        pixels: session.encoder.is_pixels(),
        device: device.clone(),
    };
    let pass = |weights: &Weights, asked: &NetworkPass<'_>| {
        let at = NetworkInput {
            batch: &shared.bag_of(asked.conditioning),
            noisy_latents: asked.input,
            timesteps: asked.timesteps,
            latents: None,
            unconditional: asked.half == Half::Unconditional,
        };
        let step = session.step.get();
        let output = weights.forward(session, asked.input, &at, step, Phase::SAMPLE);
        shared.told(output.map(|output| output.detach()))
    };
    let mut task = drawing.label.as_ref().map(|label| {
        session
            .progress
            .count(label, "image", drawing.seeds.len() as u64)
    });
    // Sampling is never differentiated: without records, each activation is freed as soon as the next is there.
    let images = no_grad(|| {
        generate(
            &session.process,
            &request,
            &mut |asked| pass(weights, asked),
            Some(&mut |asked| pass(&Weights::Frozen, asked)),
            hooks,
            &mut |at| {
                if let Some(task) = &mut task {
                    task.set((drawing.seeds.len() * at.done / at.total.max(1)) as u64);
                }
                if session.cancel.requested() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            },
        )
    });
    let images = match (images, shared.failed.take()) {
        (Ok(images), _) => images,
        (Err(_), Some(error)) => return Err(error),
        (Err(error), None) => return Err(error.into()),
    };
    if let Some(task) = task {
        task.finish();
    }
    Ok(images.to_dtype(DType::F32)?)
}
