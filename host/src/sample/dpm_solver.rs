//! Second-order multistep DPM-Solver++ with midpoint steps (Lu et al. 2022, algorithm 2).

use candle_core::{Result as TensorResult, Tensor};

use super::{Error, Sampler, Scheduler, Step, limit::Limit, scheduler::indices, sigmas, spacing};
use crate::diffusion::{BetaSchedule, FinalSigma, Level, Prediction, Process, Spacing};

/// Runs shorter than this end at first order.
const SHORT_RUN: usize = 15;

/// A run of DPM-Solver++ 2M.
pub(super) struct DpmSolver {
    timesteps: Vec<f32>,
    /// Of each step, from where it starts; the last entry is the end.
    levels: Vec<Level>,
    last_at_first_order: bool,
    prediction: Prediction,
    limit: Limit,
    /// The clean data that the step before predicted.
    previous_x0: Option<Tensor>,
}

impl DpmSolver {
    pub(super) fn new(process: &Process, sampler: &Sampler) -> Result<Self, Error> {
        let config = process.config();
        let ratios = process.ratios();
        let (timesteps, chosen) = if sampler.karras(process) {
            let chosen = sigmas::karras(ratios[ratios.len() - 1], ratios[0], sampler.steps);
            let round = |timestep: f64| match config.beta_schedule {
                // diffusers drops the fraction here, and rounds for all other schedules.
                BetaSchedule::SquaredcosCapV2 => timestep.trunc(),
                _ => timestep.round_ties_even(),
            };
            let timesteps = chosen
                .iter()
                .map(|&ratio| round(sigmas::timestep_of(&ratios, ratio)) as f32)
                .collect();
            (timesteps, chosen)
        } else {
            let timesteps = timesteps(process, sampler);
            let chosen: Vec<f64> = indices(&timesteps, process)?
                .into_iter()
                .map(|index| ratios[index])
                .collect();
            // Two equal timesteps leave nothing to step over, and divide by zero.
            if chosen.windows(2).any(|pair| pair[0] <= pair[1]) {
                return Err(Error::Crowded {
                    steps: sampler.steps,
                });
            }
            let timesteps: Vec<f32> = timesteps
                .into_iter()
                .map(|timestep| timestep as f32)
                .collect();
            (timesteps, chosen)
        };
        Ok(Self::with(process, timesteps, chosen))
    }

    /// Over given timesteps.
    pub(super) fn along(process: &Process, timesteps: Vec<f32>) -> Self {
        let ratios = process.ratios();
        let chosen = timesteps
            .iter()
            .map(|&timestep| sigmas::at(&ratios, f64::from(timestep)))
            .collect();
        Self::with(process, timesteps, chosen)
    }

    /// Over timesteps and the noise to signal ratios that steps start from.
    fn with(process: &Process, timesteps: Vec<f32>, mut chosen: Vec<f64>) -> Self {
        let config = process.config();
        let end = config.final_sigmas_type.unwrap_or(FinalSigma::Zero);
        chosen.push(match end {
            FinalSigma::Zero => 0.0,
            FinalSigma::SigmaMin => process.ratios()[0],
        });
        Self {
            // The second order has no meaning for a step to no noise at all.
            last_at_first_order: end == FinalSigma::Zero
                || config.euler_at_final.unwrap_or(false)
                || config.lower_order_final.unwrap_or(true) && timesteps.len() < SHORT_RUN,
            timesteps,
            levels: chosen
                .into_iter()
                .map(|ratio| process.level_at_ratio(ratio))
                .collect(),
            prediction: process.prediction(),
            limit: Limit::threshold(config),
            previous_x0: None,
        }
    }

    /// How far to carry on from the previous prediction of clean data through this one.
    fn extrapolation(&self, index: usize) -> f64 {
        let [before, here, next] =
            [index - 1, index, index + 1].map(|at| self.levels[at].half_log_snr());
        0.5 * (next - here) / (here - before)
    }
}

/// Whole timesteps, from one more than are used: the last step goes on to the end from above timestep 0.
fn timesteps(process: &Process, sampler: &Sampler) -> Vec<i64> {
    let config = process.config();
    let count = process.num_train_timesteps();
    let too_noisy = config.lambda_min_clipped.map_or(0, |least| {
        process
            .levels()
            .iter()
            .filter(|level| level.half_log_snr() < least)
            .count()
    });
    let usable = count - too_noisy.min(count - 1);
    let steps = sampler.steps;
    match sampler.spacing(process, Spacing::Linspace) {
        Spacing::Linspace => spacing::linspace((usable - 1) as f64, steps + 1)
            .into_iter()
            .skip(1)
            .rev()
            .map(|at| at.round_ties_even() as i64)
            .collect(),
        Spacing::Leading => {
            let stride = usable / (steps + 1);
            (1..=steps)
                .rev()
                .map(|index| (index * stride + config.steps_offset) as i64)
                .collect()
        }
        Spacing::Trailing => spacing::trailing(usable as f64, steps, count),
    }
}

impl Scheduler for DpmSolver {
    fn timesteps(&self) -> &[f32] {
        &self.timesteps
    }

    fn step(&mut self, step: &Step<'_>) -> TensorResult<Tensor> {
        let (here, next) = (self.levels[step.index], self.levels[step.index + 1]);
        let x0 = self.limit.apply(
            self.prediction
                .x0(here)
                .apply(step.sample, step.prediction)?,
        )?;
        let is_last = step.index + 1 == self.timesteps.len();
        let towards = match self.previous_x0.take() {
            Some(previous) if !(is_last && self.last_at_first_order) => {
                let by = self.extrapolation(step.index);
                ((&x0 * (1.0 + by))? - (previous * by)?)?
            }
            _ => x0.clone(),
        };
        self.previous_x0 = Some(x0);
        let (of_sample, of_x0) = here.deterministic_step(next);
        (step.sample * of_sample)? + (towards * of_x0)?
    }
}
