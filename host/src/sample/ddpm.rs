//! Ancestral sampling (Ho et al. 2020, algorithm 2) over any subset of timesteps, with the variance fixed or learned.

use candle_core::{Result as TensorResult, Tensor};

use super::scheduler::{indices, level_at};
use super::{Error, Sampler, Scheduler, Step, limit::Limit, spacing};
use crate::diffusion::{Level, Posterior, Prediction, Process, Spacing, VarianceType};

/// Keeps the logarithm of a variance of zero finite.
const SMALLEST_VARIANCE: f64 = 1e-20;

/// A run of DDPM.
///
/// Its last step adds no noise, as in improved-diffusion and DiT. diffusers adds some there when the last timestep is not 0 and the
/// variance is fixed large or learned.
pub(super) struct Ddpm {
    timesteps: Vec<f32>,
    /// Of each step, from where it starts; the last entry is the end.
    levels: Vec<Level>,
    prediction: Prediction,
    variance: VarianceType,
    limit: Limit,
}

impl Ddpm {
    pub(super) fn new(process: &Process, sampler: &Sampler) -> Result<Self, Error> {
        let config = process.config();
        let chosen = spacing::whole(
            sampler.spacing(process, Spacing::Leading),
            sampler.steps,
            process.num_train_timesteps(),
            config.steps_offset,
        );
        indices(&chosen, process)?;
        let timesteps = chosen.into_iter().map(|timestep| timestep as f32).collect();
        Self::along(process, timesteps)
    }

    /// Over given timesteps.
    pub(super) fn along(process: &Process, timesteps: Vec<f32>) -> Result<Self, Error> {
        let config = process.config();
        let levels = timesteps
            .iter()
            .map(|&timestep| level_at(process, timestep))
            .chain([Level::CLEAN])
            .collect();
        let learned = process.learned_variance();
        let variance = config.variance_type.unwrap_or(match learned {
            true => VarianceType::LearnedRange,
            false => VarianceType::FixedSmall,
        });
        let missing = match variance {
            VarianceType::Learned if !learned => Some("learned"),
            VarianceType::LearnedRange if !learned => Some("learned_range"),
            _ => None,
        };
        if let Some(variance_type) = missing {
            return Err(Error::NoVariance { variance_type });
        }
        Ok(Self {
            timesteps,
            levels,
            prediction: process.prediction(),
            variance,
            limit: Limit::clip_or_threshold(config),
        })
    }

    /// The noise of a step, scaled.
    fn scaled_noise(&self, posterior: Posterior, step: &Step<'_>) -> TensorResult<Tensor> {
        let smallest = posterior.variance.max(SMALLEST_VARIANCE);
        let largest = posterior.transition_variance;
        let noise = step.noise()?;
        let learned = || match step.variance {
            Some(variance) => Ok(variance),
            None => candle_core::bail!(
                "sampling step {} needs the network's variance and was given none",
                step.index
            ),
        };
        match self.variance {
            VarianceType::FixedSmall | VarianceType::FixedSmallLog => noise * smallest.sqrt(),
            VarianceType::FixedLarge | VarianceType::FixedLargeLog => noise * largest.sqrt(),
            VarianceType::Learned => noise * learned()?.sqrt()?,
            VarianceType::LearnedRange => {
                // -1 is the smallest and 1 the largest logarithm; half of it is the standard deviation's.
                let middle = (largest.ln() + smallest.ln()) / 2.0;
                let reach = (largest.ln() - smallest.ln()) / 2.0;
                noise * learned()?.affine(reach / 2.0, middle / 2.0)?.exp()?
            }
        }
    }
}

impl Scheduler for Ddpm {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn uses_noise(&self, index: usize) -> bool {
        index + 1 < self.timesteps.len()
    }

    fn step(&mut self, step: &Step<'_>) -> TensorResult<Tensor> {
        let (here, next) = (self.levels[step.index], self.levels[step.index + 1]);
        let x0 = self.limit.apply(
            self.prediction
                .x0(here)
                .apply(step.sample, step.prediction)?,
        )?;
        let posterior = here.posterior(next);
        let mean = ((x0 * posterior.x0)? + (step.sample * posterior.noisy)?)?;
        if self.uses_noise(step.index) {
            mean + self.scaled_noise(posterior, step)?
        } else {
            Ok(mean)
        }
    }
}
