//! One noise level, what a network may predict at it, and the step from one level to a cleaner one.
//!
//! All of it holds for any `alpha` and `sigma`, so samplers written on levels need no particular schedule.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// A noise level: `noisy = alpha * x0 + sigma * noise`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level {
    /// Scale of the clean data, in `0..=1`.
    pub alpha: f64,
    /// Scale of the noise, in `0..=1`.
    pub sigma: f64,
}

/// What the network's output stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prediction {
    /// The noise.
    #[default]
    Epsilon,
    /// The velocity `alpha * noise - sigma * x0` (Salimans and Ho 2022, appendix D).
    VPrediction,
    /// The clean data.
    #[serde(alias = "original_sample")]
    Sample,
}

/// A quantity as `noisy * noisy_coefficient + prediction * prediction_coefficient`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Affine {
    /// The factor of the noisy data.
    pub noisy: f64,
    /// The factor of the network's prediction.
    pub prediction: f64,
}

/// The Gaussian `q(x_s | x_t, x0)` of a forward process, for a level `s` cleaner than `t`.
///
/// Its mean is `x0_coefficient * x0 + noisy_coefficient * x_t` (Ho et al. 2020, equation 7, for steps of any length).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior {
    /// The factor of the clean data in the mean.
    pub x0: f64,
    /// The factor of the noisy data in the mean.
    pub noisy: f64,
    /// The variance.
    pub variance: f64,
    /// The variance of the forward transition `q(x_t | x_s)`: the upper bound of the reverse variance, "beta" for steps of length one.
    pub transition_variance: f64,
}

impl Level {
    /// No noise at all.
    pub const CLEAN: Self = Self {
        alpha: 1.0,
        sigma: 0.0,
    };

    /// Signal to noise ratio, `alpha^2 / sigma^2`.
    pub fn snr(self) -> f64 {
        (self.alpha * self.alpha) / (self.sigma * self.sigma)
    }

    /// Noise to signal ratio, `sigma / alpha`: the "sigma" of Karras et al. 2022.
    pub fn ratio(self) -> f64 {
        self.sigma / self.alpha
    }

    /// Half the logarithm of the signal to noise ratio: the "lambda" of DPM-Solver.
    pub fn half_log_snr(self) -> f64 {
        self.alpha.ln() - self.sigma.ln()
    }

    /// The noise-free reverse step from this level to a `cleaner` one: `(f, g)` such that the new data is `f * noisy + g * x0`.
    ///
    /// It keeps the noise that the noisy data holds and scales it down: DDIM without noise, Euler's method in [`Level::ratio`], and
    /// first-order DPM-Solver++ are all this one step.
    pub fn deterministic_step(self, cleaner: Self) -> (f64, f64) {
        let kept = cleaner.sigma / self.sigma;
        (kept, cleaner.alpha - self.alpha * kept)
    }

    /// The reverse step from this level to a `cleaner` one when the clean data is known.
    pub fn posterior(self, cleaner: Self) -> Posterior {
        let carried = self.alpha / cleaner.alpha;
        let noise_variance = self.sigma * self.sigma;
        let cleaner_variance = cleaner.sigma * cleaner.sigma;
        let transition_variance = noise_variance - carried * carried * cleaner_variance;
        Posterior {
            x0: cleaner.alpha * transition_variance / noise_variance,
            noisy: carried * cleaner_variance / noise_variance,
            variance: transition_variance * cleaner_variance / noise_variance,
            transition_variance,
        }
    }
}

impl Prediction {
    /// The name in scheduler files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::VPrediction => "v_prediction",
            Self::Sample => "sample",
        }
    }

    /// The clean data, from the noisy data and the prediction.
    pub fn x0(self, level: Level) -> Affine {
        let Level { alpha, sigma } = level;
        match self {
            Self::Epsilon => Affine {
                noisy: 1.0 / alpha,
                prediction: -sigma / alpha,
            },
            // From the two equations for noisy and v; the denominator is 1 where variance is preserved.
            Self::VPrediction => Affine {
                noisy: alpha / (alpha * alpha + sigma * sigma),
                prediction: -sigma / (alpha * alpha + sigma * sigma),
            },
            Self::Sample => Affine {
                noisy: 0.0,
                prediction: 1.0,
            },
        }
    }

    /// The noise, from the noisy data and the prediction.
    pub fn epsilon(self, level: Level) -> Affine {
        let Level { alpha, sigma } = level;
        match self {
            Self::Epsilon => Affine {
                noisy: 0.0,
                prediction: 1.0,
            },
            Self::VPrediction => Affine {
                noisy: sigma / (alpha * alpha + sigma * sigma),
                prediction: alpha / (alpha * alpha + sigma * sigma),
            },
            Self::Sample => Affine {
                noisy: 1.0 / sigma,
                prediction: -alpha / sigma,
            },
        }
    }

    /// How many times larger this prediction's squared error is than that of the clean data it implies.
    pub fn error_scale(self, level: Level) -> f64 {
        let Affine { prediction, .. } = self.x0(level);
        1.0 / (prediction * prediction)
    }
}

impl Affine {
    /// The quantity itself: `[B, ..]` from noisy data and a prediction of one level, both `[B, ..]`.
    pub fn apply(self, noisy: &Tensor, prediction: &Tensor) -> Result<Tensor> {
        // A factor of zero must not turn an infinite or absent operand into NaN, nor cost a pass.
        match (self.noisy, self.prediction) {
            (0.0, 1.0) => Ok(prediction.clone()),
            (0.0, factor) => prediction * factor,
            (factor, 0.0) => noisy * factor,
            (of_noisy, of_prediction) => (noisy * of_noisy)? + (prediction * of_prediction)?,
        }
    }
}
