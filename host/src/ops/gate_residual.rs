//! The gated residual of adaptive layer norm blocks (Peebles and Xie 2023, section 3.2).

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::elementwise::{ROWS, add_rows};
use super::fresh::{Cut, build};
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::simd::multiversion;

/// `x + gate * y`, one gate for all tokens of a sample.
///
/// # Shapes
/// `x [B, T, D]`, `gate [B, D]`, `y [B, T, D]` → `[B, T, D]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn gate_residual(x: &Tensor, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (batch, _, width) = x.dims3()?;
    if y.dims() != x.dims() || gate.dims() != [batch, width] {
        let (x, gate, y) = (x.dims(), gate.dims(), y.dims());
        candle_core::bail!("gate_residual: gate {gate:?} or y {y:?} does not fit x {x:?}");
    }
    if fast(&[x, gate, y]) {
        return apply(GateResidual, &[x, gate, y]);
    }
    x + y.broadcast_mul(&gate.unsqueeze(1)?)?
}

struct GateResidual;

impl Function for GateResidual {
    const NAME: &'static str = "gate_residual";

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let dims = inputs[0].dims();
        let (tokens, width) = (dims[1], dims[2]);
        let (x, gate, y) = (
            inputs[0].contiguous(),
            inputs[1].contiguous(),
            inputs[2].contiguous(),
        );
        let cut = Cut {
            group: tokens * width,
            block: ROWS * width,
        };
        let out = build(x.len(), cut, |sample, at, out| {
            let range = at..at + out.len();
            let gate = &gate[sample * width..(sample + 1) * width];
            rows_forward(&x[range.clone()], gate, &y[range], out)
        });
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (_, tokens, width) = inputs[0].dims3()?;
        let sample = (tokens * width).max(1);
        let block = (ROWS * width).max(1);
        let (held_gate, held_y, held_grad) =
            (Held::new(inputs[1]), Held::new(inputs[2]), Held::new(grad));
        let flat = held_grad.input()?.contiguous();

        let x_grad = inputs[0].track_op().then(|| grad.clone());
        let mut gate_grad = None;
        if inputs[1].track_op() {
            let y = held_y.input()?.contiguous();
            let blocks = sample.div_ceil(block);
            let mut partial = vec![0.0; inputs[1].elem_count() * blocks];
            partial
                .par_chunks_mut((blocks * width).max(1))
                .zip(y.par_chunks(sample).zip(flat.par_chunks(sample)))
                .for_each(|(partial, (y, grad))| {
                    partial
                        .par_chunks_mut(width)
                        .zip(y.par_chunks(block).zip(grad.par_chunks(block)))
                        .for_each(|(sum, (y, grad))| rows_gate(y, grad, sum));
                });
            let mut sums = vec![0.0; inputs[1].elem_count()];
            for (sum, partial) in sums
                .chunks_exact_mut(width.max(1))
                .zip(partial.chunks_exact((blocks * width).max(1)))
            {
                add_rows(sum, partial);
            }
            gate_grad = Some(tensor(sums, inputs[1].shape())?);
        }
        let mut y_grad = None;
        if inputs[2].track_op() {
            let gate = held_gate.input()?.contiguous();
            let cut = Cut {
                group: sample,
                block,
            };
            let out = build(flat.len(), cut, |sample, at, out| {
                let gate = &gate[sample * width..(sample + 1) * width];
                rows_scaled(&flat[at..at + out.len()], gate, out)
            });
            y_grad = Some(tensor(out, inputs[2].shape())?);
        }
        Ok(vec![x_grad, gate_grad, y_grad])
    }
}

multiversion! {
    fn rows_forward(x: &[f32], gate: &[f32], y: &[f32], out: &mut [f32]) {
        let width = gate.len();
        for ((out, x), y) in out.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(y.chunks_exact(width)) {
            for (((out, &x), &gate), &y) in out.iter_mut().zip(x).zip(gate).zip(y) {
                *out = x + gate * y;
            }
        }
    }
}

multiversion! {
    fn rows_scaled(grad: &[f32], gate: &[f32], out: &mut [f32]) {
        for (out, grad) in out.chunks_exact_mut(gate.len()).zip(grad.chunks_exact(gate.len())) {
            for ((out, &grad), &gate) in out.iter_mut().zip(grad).zip(gate) {
                *out = grad * gate;
            }
        }
    }
}

multiversion! {
    /// Adds each row of `grad y` to `sum`.
    fn rows_gate(y: &[f32], grad: &[f32], sum: &mut [f32]) {
        for (y, grad) in y.chunks_exact(sum.len()).zip(grad.chunks_exact(sum.len())) {
            for ((sum, &y), &grad) in sum.iter_mut().zip(y).zip(grad) {
                *sum += y * grad;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn gate_residual_is_right() {
        check(&[&[2, 3, 5], &[2, 5], &[2, 3, 5]], |x| {
            gate_residual(&x[0], &x[1], &x[2])
        });
        check(&[&[1, 1, 7], &[1, 7], &[1, 1, 7]], |x| {
            gate_residual(&x[0], &x[1], &x[2])
        });
        check(&[&[3, ROWS + 5, 8], &[3, 8], &[3, ROWS + 5, 8]], |x| {
            gate_residual(&x[0], &x[1], &x[2])
        });
    }

    #[test]
    fn gate_residual_equals_pytorch() {
        check_golden("gate_residual", |x| gate_residual(&x[0], &x[1], &x[2]));
    }
}
