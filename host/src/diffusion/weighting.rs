//! Per-sample weights of the base loss by signal to noise ratio.

use serde::{Deserialize, Serialize};

use super::{Level, Prediction};

/// A weighting of the base loss over timesteps.
///
/// Each is defined by its weight on the error of one quantity; for the network's own prediction type it is converted, so that the same
/// weighting means the same loss whatever the network predicts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Weighting {
    /// Weight `min(snr, gamma)` on the error of the clean data (Hang et al. 2023, section 3.4).
    MinSnr {
        /// Largest weight; the paper's is 5.
        gamma: f64,
    },
    /// Weight `1 / (k + snr)^gamma` on the error of the noise (Choi et al. 2022, equation 8).
    P2 {
        /// Keeps the weight finite at high noise; the paper's is 1.
        k: f64,
        /// Strength; 0 is no weighting, the paper's are 0.5 and 1.
        gamma: f64,
    },
}

impl Weighting {
    /// The weight on a squared error of `prediction` at a noise level.
    pub fn weight(self, prediction: Prediction, level: Level) -> f64 {
        let snr = level.snr();
        match self {
            Self::MinSnr { gamma } => match prediction {
                // Written apart, because at zero signal the ratio below is zero over zero.
                Prediction::Epsilon => (gamma / snr).min(1.0),
                other => snr.min(gamma) / other.error_scale(level),
            },
            Self::P2 { k, gamma } => {
                let of_noise = (k + snr).powf(-gamma);
                match prediction {
                    Prediction::Epsilon => of_noise,
                    other => {
                        of_noise * Prediction::Epsilon.error_scale(level) / other.error_scale(level)
                    }
                }
            }
        }
    }
}
