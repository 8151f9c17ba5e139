//! Keeping predicted clean data within the range of data.

use candle_core::{DType, Result, Tensor};

use crate::diffusion::SchedulerConfig;

/// What a sampler does to predicted clean data before it goes on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Limit {
    /// Nothing.
    None,
    /// Clamp to plus or minus this.
    Clip(f64),
    /// Clamp each image to a quantile of its own magnitudes, then divide by it (Saharia et al. 2022, section 2.3).
    Threshold {
        /// The quantile.
        ratio: f64,
        /// The quantile's largest value; the smallest is 1.
        largest: f64,
    },
}

impl Limit {
    /// The limit of samplers that clip and threshold.
    pub(super) fn clip_or_threshold(config: &SchedulerConfig) -> Self {
        match Self::threshold(config) {
            // diffusers clips unless told otherwise.
            Self::None if config.clip_sample.unwrap_or(true) => {
                Self::Clip(config.clip_sample_range)
            }
            other => other,
        }
    }

    /// The limit of samplers that only threshold.
    pub(super) fn threshold(config: &SchedulerConfig) -> Self {
        if config.thresholding {
            Self::Threshold {
                ratio: config.dynamic_thresholding_ratio,
                largest: config.sample_max_value,
            }
        } else {
            Self::None
        }
    }

    /// Applies it to `[B, ..]`.
    pub(super) fn apply(self, x0: Tensor) -> Result<Tensor> {
        match self {
            Self::None => Ok(x0),
            Self::Clip(range) => x0.clamp(-range, range),
            Self::Threshold { ratio, largest } => {
                let mut bounds = Vec::with_capacity(x0.dim(0)?);
                for magnitudes in x0
                    .abs()?
                    .flatten_from(1)?
                    .to_dtype(DType::F32)?
                    .to_vec2::<f32>()?
                {
                    // In this order a largest value below 1 wins over 1.
                    bounds.push(quantile(magnitudes, ratio).max(1.0).min(largest as f32));
                }
                let mut shape = vec![1; x0.rank()];
                shape[0] = bounds.len();
                let bounds = Tensor::from_vec(bounds, shape, x0.device())?.to_dtype(x0.dtype())?;
                x0.broadcast_div(&bounds)?.clamp(-1.0, 1.0)
            }
        }
    }
}

/// The quantile, linear between the two values nearest to it.
fn quantile(mut values: Vec<f32>, ratio: f64) -> f32 {
    values.sort_by(f32::total_cmp);
    let at = ratio.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let below = at.floor() as usize;
    let above = (below + 1).min(values.len() - 1);
    values[below] + (values[above] - values[below]) * (at - below as f64) as f32
}
