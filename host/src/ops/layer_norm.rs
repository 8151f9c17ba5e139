//! Layer normalisation (Ba et al. 2016), plain and with a shift and a scale per sample as adaptive layer norm needs it.
//!
//! Both are `y = norm(x) a + c` with one `a` and `c` for a group of rows: all rows share the layer's weight and bias, or the
//! tokens of a sample share `1 + scale` and `shift`. One function serves both.

use candle_core::{D, DType, Result, Shape, Tensor};
use rayon::prelude::*;

use super::elementwise::{ROWS, add_rows};
use super::fresh::{self, build, zeros};
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::simd::{multiversion, sum_of, sum_with};

/// `(x - mean) / sqrt(variance + eps) * w + b` over the last dimension, with the biased variance.
///
/// # Shapes
/// `x [.., D]`, `w [D]`, `b [D]` → `[.., D]`. Without `w` the factor is one, without `b` the offset zero.
///
/// # Errors
/// If the shapes do not fit.
pub fn layer_norm(x: &Tensor, w: Option<&Tensor>, b: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    for affine in [w, b].into_iter().flatten() {
        if affine.dims() != [width] {
            candle_core::bail!(
                "layer_norm: weight or bias {:?} does not fit x {:?}",
                affine.dims(),
                x.dims()
            );
        }
    }
    let operands: Vec<&Tensor> = [Some(x), w, b].into_iter().flatten().collect();
    if !fast(&operands) {
        let mut y = normalise(x, eps)?;
        if let Some(w) = w {
            y = y.broadcast_mul(w)?;
        }
        return match b {
            Some(b) => y.broadcast_add(b),
            None => Ok(y),
        };
    }
    let function = Normalise {
        eps: eps as f32,
        factor: if w.is_some() {
            Factor::Whole
        } else {
            Factor::None
        },
        offset: b.is_some(),
    };
    apply(function, &operands)
}

/// `norm(x) * (1 + scale) + shift`, where `norm` is [`layer_norm`] without weight and bias: adaptive layer norm (Perez et al.
/// 2018; Peebles and Xie 2023, section 3.2).
///
/// # Shapes
/// `x [B, T, D]`, `shift [B, D]`, `scale [B, D]` → `[B, T, D]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn layer_norm_modulate(x: &Tensor, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
    let (batch, _, width) = x.dims3()?;
    if shift.dims() != [batch, width] || scale.dims() != [batch, width] {
        let (x, shift, scale) = (x.dims(), shift.dims(), scale.dims());
        candle_core::bail!(
            "layer_norm_modulate: shift {shift:?} or scale {scale:?} does not fit x {x:?}"
        );
    }
    if !fast(&[x, shift, scale]) {
        return normalise(x, eps)?
            .broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?
            .broadcast_add(&shift.unsqueeze(1)?);
    }
    let function = Normalise {
        eps: eps as f32,
        factor: Factor::OnePlus,
        offset: true,
    };
    apply(function, &[x, scale, shift])
}

/// Half-precision inputs are normalised in f32, as PyTorch does.
fn normalise(x: &Tensor, eps: f64) -> Result<Tensor> {
    let dtype = x.dtype();
    let x = match dtype {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
    let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
    x.broadcast_div(&(variance + eps)?.sqrt()?)?.to_dtype(dtype)
}

#[derive(Clone, Copy, PartialEq)]
enum Factor {
    /// One, without an operand.
    None,
    /// The operand.
    Whole,
    /// One plus the operand.
    OnePlus,
}

/// Operands: `x [groups.., rows, D]`, then the factor if there is one, then the offset if there is one: `[D]` or `[B, D]`.
struct Normalise {
    eps: f32,
    factor: Factor,
    offset: bool,
}

/// How `x` divides: groups that share a factor and an offset, and the elements of a group and of a row.
struct Cut {
    groups: usize,
    group: usize,
    width: usize,
}

impl Normalise {
    fn cut(&self, dims: &[usize]) -> Cut {
        let elements = dims.iter().product::<usize>();
        let groups = if self.factor == Factor::OnePlus {
            dims[0]
        } else {
            1
        };
        Cut {
            groups,
            group: elements / groups.max(1),
            width: dims[dims.len() - 1],
        }
    }

    fn factors(&self, cut: &Cut, operand: Option<Input<'_>>) -> Vec<f32> {
        match (self.factor, operand) {
            (Factor::Whole, Some(operand)) => operand.contiguous().into_owned(),
            (Factor::OnePlus, Some(operand)) => operand
                .contiguous()
                .iter()
                .map(|scale| 1.0 + scale)
                .collect(),
            _ => vec![1.0; cut.groups * cut.width],
        }
    }

    fn offset_index(&self) -> Option<usize> {
        self.offset
            .then_some(1 + usize::from(self.factor != Factor::None))
    }
}

impl Function for Normalise {
    const NAME: &'static str = "layer_norm";

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let cut = self.cut(inputs[0].dims());
        let x = inputs[0].contiguous();
        if x.is_empty() {
            return Ok((Vec::new(), inputs[0].layout.shape().clone()));
        }
        let factors = self.factors(&cut, inputs.get(1).copied());
        let offsets = match self.offset_index() {
            Some(index) => inputs[index].contiguous().into_owned(),
            None => vec![0.0; factors.len()],
        };
        let pieces = fresh::Cut {
            group: cut.group,
            block: ROWS * cut.width,
        };
        let out = build(x.len(), pieces, |group, at, out| {
            let own = group * cut.width..(group + 1) * cut.width;
            let (factor, offset) = (&factors[own.clone()], &offsets[own]);
            rows_forward(&x[at..at + out.len()], factor, offset, self.eps, out)
        });
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut grads = vec![None; inputs.len()];
        let cut = self.cut(inputs[0].dims());
        let (held_x, held_grad) = (Held::new(inputs[0]), Held::new(grad));
        let (x, grad) = (
            held_x.input()?.contiguous(),
            held_grad.input()?.contiguous(),
        );
        if x.is_empty() {
            return Ok(grads);
        }
        let held_factor = inputs.get(1).copied().map(Held::new);
        let factors = self.factors(&cut, held_factor.as_ref().map(Held::input).transpose()?);

        let block = ROWS * cut.width;
        let blocks = cut.group.div_ceil(block);
        let mut x_grad = zeros(x.len());
        // Each block of rows sums its own factor and offset gradients, side by side; added in order below.
        let pair = 2 * cut.width;
        let mut partial = vec![0.0; cut.groups * blocks * pair];
        x_grad
            .par_chunks_mut(cut.group)
            .zip(x.par_chunks(cut.group).zip(grad.par_chunks(cut.group)))
            .zip(
                factors
                    .par_chunks(cut.width)
                    .zip(partial.par_chunks_mut(blocks * pair)),
            )
            .for_each(|((x_grad, (x, grad)), (factor, partial))| {
                x_grad
                    .par_chunks_mut(block)
                    .zip(x.par_chunks(block).zip(grad.par_chunks(block)))
                    .zip(partial.par_chunks_mut(pair))
                    .for_each(|((x_grad, (x, grad)), partial)| {
                        rows_backward(x, grad, factor, self.eps, x_grad, partial);
                    });
            });

        let (mut factor_grad, mut offset_grad) = (Vec::new(), Vec::new());
        for partial in partial.chunks_exact(blocks * pair) {
            let mut sum = vec![0.0; pair];
            add_rows(&mut sum, partial);
            factor_grad.extend_from_slice(&sum[..cut.width]);
            offset_grad.extend_from_slice(&sum[cut.width..]);
        }
        if inputs[0].track_op() {
            grads[0] = Some(tensor(x_grad, inputs[0].shape())?);
        }
        if self.factor != Factor::None && inputs[1].track_op() {
            grads[1] = Some(tensor(factor_grad, inputs[1].shape())?);
        }
        if let Some(index) = self.offset_index()
            && inputs[index].track_op()
        {
            grads[index] = Some(tensor(offset_grad, inputs[index].shape())?);
        }
        Ok(grads)
    }
}

/// Mean and reciprocal standard deviation of a row.
#[inline(always)]
fn moments(x: &[f32], eps: f32) -> (f32, f32) {
    let count = x.len() as f32;
    let mean = sum_of(x, |x| x) / count;
    let variance = sum_of(x, |x| (x - mean) * (x - mean)) / count;
    (mean, 1.0 / (variance + eps).sqrt())
}

multiversion! {
    fn rows_forward(x: &[f32], factor: &[f32], offset: &[f32], eps: f32, out: &mut [f32]) {
        let width = factor.len();
        for (out, x) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)) {
            let (mean, scale) = moments(x, eps);
            for (((out, &x), &factor), &offset) in out.iter_mut().zip(x).zip(factor).zip(offset) {
                *out = (x - mean) * scale * factor + offset;
            }
        }
    }
}

multiversion! {
    /// `partial` takes the rows' sums of `grad norm(x)` and of `grad`, one after the other.
    fn rows_backward(x: &[f32], grad: &[f32], factor: &[f32], eps: f32, x_grad: &mut [f32], partial: &mut [f32]) {
        let width = factor.len();
        let (factor_grad, offset_grad) = partial.split_at_mut(width);
        for ((x_grad, x), grad) in x_grad.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width)) {
            let (mean, scale) = moments(x, eps);
            for (((out, &grad), &factor), sum) in x_grad.iter_mut().zip(grad).zip(factor).zip(offset_grad.iter_mut()) {
                *sum += grad;
                *out = grad * factor;
            }
            for ((sum, &grad), &x) in factor_grad.iter_mut().zip(grad).zip(x) {
                *sum += grad * ((x - mean) * scale);
            }
            let count = width as f32;
            let along_ones = sum_of(x_grad, |g| g) / count;
            let along_norm = sum_with(x_grad, x, |g, x| g * ((x - mean) * scale)) / count;
            for (out, &x) in x_grad.iter_mut().zip(x) {
                *out = scale * (*out - along_ones - (x - mean) * scale * along_norm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    const EPS: f64 = 1e-6;

    #[test]
    fn layer_norm_is_right() {
        check(&[&[2, 3, 19], &[19], &[19]], |x| {
            layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS)
        });
        check(&[&[2, 3, 19], &[19]], |x| {
            layer_norm(&x[0], Some(&x[1]), None, EPS)
        });
        check(&[&[2, 3, 19], &[19]], |x| {
            layer_norm(&x[0], None, Some(&x[1]), EPS)
        });
        check(&[&[19]], |x| layer_norm(&x[0], None, None, EPS));
        check(&[&[2 * ROWS + 5, 33], &[33], &[33]], |x| {
            layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS)
        });
    }

    #[test]
    fn layer_norm_modulate_is_right() {
        check(&[&[2, 3, 19], &[2, 19], &[2, 19]], |x| {
            layer_norm_modulate(&x[0], &x[1], &x[2], EPS)
        });
        check(&[&[1, 1, 7], &[1, 7], &[1, 7]], |x| {
            layer_norm_modulate(&x[0], &x[1], &x[2], EPS)
        });
        check(&[&[3, ROWS + 5, 8], &[3, 8], &[3, 8]], |x| {
            layer_norm_modulate(&x[0], &x[1], &x[2], EPS)
        });
    }

    #[test]
    fn norms_equal_pytorch() {
        check_golden("layer_norm", |x| {
            layer_norm(&x[0], Some(&x[1]), Some(&x[2]), EPS)
        });
        check_golden("layer_norm_modulate", |x| {
            layer_norm_modulate(&x[0], &x[1], &x[2], EPS)
        });
    }
}
