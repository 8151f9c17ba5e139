//! Softmax over one dimension.

use candle_core::shape::Dim;
use candle_core::{D, Result, Shape, Tensor};
use rayon::prelude::*;

use super::elementwise::CHUNK;
use super::fresh::zeros;
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::simd::{exp_above, max, multiversion, sum_with};

/// `exp(x) / Σ exp(x)` over dimension `dim`, of any shape.
///
/// # Errors
/// If `x` has no such dimension.
pub fn softmax<T: Dim>(x: &Tensor, dim: T) -> Result<Tensor> {
    let dim = dim.to_index(x.shape(), "softmax")?;
    let last = x.rank() - 1;
    if dim != last {
        return softmax(&x.transpose(dim, last)?.contiguous()?, last)?.transpose(dim, last);
    }
    if fast(&[x]) {
        return apply(Softmax, &[x]);
    }
    // The result does not depend on what is subtracted, so no gradient goes through the maximum.
    let top = x.detach().max_keepdim(D::Minus1)?;
    let exp = x.broadcast_sub(&top)?.exp()?;
    exp.broadcast_div(&exp.sum_keepdim(D::Minus1)?)
}

struct Softmax;

/// Elements of as many whole rows as make a task.
fn block(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1) * width.max(1)
}

impl Function for Softmax {
    const NAME: &'static str = "softmax";
    const READS_OUTPUT: bool = true;

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let dims = inputs[0].dims();
        let width = dims[dims.len() - 1];
        let x = inputs[0].contiguous();
        let mut out = zeros(x.len());
        out.par_chunks_mut(block(width))
            .zip(x.par_chunks(block(width)))
            .for_each(|(out, x)| {
                out.copy_from_slice(x);
                rows_forward(out, width);
            });
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        if !inputs[0].track_op() {
            return Ok(vec![None]);
        }
        let width = inputs[0].dim(D::Minus1)?;
        let (held_y, held_grad) = (Held::new(output), Held::new(grad));
        let (y, grad) = (
            held_y.input()?.contiguous(),
            held_grad.input()?.contiguous(),
        );
        let mut out = zeros(y.len());
        out.par_chunks_mut(block(width))
            .zip(
                y.par_chunks(block(width))
                    .zip(grad.par_chunks(block(width))),
            )
            .for_each(|(out, (y, grad))| rows_backward(y, grad, width, out));
        Ok(vec![Some(tensor(out, inputs[0].shape())?)])
    }
}

multiversion! {
    fn rows_forward(rows: &mut [f32], width: usize) {
        for row in rows.chunks_exact_mut(width) {
            let sum = exp_above(row, 1.0, max(row));
            for x in row.iter_mut() {
                *x /= sum;
            }
        }
    }
}

multiversion! {
    fn rows_backward(y: &[f32], grad: &[f32], width: usize, out: &mut [f32]) {
        for ((out, y), grad) in out.chunks_exact_mut(width).zip(y.chunks_exact(width)).zip(grad.chunks_exact(width)) {
            let along = sum_with(y, grad, |y, grad| y * grad);
            for ((out, &y), &grad) in out.iter_mut().zip(y).zip(grad) {
                *out = y * (grad - along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn softmax_is_right_over_any_dimension() {
        for dim in 0..3 {
            check(&[&[3, 5, 21]], |x| softmax(&x[0], dim));
        }
        check(&[&[700, 33]], |x| softmax(&x[0], D::Minus1));
    }

    #[test]
    fn softmax_equals_pytorch() {
        check_golden("softmax", |x| softmax(&x[0], 1));
    }
}
