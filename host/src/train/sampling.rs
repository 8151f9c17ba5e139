//! Grids of samples: the same seeds and classes before, during and after training, so that they can stand side by side.

use std::ops::ControlFlow;

use candle_core::{DType, Tensor};

use crate::backbone::{Conditioning, Input, Overlay, Pass};
use crate::cancel::Cancel;
use crate::config::SampleSection;
use crate::report::Progress;
use crate::sample::{Guidance, Request, Rows, SampleHooks, Sampler, generate};

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
        let class = |image: usize| if classes.is_empty() { null_class } else { classes[image % classes.len()] };
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
            seeds: (0..section.count as u64).map(|image| section.seed.wrapping_add(image)).collect(),
            classes: (0..section.count).map(class).collect(),
            batch_size: section.batch_size,
            label: Some(label.to_owned()),
        }
    }
}

/// Draws images `[N, 3, H, W]` in `-1..=1` with the frozen backbone, some of its parameters replaced by `overlay`.
///
/// # Errors
/// A drawing the process or the backbone cannot serve, or an interruption.
pub fn draw(
    session: &Session,
    overlay: Option<&Overlay>,
    drawing: &Drawing,
    hooks: &mut dyn SampleHooks,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Tensor, Error> {
    let info = session.backbone.info();
    let device = session.backbone.device().clone();
    let labels = |labels: Vec<u32>| -> Result<Rows, Error> {
        Ok(Rows::from([("class_labels".to_owned(), Tensor::new(labels, &device)?)]))
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
    let forward = |overlay: Option<&Overlay>, latents: &Tensor, timesteps: &Tensor, rows: &Rows| {
        let conditioning = Conditioning { tensors: rows.clone() };
        let input = Input { latents, timesteps, conditioning: &conditioning };
        let output = session.backbone.forward(&input, &Pass { overlay, ..Pass::frozen() })?;
        Ok(output.detach())
    };
    let mut task = drawing.label.as_ref().map(|label| progress.count(label, "image", drawing.seeds.len() as u64));
    let images = generate(
        &session.process,
        &request,
        &mut |latents, timesteps, rows| forward(overlay, latents, timesteps, rows),
        Some(&mut |latents, timesteps, rows| forward(None, latents, timesteps, rows)),
        hooks,
        &mut |at| {
            if let Some(task) = &mut task {
                task.set((drawing.seeds.len() * at.done / at.total.max(1)) as u64);
            }
            if cancel.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        },
    )?;
    if let Some(task) = task {
        task.finish();
    }
    Ok(session.encoder.decode(&images)?.to_dtype(DType::F32)?.clamp(-1f32, 1f32)?)
}
