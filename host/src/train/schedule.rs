//! How the learning rate moves over a run.

use crate::config::{Schedule, TrainSection};

/// The learning rate of every step: a linear warm-up, then a fall from `base` to `base * final_ratio` at the last step.
#[derive(Clone, Copy, Debug)]
pub struct LearningRate {
    /// The rate at the end of warm-up.
    pub base: f64,
    /// What follows warm-up.
    pub shape: Schedule,
    /// Steps of warm-up; the first step already has `base / warmup_steps`.
    pub warmup_steps: usize,
    /// All steps of the run, warm-up among them.
    pub total_steps: usize,
    /// Where the fall ends, as a share of `base`, in `0..=1` (above 0 for [`Schedule::Exponential`]).
    pub final_ratio: f64,
}

impl LearningRate {
    /// As the settings of a run say.
    pub fn of(settings: &TrainSection) -> Self {
        Self {
            base: settings.lr,
            shape: settings.schedule,
            warmup_steps: settings.warmup_steps as usize,
            total_steps: settings.steps as usize,
            final_ratio: settings.final_ratio,
        }
    }

    /// The rate of `step`, counted from 0.
    pub fn at(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.base * (step + 1) as f64 / self.warmup_steps as f64;
        }
        let falling_steps = self
            .total_steps
            .saturating_sub(self.warmup_steps + 1)
            .max(1);
        let done = ((step - self.warmup_steps) as f64 / falling_steps as f64).min(1.0);
        let ratio = self.final_ratio;
        self.base
            * match self.shape {
                Schedule::Constant => 1.0,
                Schedule::Linear => 1.0 + (ratio - 1.0) * done,
                Schedule::Cosine => {
                    ratio + (1.0 - ratio) * 0.5 * (1.0 + (std::f64::consts::PI * done).cos())
                }
                Schedule::Exponential => ratio.powf(done),
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: Schedule, expected: [f64; 3]) {
        let rate = LearningRate {
            base: 2.0,
            shape,
            warmup_steps: 4,
            total_steps: 15,
            final_ratio: 0.01,
        };
        assert_eq!(rate.at(0), 0.5);
        assert_eq!(rate.at(3), 2.0);
        for (step, expected) in [4, 9, 14].into_iter().zip(expected) {
            assert!(
                (rate.at(step) - expected).abs() < 1e-9,
                "{shape:?} at {step}: {}",
                rate.at(step)
            );
        }
        assert_eq!(rate.at(14), rate.at(1000), "stays at its end");
    }

    #[test]
    fn every_shape_starts_at_base_and_ends_at_its_final_ratio() {
        check(Schedule::Constant, [2.0, 2.0, 2.0]);
        check(Schedule::Linear, [2.0, 1.01, 0.02]);
        check(Schedule::Cosine, [2.0, 1.01, 0.02]);
        check(Schedule::Exponential, [2.0, 0.2, 0.02]);
    }

    #[test]
    fn without_warmup_the_first_step_has_the_base_rate() {
        let rate = LearningRate {
            base: 1e-4,
            shape: Schedule::Cosine,
            warmup_steps: 0,
            total_steps: 1,
            final_ratio: 0.0,
        };
        assert_eq!(rate.at(0), 1e-4);
    }
}
