//! Group normalisation (Wu and He 2018), plain and followed by SiLU in the same pass, as convolutional backbones use it.

use candle_core::{DType, Result, Shape, Tensor};
use rayon::prelude::*;

use super::elementwise::add_rows;
use super::fresh::zeros;
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::simd::{multiversion, sigmoid, total_with};

/// Normalises each sample over groups of neighbouring channels and all positions, then `* w + b` by channel.
///
/// # Shapes
/// `x [B, C, ..]`, `w [C]`, `b [C]` → `[B, C, ..]`.
///
/// # Errors
/// If the shapes do not fit or the channels do not divide into `groups`.
pub fn group_norm(x: &Tensor, groups: usize, w: &Tensor, b: &Tensor, eps: f64) -> Result<Tensor> {
    run(x, groups, w, b, eps, After::Nothing)
}

/// [`silu`](super::silu()) of [`group_norm`].
///
/// # Errors
/// As [`group_norm`].
pub fn group_norm_silu(
    x: &Tensor,
    groups: usize,
    w: &Tensor,
    b: &Tensor,
    eps: f64,
) -> Result<Tensor> {
    run(x, groups, w, b, eps, After::Silu)
}

#[derive(Clone, Copy, PartialEq)]
enum After {
    Nothing,
    Silu,
}

fn run(
    x: &Tensor,
    groups: usize,
    w: &Tensor,
    b: &Tensor,
    eps: f64,
    after: After,
) -> Result<Tensor> {
    let channels = x.dim(1)?;
    if groups == 0 || channels % groups != 0 || w.dims() != [channels] || b.dims() != [channels] {
        let (x, w, b) = (x.dims(), w.dims(), b.dims());
        candle_core::bail!(
            "group_norm: weight {w:?} or bias {b:?} does not fit x {x:?}, or {groups} groups do not"
        );
    }
    if fast(&[x, w, b]) {
        let eps = eps as f32;
        return apply(GroupNorm { groups, eps, after }, &[x, w, b]);
    }
    let dtype = x.dtype();
    let wide = match dtype {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let batch = x.dim(0)?;
    let grouped = wide.reshape((batch, groups, x.elem_count() / (batch * groups).max(1)))?;
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(2)?)?;
    let variance = centred.sqr()?.mean_keepdim(2)?;
    let y = centred.broadcast_div(&(variance + eps)?.sqrt()?)?;
    let mut by_channel = vec![1; x.rank()];
    by_channel[1] = channels;
    let y = y.reshape(x.shape())?.to_dtype(dtype)?;
    let y = y.broadcast_mul(&w.reshape(by_channel.as_slice())?)?;
    let y = y.broadcast_add(&b.reshape(by_channel.as_slice())?)?;
    match after {
        After::Nothing => Ok(y),
        After::Silu => super::silu(&y),
    }
}

struct GroupNorm {
    groups: usize,
    eps: f32,
    after: After,
}

impl Function for GroupNorm {
    const NAME: &'static str = "group_norm";

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let dims = inputs[0].dims();
        let (x, w, b) = (
            inputs[0].contiguous(),
            inputs[1].contiguous(),
            inputs[2].contiguous(),
        );
        let mut out = zeros(x.len());
        if !out.is_empty() {
            let group = x.len() / (dims[0] * self.groups);
            let channels = dims[1] / self.groups;
            let silu = self.after == After::Silu;
            out.par_chunks_mut(group)
                .zip(x.par_chunks(group))
                .enumerate()
                .for_each(|(index, (out, x))| {
                    let first = index % self.groups * channels;
                    let (w, b) = (&w[first..first + channels], &b[first..first + channels]);
                    group_forward(x, w, b, self.eps, silu, out);
                });
        }
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (batch, all) = (inputs[0].dim(0)?, inputs[0].dim(1)?);
        let held = [
            Held::new(inputs[0]),
            Held::new(inputs[1]),
            Held::new(inputs[2]),
        ];
        let (x, w, b) = (
            held[0].input()?.contiguous(),
            held[1].input()?.contiguous(),
            held[2].input()?.contiguous(),
        );
        let held_grad = Held::new(grad);
        let grad = held_grad.input()?.contiguous();
        if x.is_empty() {
            return Ok(vec![None, None, None]);
        }
        let group = x.len() / (batch * self.groups);
        let channels = all / self.groups;
        let silu = self.after == After::Silu;
        let mut x_grad = zeros(x.len());
        // By sample and channel, so that the sum over samples has a fixed order.
        let (mut w_partial, mut b_partial) = (vec![0.0; batch * all], vec![0.0; batch * all]);
        x_grad
            .par_chunks_mut(group)
            .zip(x.par_chunks(group).zip(grad.par_chunks(group)))
            .zip(
                w_partial
                    .par_chunks_mut(channels)
                    .zip(b_partial.par_chunks_mut(channels)),
            )
            .enumerate()
            .for_each(|(index, ((x_grad, (x, grad)), (w_grad, b_grad)))| {
                let first = index % self.groups * channels;
                let (w, b) = (&w[first..first + channels], &b[first..first + channels]);
                group_backward(x, grad, w, b, self.eps, silu, x_grad, w_grad, b_grad);
            });
        let mut grads = vec![None; 3];
        if inputs[0].track_op() {
            grads[0] = Some(tensor(x_grad, inputs[0].shape())?);
        }
        for (index, partial) in [(1, w_partial), (2, b_partial)] {
            if inputs[index].track_op() {
                let mut sum = vec![0.0; all];
                add_rows(&mut sum, &partial);
                grads[index] = Some(tensor(sum, inputs[index].shape())?);
            }
        }
        Ok(grads)
    }
}

/// Mean and reciprocal standard deviation of a group.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f64;
    let mean = (total_with(x, x, |x, _| x) / count) as f32;
    let variance = (total_with(x, x, |x, _| (x - mean) * (x - mean)) / count) as f32;
    (mean, 1.0 / (variance + eps).sqrt())
}

multiversion! {
    fn group_forward(x: &[f32], w: &[f32], b: &[f32], eps: f32, silu: bool, out: &mut [f32]) {
        let (mean, scale) = moments(x, eps);
        let positions = x.len() / w.len();
        for (((out, x), &w), &b) in out.chunks_exact_mut(positions).zip(x.chunks_exact(positions)).zip(w).zip(b) {
            if silu {
                for (out, &x) in out.iter_mut().zip(x) {
                    let z = (x - mean) * scale * w + b;
                    *out = z * sigmoid(z);
                }
            } else {
                for (out, &x) in out.iter_mut().zip(x) {
                    *out = (x - mean) * scale * w + b;
                }
            }
        }
    }
}

multiversion! {
    fn group_backward(
        x: &[f32], grad: &[f32], w: &[f32], b: &[f32], eps: f32, silu: bool,
        x_grad: &mut [f32], w_grad: &mut [f32], b_grad: &mut [f32],
    ) {
        let (mean, scale) = moments(x, eps);
        let positions = x.len() / w.len();
        let (mut along_ones, mut along_norm) = (0.0, 0.0);
        for channel in 0..w.len() {
            let range = channel * positions..(channel + 1) * positions;
            let (x, grad, out) = (&x[range.clone()], &grad[range.clone()], &mut x_grad[range]);
            let (w, b) = (w[channel], b[channel]);
            // The gradient of the affine map's result first, in the place of the result.
            if silu {
                for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
                    let z = (x - mean) * scale * w + b;
                    let s = sigmoid(z);
                    *out = grad * s * (1.0 + z * (1.0 - s));
                }
            } else {
                out.copy_from_slice(grad);
            }
            let offset = total_with(out, out, |g, _| g);
            let factor = total_with(out, x, |g, x| g * ((x - mean) * scale));
            b_grad[channel] = offset as f32;
            w_grad[channel] = factor as f32;
            along_ones += offset * f64::from(w);
            along_norm += factor * f64::from(w);
        }
        let count = x.len() as f64;
        let (along_ones, along_norm) = ((along_ones / count) as f32, (along_norm / count) as f32);
        for ((out, x), &w) in x_grad.chunks_exact_mut(positions).zip(x.chunks_exact(positions)).zip(w) {
            for (out, &x) in out.iter_mut().zip(x) {
                *out = scale * (*out * w - along_ones - (x - mean) * scale * along_norm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn group_norm_is_right() {
        check(&[&[2, 6, 5, 3], &[6], &[6]], |x| {
            group_norm(&x[0], 3, &x[1], &x[2], 1e-5)
        });
        check(&[&[1, 4, 7], &[4], &[4]], |x| {
            group_norm(&x[0], 1, &x[1], &x[2], 1e-5)
        });
        check(&[&[3, 4, 90, 70], &[4], &[4]], |x| {
            group_norm(&x[0], 2, &x[1], &x[2], 1e-5)
        });
    }

    #[test]
    fn group_norm_with_silu_is_right() {
        check(&[&[2, 6, 5, 3], &[6], &[6]], |x| {
            group_norm_silu(&x[0], 2, &x[1], &x[2], 1e-5)
        });
    }

    #[test]
    fn group_norm_equals_pytorch() {
        check_golden("group_norm", |x| group_norm(&x[0], 3, &x[1], &x[2], 1e-5));
        check_golden("group_norm_silu", |x| {
            group_norm_silu(&x[0], 3, &x[1], &x[2], 1e-5)
        });
    }
}
