//! Denoising diffusion implicit models (Song et al. 2021, equations 12 and 16).

use candle_core::{Result as TensorResult, Tensor};

use super::scheduler::{indices, level_at};
use super::{Error, Sampler, Scheduler, Step, limit::Limit, spacing};
use crate::diffusion::{Level, Prediction, Process, Spacing};

/// A run of DDIM.
///
/// As in diffusers, a step goes down by `T / steps` timesteps, rounded down, which is the next timestep exactly for leading spacing,
/// and for trailing spacing when `steps` divides `T`.
pub(super) struct Ddim {
    timesteps: Vec<f32>,
    /// Where each step starts and where it ends.
    steps: Vec<(Level, Level)>,
    eta: f64,
    prediction: Prediction,
    limit: Limit,
}

impl Ddim {
    pub(super) fn new(process: &Process, sampler: &Sampler) -> Result<Self, Error> {
        let config = process.config();
        let count = process.num_train_timesteps();
        let chosen = spacing::whole(
            sampler.spacing(process, Spacing::Leading),
            sampler.steps,
            count,
            config.steps_offset,
        );
        let levels = process.levels();
        let last = end(process);
        let stride = count / sampler.steps;
        let steps = indices(&chosen, process)?
            .into_iter()
            .map(|index| {
                let next = index
                    .checked_sub(stride)
                    .map_or(last, |index| levels[index]);
                (levels[index], next)
            })
            .collect();
        let timesteps = chosen.into_iter().map(|timestep| timestep as f32).collect();
        Ok(Self::with(process, sampler, timesteps, steps))
    }

    /// Over given timesteps, each step down to the next of them.
    pub(super) fn along(process: &Process, sampler: &Sampler, timesteps: Vec<f32>) -> Self {
        let levels: Vec<Level> = timesteps.iter().map(|&t| level_at(process, t)).collect();
        let next = levels.iter().copied().skip(1).chain([end(process)]);
        let steps = levels.iter().copied().zip(next).collect();
        Self::with(process, sampler, timesteps, steps)
    }

    fn with(
        process: &Process,
        sampler: &Sampler,
        timesteps: Vec<f32>,
        steps: Vec<(Level, Level)>,
    ) -> Self {
        Self {
            timesteps,
            steps,
            eta: sampler.eta,
            prediction: process.prediction(),
            limit: Limit::clip_or_threshold(process.config()),
        }
    }

    /// Standard deviation of the noise that a step adds.
    fn noise_scale(&self, index: usize) -> f64 {
        let (here, next) = self.steps[index];
        self.eta * here.posterior(next).variance.max(0.0).sqrt()
    }
}

/// Where the last step ends.
fn end(process: &Process) -> Level {
    match process.config().set_alpha_to_one.unwrap_or(true) {
        true => Level::CLEAN,
        false => process.levels()[0],
    }
}

impl Scheduler for Ddim {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn uses_noise(&self, index: usize) -> bool {
        self.noise_scale(index) > 0.0
    }

    fn step(&mut self, step: &Step<'_>) -> TensorResult<Tensor> {
        let (here, next) = self.steps[step.index];
        let epsilon = self
            .prediction
            .epsilon(here)
            .apply(step.sample, step.prediction)?;
        let x0 = self.limit.apply(
            self.prediction
                .x0(here)
                .apply(step.sample, step.prediction)?,
        )?;
        let fresh = self.noise_scale(step.index);
        let kept = (next.sigma * next.sigma - fresh * fresh).max(0.0).sqrt();
        let towards = ((x0 * next.alpha)? + (epsilon * kept)?)?;
        if fresh > 0.0 {
            towards + (step.noise()? * fresh)?
        } else {
            Ok(towards)
        }
    }
}
