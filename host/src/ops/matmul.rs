//! The batched matrix product.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::function::{Function, Held, Input, apply, fast, tensor};
use super::gemm::{Matrix, Threads, Write, product};

/// `a b` over the last two dimensions; the dimensions before them broadcast against each other.
///
/// # Shapes
/// `a [.., M, K]`, `b [.., K, N]` → `[.., M, N]`. Any strides; nothing is copied.
///
/// # Errors
/// If the shapes do not fit, or an operand has fewer than two dimensions.
pub fn matmul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if !fast(&[a, b]) {
        return a.broadcast_matmul(b);
    }
    if a.rank() < 2 || b.rank() < 2 || a.dims()[a.rank() - 1] != b.dims()[b.rank() - 2] {
        candle_core::bail!(
            "matmul: shapes {:?} and {:?} do not fit",
            a.dims(),
            b.dims()
        );
    }
    let (a_batch, a_matrix) = a.dims().split_at(a.rank() - 2);
    let (b_batch, b_matrix) = b.dims().split_at(b.rank() - 2);
    if b_batch.is_empty() && !a_batch.is_empty() && a.is_contiguous() {
        // One tall product instead of a batch, which also makes the gradient of `b` one product.
        let rows = a_batch.iter().product::<usize>() * a_matrix[0];
        let flat = matmul(&a.reshape((rows, a_matrix[1]))?, b)?;
        return flat.reshape([a_batch, &[a_matrix[0], b_matrix[1]]].concat());
    }
    let batch = Shape::from(a_batch).broadcast_shape_binary_op(&Shape::from(b_batch), "matmul")?;
    let batched = |x: &Tensor, batches: &[usize], matrix: &[usize]| {
        if batches == batch.dims() {
            Ok(x.clone())
        } else {
            x.broadcast_as([batch.dims(), matrix].concat())
        }
    };
    let (a, b) = (
        batched(a, a_batch, a_matrix)?,
        batched(b, b_batch, b_matrix)?,
    );
    apply(Matmul, &[&a, &b])
}

/// Operands of equal batch dimensions, of any strides.
struct Matmul;

/// The matrix of each batch index, in order.
fn matrices(x: Input<'_>) -> Vec<Matrix<'_>> {
    let (dims, stride) = (x.dims(), x.layout.stride());
    let (batch, matrix) = dims.split_at(dims.len() - 2);
    let (batch_stride, matrix_stride) = stride.split_at(dims.len() - 2);
    let mut starts = vec![x.layout.start_offset()];
    for (&count, &stride) in batch.iter().zip(batch_stride) {
        starts = starts
            .iter()
            .flat_map(|start| (0..count).map(move |i| start + i * stride))
            .collect();
    }
    starts
        .into_iter()
        .map(|start| {
            Matrix::strided(
                &x.data[start..],
                [matrix[0], matrix[1]],
                [matrix_stride[0], matrix_stride[1]],
            )
        })
        .collect()
}

/// All products, one after the other in the result.
fn products(a: &[Matrix<'_>], b: &[Matrix<'_>], [m, n, k]: [usize; 3]) -> Vec<f32> {
    /// Multiply-adds from which one product keeps every thread busy by itself.
    const LARGE: usize = 1 << 24;
    let mut out = vec![0.0; a.len() * m * n];
    if out.is_empty() {
        return out;
    }
    let write = Write::Replace { scale: 1.0 };
    if a.len() == 1 || m * n * k >= LARGE {
        for ((out, &a), &b) in out.chunks_exact_mut(m * n).zip(a).zip(b) {
            product(out, n, a, b, write, Threads::All);
        }
    } else {
        out.par_chunks_exact_mut(m * n)
            .zip(a.par_iter().zip(b))
            .for_each(|(out, (&a, &b))| product(out, n, a, b, write, Threads::One));
    }
    out
}

impl Function for Matmul {
    const NAME: &'static str = "matmul";

    fn forward(&self, operands: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (a, b) = (operands[0], operands[1]);
        let (batch, [m, k]) = split(a.dims());
        let (_, [_, n]) = split(b.dims());
        let out = products(&matrices(a), &matrices(b), [m, n, k]);
        Ok((out, [batch, &[m, n]].concat().into()))
    }

    fn backward(
        &self,
        operands: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (a, b) = (operands[0], operands[1]);
        let (_, [m, k]) = split(a.dims());
        let (_, [_, n]) = split(b.dims());
        let held = Held::new(grad);
        let grad = matrices(held.input()?);
        let mut grads = vec![None, None];
        if a.track_op() {
            let held = Held::new(b);
            let b: Vec<_> = matrices(held.input()?).into_iter().map(Matrix::t).collect();
            grads[0] = Some(tensor(products(&grad, &b, [m, k, n]), a.shape())?);
        }
        if b.track_op() {
            let held = Held::new(a);
            let a: Vec<_> = matrices(held.input()?).into_iter().map(Matrix::t).collect();
            grads[1] = Some(tensor(products(&a, &grad, [k, n, m]), b.shape())?);
        }
        Ok(grads)
    }
}

fn split(dims: &[usize]) -> (&[usize], [usize; 2]) {
    let (batch, matrix) = dims.split_at(dims.len() - 2);
    (batch, [matrix[0], matrix[1]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn matmul_is_right() {
        check(&[&[3, 4], &[4, 5]], |x| matmul(&x[0], &x[1]));
        check(&[&[2, 3, 4, 5], &[2, 3, 5, 6]], |x| matmul(&x[0], &x[1]));
        check(&[&[1, 1, 7], &[1, 7, 1]], |x| matmul(&x[0], &x[1]));
    }

    #[test]
    fn batch_dimensions_broadcast() {
        check(&[&[2, 3, 4, 5], &[5, 6]], |x| matmul(&x[0], &x[1]));
        check(&[&[4, 5], &[3, 5, 6]], |x| matmul(&x[0], &x[1]));
        check(&[&[2, 1, 4, 5], &[1, 3, 5, 6]], |x| matmul(&x[0], &x[1]));
    }

    #[test]
    fn matmul_equals_pytorch() {
        check_golden("matmul", |x| matmul(&x[0], &x[1]));
    }
}
