//! Shared parallel loops: activations of one operand, and sums over rows in a fixed order.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::fresh::{Cut, build};
use super::function::{Function, Held, Input, tensor};
use super::simd::multiversion;

/// Elements a task takes; fixed, and small enough for a core's own cache.
pub(super) const CHUNK: usize = 16 * 1024;

/// Rows a task sums before the partial sums are added in order; fixed, so that sums do not depend on the thread count.
pub(super) const ROWS: usize = 64;

/// A new vector, element by element from two of its length: `f` writes chunks, in parallel.
pub(super) fn zip(a: &[f32], b: &[f32], f: impl Fn(&[f32], &[f32], &mut [f32]) + Sync) -> Vec<f32> {
    build(a.len(), Cut::flat(a.len(), CHUNK), |_, at, out| {
        let range = at..at + out.len();
        f(&a[range.clone()], &b[range], out)
    })
}

/// The same of one operand.
pub(super) fn map(x: &[f32], f: impl Fn(&[f32], &mut [f32]) + Sync) -> Vec<f32> {
    build(x.len(), Cut::flat(x.len(), CHUNK), |_, at, out| {
        f(&x[at..at + out.len()], out)
    })
}

/// An activation: a function of each element by itself.
pub(super) struct Activation {
    /// `(x, out)`: writes the values.
    pub(super) value: fn(&[f32], &mut [f32]),
    /// `(x, grad of out, grad of x)`: writes the last.
    pub(super) derivative: fn(&[f32], &[f32], &mut [f32]),
}

impl Function for Activation {
    const NAME: &'static str = "activation";

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let x = inputs[0].contiguous();
        let out = map(&x, self.value);
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        if !inputs[0].track_op() {
            return Ok(vec![None]);
        }
        let (held, held_grad) = (Held::new(inputs[0]), Held::new(grad));
        let (x, grad) = (held.input()?.contiguous(), held_grad.input()?.contiguous());
        let out = zip(&x, &grad, self.derivative);
        Ok(vec![Some(tensor(out, inputs[0].shape())?)])
    }
}

/// The sum of the rows of a row-major matrix, `columns` wide.
pub(super) fn sum_rows(data: &[f32], columns: usize) -> Vec<f32> {
    if columns == 0 {
        return Vec::new();
    }
    let blocks = data.len().div_ceil(ROWS * columns);
    let mut partial = vec![0.0; blocks * columns];
    partial
        .par_chunks_mut(columns)
        .zip(data.par_chunks(ROWS * columns))
        .for_each(|(sum, block)| add_rows(sum, block));
    let mut sum = vec![0.0; columns];
    add_rows(&mut sum, &partial);
    sum
}

multiversion! {
    /// Adds each row of `rows` to `sum`; a row is as long as `sum`.
    pub(super) fn add_rows(sum: &mut [f32], rows: &[f32]) {
        for row in rows.chunks_exact(sum.len()) {
            for (sum, x) in sum.iter_mut().zip(row) {
                *sum += x;
            }
        }
    }
}
