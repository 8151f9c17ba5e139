//! Guidance: going further in the direction that the condition gives.

use candle_core::{Result, Tensor};
use serde::{Deserialize, Serialize};

/// How the unconditional prediction takes part in sampling.
///
/// The guided prediction is `unconditional + scale * (conditional - unconditional)`, on all channels of the prediction, whatever its
/// type (noise, velocity and clean data depend on one another linearly, so it is the same guidance). Learned variance channels are not
/// guided: the conditional ones are used, as in diffusers' DiT pipeline. (The sampling script of the DiT authors guides the first three
/// of the four latent channels only, which they keep for exact reproduction of their numbers.)
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Guidance {
    /// The conditional prediction alone.
    #[default]
    Off,
    /// Classifier-free guidance (Ho and Salimans 2022): one network predicts both.
    ClassifierFree {
        /// 1 is no guidance.
        scale: f64,
    },
    /// Domain Guidance (Zhong et al. 2025): the pretrained network gives the unconditional prediction.
    Domain {
        /// 1 is no guidance.
        scale: f64,
    },
}

impl Guidance {
    /// The scale; 1 where there is no guidance.
    pub fn scale(self) -> f64 {
        match self {
            Self::Off => 1.0,
            Self::ClassifierFree { scale } | Self::Domain { scale } => scale,
        }
    }

    /// The same guidance at another scale; classifier-free where there was none.
    pub fn at_scale(self, scale: f64) -> Self {
        match self {
            Self::Off if scale == 1.0 => Self::Off,
            Self::Off | Self::ClassifierFree { .. } => Self::ClassifierFree { scale },
            Self::Domain { .. } => Self::Domain { scale },
        }
    }

    /// Whether the unconditional prediction is needed at all.
    pub fn is_active(self) -> bool {
        self.scale() != 1.0
    }
}

/// `unconditional + scale * (conditional - unconditional)`.
pub(super) fn guide(conditional: &Tensor, unconditional: &Tensor, scale: f64) -> Result<Tensor> {
    unconditional + ((conditional - unconditional)? * scale)?
}
