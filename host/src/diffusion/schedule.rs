//! Betas and the signal they leave, as diffusers computes them.
//!
//! The released networks were trained and are sampled with diffusers' single-precision tables, so these round where those round:
//! betas are `f32`, their running product is taken in `f64`, and each of its values is rounded to `f32`.

use std::f64::consts::FRAC_PI_2;

use super::{BetaSchedule, Error, Level, SchedulerConfig};

/// No beta of a curve given by its signal exceeds this.
const MAX_BETA: f64 = 0.999;

/// The forward process of a beta schedule, one value a training timestep.
#[derive(Clone, Debug, PartialEq)]
pub struct Schedule {
    /// Variance added by each step, in `0..=1`.
    pub betas: Vec<f32>,
    /// Share of the data's variance left after each step: the running product of `1 - beta`, falling in `0..1`.
    pub alphas_cumprod: Vec<f32>,
}

impl Schedule {
    /// The schedule that a configuration describes.
    ///
    /// # Errors
    /// The class has no beta schedule, there are no timesteps, `trained_betas` has another length, or a beta is out of range.
    pub fn new(config: &SchedulerConfig) -> Result<Self, Error> {
        config.check_class()?;
        let mut betas = betas(config)?;
        // Checked before rescaling too, which would hide an impossible beta behind a square root of nothing.
        check(&betas)?;
        if config.rescale_betas_zero_snr {
            betas = rescale_to_zero_terminal_snr(&betas);
            check(&betas)?;
        }
        let alphas_cumprod = running_product(&betas);
        Ok(Self {
            betas,
            alphas_cumprod,
        })
    }

    /// The noise level of every training timestep.
    pub fn levels(&self) -> Vec<Level> {
        self.alphas_cumprod
            .iter()
            .map(|&left| Level {
                alpha: f64::from(left).sqrt(),
                sigma: (1.0 - f64::from(left)).sqrt(),
            })
            .collect()
    }
}

fn betas(config: &SchedulerConfig) -> Result<Vec<f32>, Error> {
    let count = config.num_train_timesteps;
    if count == 0 {
        return Err(Error::NoTimesteps);
    }
    let (start, end) = (config.beta_start, config.beta_end);
    if let Some(given) = &config.trained_betas {
        if given.len() != count {
            return Err(Error::BetaCount {
                betas: given.len(),
                timesteps: count,
            });
        }
        return Ok(given.iter().map(|&beta| beta as f32).collect());
    }
    Ok(match config.beta_schedule {
        BetaSchedule::Linear => linspace(start as f32, end as f32, count),
        BetaSchedule::ScaledLinear => linspace(start.sqrt() as f32, end.sqrt() as f32, count)
            .into_iter()
            .map(|root| root * root)
            .collect(),
        BetaSchedule::SquaredcosCapV2 => betas_for_signal(count, |time| {
            ((time + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2)
        }),
        BetaSchedule::Laplace => betas_for_signal(count, |time| {
            let log_snr =
                -0.5 * 1f64.copysign(0.5 - time) * (1.0 - 2.0 * (0.5 - time).abs() + 1e-6).ln();
            let snr = log_snr.exp();
            (snr / (1.0 + snr)).sqrt()
        }),
        BetaSchedule::Sigmoid => linspace(-6.0, 6.0, count)
            .into_iter()
            .map(|at| (1.0 / (1.0 + (-at).exp())) * (end - start) as f32 + start as f32)
            .collect(),
    })
}

/// Evenly spaced values by single-precision steps from both ends, multiplied and added in one rounding, as `torch.linspace` places them.
fn linspace(start: f32, end: f32, count: usize) -> Vec<f32> {
    if count == 1 {
        return vec![start];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|index| {
            if index < count / 2 {
                step.mul_add(index as f32, start)
            } else {
                step.mul_add(-((count - 1 - index) as f32), end)
            }
        })
        .collect()
}

/// Betas whose running product follows `signal`, a function of time in `0..=1`.
fn betas_for_signal(count: usize, signal: impl Fn(f64) -> f64) -> Vec<f32> {
    (0..count)
        .map(|index| {
            let here = signal(index as f64 / count as f64);
            let next = signal((index + 1) as f64 / count as f64);
            (1.0 - next / here).min(MAX_BETA) as f32
        })
        .collect()
}

fn running_product(betas: &[f32]) -> Vec<f32> {
    betas
        .iter()
        .scan(1f64, |product, &beta| {
            *product *= f64::from(1.0 - beta);
            Some(*product as f32)
        })
        .collect()
}

/// Lin et al. 2024, algorithm 1, in single precision as diffusers computes it.
fn rescale_to_zero_terminal_snr(betas: &[f32]) -> Vec<f32> {
    let roots: Vec<f32> = running_product(betas).into_iter().map(f32::sqrt).collect();
    let (first, last) = (roots[0], roots[roots.len() - 1]);
    let scale = first / (first - last);
    let left: Vec<f32> = roots
        .into_iter()
        .map(|root| ((root - last) * scale).powi(2))
        .collect();
    let mut previous = 1.0;
    left.into_iter()
        .map(|now| {
            let alpha = now / previous;
            previous = now;
            1.0 - alpha
        })
        .collect()
}

fn check(betas: &[f32]) -> Result<(), Error> {
    for (timestep, &beta) in betas.iter().enumerate() {
        let allowed = beta > 0.0 && (beta < 1.0 || beta == 1.0 && timestep + 1 == betas.len());
        if !allowed {
            return Err(Error::Beta {
                timestep,
                beta: f64::from(beta),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        config: SchedulerConfig,
        at: Vec<usize>,
        betas: Vec<f32>,
        alphas_cumprod: Vec<f32>,
    }

    #[test]
    fn schedules_are_those_of_diffusers() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/goldens/diffusion/schedules.json"
        ));
        let goldens: Vec<Golden> = serde_json::from_str(text).unwrap();
        assert_eq!(goldens.len(), 8);
        for golden in goldens {
            let schedule = Schedule::new(&golden.config).unwrap();
            for (index, &timestep) in golden.at.iter().enumerate() {
                for (ours, theirs) in [
                    (schedule.betas[timestep], golden.betas[index]),
                    (
                        schedule.alphas_cumprod[timestep],
                        golden.alphas_cumprod[index],
                    ),
                ] {
                    // Rescaled betas are 1 less a number close to 1, so its last digits are theirs.
                    let near = (ours - theirs).abs() <= 1e-6 * theirs.abs() + 2.0 * f32::EPSILON;
                    assert!(
                        near,
                        "timestep {timestep}: {ours} in place of {theirs}: {:?}",
                        golden.config
                    );
                }
            }
        }
    }

    #[test]
    fn signal_falls_at_every_timestep() {
        for beta_schedule in [
            BetaSchedule::Linear,
            BetaSchedule::ScaledLinear,
            BetaSchedule::SquaredcosCapV2,
            BetaSchedule::Sigmoid,
            BetaSchedule::Laplace,
        ] {
            let config = SchedulerConfig {
                beta_schedule,
                ..Default::default()
            };
            let levels = Schedule::new(&config).unwrap().levels();
            assert!(
                levels
                    .windows(2)
                    .all(|pair| pair[0].alpha > pair[1].alpha && pair[0].sigma < pair[1].sigma),
                "{beta_schedule:?}"
            );
        }
    }

    #[test]
    fn impossible_betas_are_named() {
        let refused = |betas: &[f64], count| {
            let config = SchedulerConfig {
                trained_betas: Some(betas.to_vec()),
                num_train_timesteps: count,
                ..Default::default()
            };
            Schedule::new(&config).unwrap_err().to_string()
        };
        assert!(refused(&[0.1, 1.5], 2).contains("timestep 1 is 1.5"));
        assert!(refused(&[0.1, f64::NAN], 2).contains("timestep 1 is NaN"));
        assert!(refused(&[1.0, 0.1], 2).contains("timestep 0 is 1"));
        assert!(refused(&[0.1, 0.2], 3).contains("2 values"));
        assert!(refused(&[], 0).contains("at least 1"));
    }
}
