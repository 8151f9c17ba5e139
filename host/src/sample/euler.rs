//! Euler's method in the noise to signal ratio (Karras et al. 2022, algorithm 1, without churn).

use candle_core::{Result as TensorResult, Tensor};

use super::{Error, Sampler, Scheduler, Step, sigmas, spacing};
use crate::diffusion::{FinalSigma, Level, Prediction, Process, Spacing};

/// A run of Euler's method.
pub(super) struct Euler {
    timesteps: Vec<f32>,
    /// Of each step, from where it starts; the last entry is the end.
    levels: Vec<Level>,
    init_noise_sigma: f64,
    prediction: Prediction,
}

impl Euler {
    pub(super) fn new(process: &Process, sampler: &Sampler) -> Result<Self, Error> {
        let config = process.config();
        let count = process.num_train_timesteps();
        let ratios = process.ratios();
        let spacing = sampler.spacing(process, Spacing::Linspace);
        // The network is told fractions here, and rounded to single precision before the ratio is looked up, as in diffusers.
        let mut timesteps: Vec<f32> = match spacing {
            Spacing::Linspace => spacing::linspace((count - 1) as f64, sampler.steps)
                .into_iter()
                .rev()
                .map(|timestep| timestep as f32)
                .collect(),
            other => spacing::whole(other, sampler.steps, count, config.steps_offset)
                .into_iter()
                .map(|timestep| timestep as f32)
                .collect(),
        };
        let mut chosen: Vec<f64> = timesteps
            .iter()
            .map(|&timestep| sigmas::at(&ratios, f64::from(timestep)))
            .collect();
        if sampler.karras(process) {
            let bound = |key: &str, default: f64| {
                config
                    .other
                    .get(key)
                    .and_then(serde_json::Value::as_f64)
                    .unwrap_or(default)
            };
            let largest = bound("sigma_max", chosen[0]);
            let smallest = bound("sigma_min", chosen[chosen.len() - 1]);
            chosen = sigmas::karras(largest, smallest, sampler.steps);
            timesteps = chosen
                .iter()
                .map(|&ratio| sigmas::timestep_of(&ratios, ratio) as f32)
                .collect();
        }
        Ok(Self::with(process, spacing, timesteps, chosen))
    }

    /// Over given timesteps.
    pub(super) fn along(process: &Process, sampler: &Sampler, timesteps: Vec<f32>) -> Self {
        let ratios = process.ratios();
        let chosen = timesteps
            .iter()
            .map(|&timestep| sigmas::at(&ratios, f64::from(timestep)))
            .collect();
        let spacing = sampler.spacing(process, Spacing::Linspace);
        Self::with(process, spacing, timesteps, chosen)
    }

    /// Over timesteps and the noise to signal ratios that steps start from.
    fn with(
        process: &Process,
        spacing: Spacing,
        timesteps: Vec<f32>,
        mut chosen: Vec<f64>,
    ) -> Self {
        let first = process.level_at_ratio(chosen[0]);
        let end = process.config().final_sigmas_type;
        chosen.push(match end.unwrap_or(FinalSigma::Zero) {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => process.ratios()[0],
        });
        Self {
            timesteps,
            levels: chosen
                .into_iter()
                .map(|ratio| process.level_at_ratio(ratio))
                .collect(),
            // Pure noise at the first level; leading spacing starts with the data's share added to its variance.
            init_noise_sigma: match spacing {
                Spacing::Leading => 1.0,
                Spacing::Trailing | Spacing::Linspace => first.sigma,
            },
            prediction: process.prediction(),
        }
    }
}

impl Scheduler for Euler {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn init_noise_sigma(&self) -> f64 {
        self.init_noise_sigma
    }

    fn step(&mut self, step: &Step<'_>) -> TensorResult<Tensor> {
        let (here, next) = (self.levels[step.index], self.levels[step.index + 1]);
        let x0 = self
            .prediction
            .x0(here)
            .apply(step.sample, step.prediction)?;
        let (of_sample, of_x0) = here.deterministic_step(next);
        (step.sample * of_sample)? + (x0 * of_x0)?
    }
}
