//! Samples of a run: the same seeds and classes before, during and after training, so that they can stand side by side.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};
use plugin_api::Phase;

use crate::backbone::{Conditioning, Input, Overlay, Pass};
use crate::config::SampleSection;
use crate::data::Batch;
use crate::plugin::slots::Slot;
use crate::plugin::stack::{NetworkInput, SampleBegin, SampleStep};
use crate::sample::{Guidance, Moment, Request, Rows, SampleHooks, Sampler, generate};

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
    /// Images at a time.
    pub batch_size: usize,
    /// What the progress bar calls it; none without a bar.
    pub label: Option<String>,
}

impl Drawing {
    /// What a `[sample]` section asks for; `classes` are drawn in turn where the section names none, no class at all draws unconditionally.
    pub fn new(section: &SampleSection, classes: &[u32], null_class: u32, label: &str) -> Self {
        let classes = section.classes.as_deref().unwrap_or(classes);
        let class = |image: usize| {
            if classes.is_empty() {
                null_class
            } else {
                classes[image % classes.len()]
            }
        };
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
            batch_size: section.batch_size,
            label: Some(label.to_owned()),
        }
    }
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
    /// The network's output, learned variance included, `[B, C or 2C, H, W]`. No gradients for the frozen weights.
    ///
    /// # Errors
    /// Inputs that do not fit, or a plugin that fails.
    pub fn forward(
        &self,
        session: &Session,
        latents: &Tensor,
        timesteps: &Tensor,
        conditioning: &Conditioning,
        step: u64,
        phase: Phase,
    ) -> Result<Tensor, Error> {
        let input = Input {
            latents,
            timesteps,
            conditioning,
        };
        let Self::Current(overlay) = self else {
            return Ok(session.backbone.forward(&input, &Pass::frozen())?);
        };
        let stack = session.stack()?;
        let scene = session.scene(step, phase);
        let batch = Batch {
            tensors: conditioning.tensors.clone(),
            ..Batch::default()
        };
        let at = NetworkInput {
            batch: &batch,
            noisy_latents: latents,
            timesteps,
            latents: None,
            unconditional: false,
        };
        let residuals =
            stack.residuals(&scene, &at, latents, session.backbone.info().residual_sites)?;
        let hook = stack.layer_hook(scene);
        session.forward(&input, overlay, hook.as_ref(), residuals.as_deref(), None)
    }
}

/// Draws latents `[N, C, H, W]`; for a pixel-space model images, clamped to `-1..=1`.
///
/// # Errors
/// A drawing the process or the backbone cannot serve, a plugin that fails, or an interruption.
pub fn draw(
    session: &Session,
    weights: &Weights,
    drawing: &Drawing,
    hooks: &mut dyn SampleHooks,
) -> Result<Tensor, Error> {
    let info = session.backbone.info();
    let device = session.backbone.device().clone();
    let labels = |labels: Vec<u32>| -> Result<Rows, Error> {
        Ok(Rows::from([(
            "class_labels".to_owned(),
            Tensor::new(labels, &device)?,
        )]))
    };
    let request = Request {
        seeds: drawing.seeds.clone(),
        shape: (info.in_channels, info.sample_size, info.sample_size),
        conditioning: labels(drawing.classes.clone())?,
        unconditional: labels(vec![info.num_classes as u32])?,
        sampler: drawing.sampler.clone(),
        guidance: drawing.guidance,
        batch_size: drawing.batch_size,
        pixels: true,
        device: device.clone(),
    };
    // The sampling loop knows tensor errors only; a plugin's own error waits here.
    let mut failed = None;
    let mut pass = |weights: &Weights, latents: &Tensor, timesteps: &Tensor, rows: &Rows| {
        let conditioning = Conditioning {
            tensors: rows.clone(),
        };
        let output = weights.forward(
            session,
            latents,
            timesteps,
            &conditioning,
            session.step.get(),
            Phase::SAMPLE,
        );
        output
            .map(|output| output.detach())
            .map_err(|error| match error {
                Error::Tensor(error) => error,
                error => {
                    let sentence = candle_core::Error::Msg(error.to_string());
                    failed = Some(error);
                    sentence
                }
            })
    };
    let pass = std::cell::RefCell::new(&mut pass);
    let mut task = drawing.label.as_ref().map(|label| {
        session
            .progress
            .count(label, "image", drawing.seeds.len() as u64)
    });
    let images = generate(
        &session.process,
        &request,
        &mut |latents, timesteps, rows| (pass.borrow_mut())(weights, latents, timesteps, rows),
        Some(&mut |latents, timesteps, rows| {
            (pass.borrow_mut())(&Weights::Frozen, latents, timesteps, rows)
        }),
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
    );
    let images = match (images, failed) {
        (Ok(images), _) => images,
        (Err(_), Some(error)) => return Err(error),
        (Err(error), None) => return Err(error.into()),
    };
    if let Some(task) = task {
        task.finish();
    }
    Ok(images.to_dtype(DType::F32)?)
}

/// Draws images `[N, 3, H, W]` in `-1..=1` as the run's plugins have it: their layers, residuals and sampling hooks.
///
/// # Errors
/// As [`draw`].
pub fn draw_images(
    session: &Session,
    weights: &Weights,
    drawing: &Drawing,
) -> Result<Tensor, Error> {
    let latents = match weights {
        Weights::Frozen => draw(session, weights, drawing, &mut crate::sample::NoHooks)?,
        Weights::Current(_) => {
            let mut hooks = Hooks {
                session,
                drawing,
                batch: Batch::default(),
                failed: None,
            };
            let drawn = draw(session, weights, drawing, &mut hooks);
            match hooks.failed {
                Some(error) => return Err(error),
                None => drawn?,
            }
        }
    };
    Ok(session
        .encoder
        .decode(&latents)?
        .to_dtype(DType::F32)?
        .clamp(-1f32, 1f32)?)
}

/// The plugins' part in the sampling loop.
struct Hooks<'a> {
    session: &'a Session,
    drawing: &'a Drawing,
    /// What `sample_begin` left for the later hooks.
    batch: Batch,
    failed: Option<Error>,
}

impl Hooks<'_> {
    fn told<T>(&mut self, result: Result<T, Error>) -> candle_core::Result<T> {
        result.map_err(|error| {
            let sentence = candle_core::Error::Msg(error.to_string());
            self.failed = Some(error);
            sentence
        })
    }

    fn begun(&mut self, moment: &Moment<'_>, latents: Tensor) -> Result<Tensor, Error> {
        let timesteps: Vec<f64> = moment.timesteps.iter().map(|&t| f64::from(t)).collect();
        let guidance = self.drawing.guidance.scale();
        let begin = SampleBegin {
            batch: Batch {
                tensors: moment.conditioning.clone(),
                ..Batch::default()
            },
            latents,
            timesteps: timesteps.clone(),
            guidance,
            first: moment.images.start as u64,
            seed: self.drawing.seeds.first().copied().unwrap_or(0),
        };
        let scene = self.session.scene(self.session.step.get(), Phase::SAMPLE);
        let begun = self.session.stack()?.sample_begin(&scene, begin)?;
        if begun.timesteps != timesteps || begun.guidance != guidance {
            return Err(Error::SamplingPlan);
        }
        self.batch = begun.batch;
        Ok(begun.latents)
    }

    fn stepped(
        &mut self,
        moment: &Moment<'_>,
        prediction: &Tensor,
        before: &Tensor,
        latents: Tensor,
    ) -> Result<Tensor, Error> {
        let stack = self.session.stack()?;
        if !stack.takes(Slot::SampleStep) {
            return Ok(latents);
        }
        let told = Tensor::full(
            moment.timestep.round() as u32,
            latents.dim(0)?,
            latents.device(),
        )?;
        let x0 = self.session.process.to_x0(prediction, before, &told)?;
        let at = SampleStep {
            batch: &self.batch,
            index: moment.index,
            steps: moment.timesteps.len(),
            timestep: f64::from(moment.timestep),
            next_timestep: moment
                .timesteps
                .get(moment.index + 1)
                .map(|&t| f64::from(t)),
            prediction,
            x0: &x0,
        };
        let scene = self.session.scene(self.session.step.get(), Phase::SAMPLE);
        Ok(stack.sample_step(&scene, &at, latents)?)
    }

    fn input(&mut self, moment: &Moment<'_>, latents: &Tensor) -> Result<Tensor, Error> {
        let timesteps = Tensor::full(moment.timestep, latents.dim(0)?, latents.device())?;
        let at = NetworkInput {
            batch: &self.batch,
            noisy_latents: latents,
            timesteps: &timesteps,
            latents: None,
            unconditional: false,
        };
        let scene = self.session.scene(self.session.step.get(), Phase::SAMPLE);
        Ok(self
            .session
            .stack()?
            .denoiser_input(&scene, &at)?
            .unwrap_or_else(|| latents.clone()))
    }
}

impl SampleHooks for Hooks<'_> {
    fn begin(&mut self, moment: &Moment<'_>, latents: Tensor) -> candle_core::Result<Tensor> {
        let begun = self.begun(moment, latents);
        self.told(begun)
    }

    fn denoiser_input(
        &mut self,
        moment: &Moment<'_>,
        latents: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let input = self.input(moment, latents);
        self.told(input)
    }

    fn step(
        &mut self,
        moment: &Moment<'_>,
        prediction: &Tensor,
        before: &Tensor,
        latents: Tensor,
    ) -> candle_core::Result<Tensor> {
        let stepped = self.stepped(moment, prediction, before, latents);
        self.told(stepped)
    }
}
