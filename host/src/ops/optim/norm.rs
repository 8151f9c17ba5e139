//! The norm of all gradients together, for clipping and for the log.

use candle_core::{DType, Result, Tensor};
use rayon::prelude::*;

use crate::ops::elementwise::CHUNK;
use crate::ops::function::{Held, fast};
use crate::ops::simd::{multiversion, sum_of};

/// The Euclidean norm of all elements of all tensors. Not finite if an element is not.
///
/// Summed in a fixed order: f32 within blocks, f64 over blocks.
///
/// # Errors
/// If a tensor cannot be read.
pub fn grad_norm<'a>(grads: impl IntoIterator<Item = &'a Tensor>) -> Result<f64> {
    let mut total = 0.0;
    for grad in grads {
        if fast(&[grad]) {
            let held = Held::new(grad);
            let values = held.input()?.contiguous();
            let blocks: Vec<f32> = values.par_chunks(CHUNK).map(squares).collect();
            total += blocks.iter().copied().map(f64::from).sum::<f64>();
        } else {
            total += f64::from(
                grad.to_dtype(DType::F32)?
                    .sqr()?
                    .sum_all()?
                    .to_scalar::<f32>()?,
            );
        }
    }
    Ok(total.sqrt())
}

/// The factor that brings a gradient of this norm to at most `max_norm`, as PyTorch's `clip_grad_norm_` computes it; to be
/// given to [`AdamW::step`](super::AdamW::step), which applies it in its own pass.
pub fn clip_scale(norm: f64, max_norm: f64) -> f64 {
    (max_norm / (norm + 1e-6)).min(1.0)
}

multiversion! {
    fn squares(x: &[f32]) -> f32 {
        sum_of(x, |x| x * x)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_norm_spans_all_tensors_and_the_scale_never_enlarges() {
        let a = Tensor::new(&[3f32, 0.0], &Device::Cpu).unwrap();
        let b = Tensor::new(&[[0f64], [4.0]], &Device::Cpu).unwrap();
        let norm = grad_norm([&a, &b]).unwrap();
        assert_eq!(norm, 5.0);
        assert!((clip_scale(norm, 1.0) - 0.2).abs() < 1e-6);
        assert_eq!(clip_scale(norm, 10.0), 1.0);
    }

    #[test]
    fn an_element_that_is_not_finite_shows() {
        let a = Tensor::new(&[3f32, f32::NAN], &Device::Cpu).unwrap();
        assert!(grad_norm([&a]).unwrap().is_nan());
    }
}
