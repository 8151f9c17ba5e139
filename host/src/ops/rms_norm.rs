//! Root mean square normalisation (Zhang and Sennrich 2019).

use candle_core::{D, DType, Result, Shape, Tensor};
use rayon::prelude::*;

use super::elementwise::{ROWS, add_rows};
use super::fresh::zeros;
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::simd::{multiversion, sum_of, sum_with};

/// `x / sqrt(mean(x²) + eps) * w` over the last dimension.
///
/// # Shapes
/// `x [.., D]`, `w [D]` → `[.., D]`. Without `w` the factor is one.
///
/// # Errors
/// If the shapes do not fit.
pub fn rms_norm(x: &Tensor, w: Option<&Tensor>, eps: f64) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if let Some(w) = w
        && w.dims() != [width]
    {
        candle_core::bail!(
            "rms_norm: weight {:?} does not fit x {:?}",
            w.dims(),
            x.dims()
        );
    }
    let operands: Vec<&Tensor> = [Some(x), w].into_iter().flatten().collect();
    if fast(&operands) {
        return apply(RmsNorm { eps: eps as f32 }, &operands);
    }
    let dtype = x.dtype();
    let wide = match dtype {
        DType::F16 | DType::BF16 => x.to_dtype(DType::F32)?,
        _ => x.clone(),
    };
    let mean_square = wide.sqr()?.mean_keepdim(D::Minus1)?;
    let y = wide
        .broadcast_div(&(mean_square + eps)?.sqrt()?)?
        .to_dtype(dtype)?;
    match w {
        Some(w) => y.broadcast_mul(w),
        None => Ok(y),
    }
}

struct RmsNorm {
    eps: f32,
}

impl Function for RmsNorm {
    const NAME: &'static str = "rms_norm";

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let dims = inputs[0].dims();
        let width = dims[dims.len() - 1];
        let x = inputs[0].contiguous();
        let w = inputs
            .get(1)
            .map_or_else(|| vec![1.0; width].into(), Input::contiguous);
        let mut out = zeros(x.len());
        let block = (ROWS * width).max(1);
        out.par_chunks_mut(block)
            .zip(x.par_chunks(block))
            .for_each(|(out, x)| rows_forward(x, &w, self.eps, out));
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let width = inputs[0].dim(D::Minus1)?;
        let (held_x, held_grad) = (Held::new(inputs[0]), Held::new(grad));
        let (x, grad) = (
            held_x.input()?.contiguous(),
            held_grad.input()?.contiguous(),
        );
        let held_w = inputs.get(1).copied().map(Held::new);
        let w = match &held_w {
            Some(held) => held.input()?.contiguous(),
            None => vec![1.0; width].into(),
        };
        let block = (ROWS * width).max(1);
        let mut x_grad = zeros(x.len());
        let mut partial = vec![0.0; x.len().div_ceil(block) * width];
        x_grad
            .par_chunks_mut(block)
            .zip(x.par_chunks(block).zip(grad.par_chunks(block)))
            .zip(partial.par_chunks_mut(width.max(1)))
            .for_each(|((x_grad, (x, grad)), partial)| {
                rows_backward(x, grad, &w, self.eps, x_grad, partial)
            });

        let mut grads = vec![None; inputs.len()];
        if inputs[0].track_op() {
            grads[0] = Some(tensor(x_grad, inputs[0].shape())?);
        }
        if let Some(w) = inputs.get(1)
            && w.track_op()
        {
            let mut sum = vec![0.0; width];
            add_rows(&mut sum, &partial);
            grads[1] = Some(tensor(sum, w.shape())?);
        }
        Ok(grads)
    }
}

#[inline(always)]
fn scale_of(x: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of(x, |x| x * x) / x.len() as f32 + eps).sqrt()
}

multiversion! {
    fn rows_forward(x: &[f32], w: &[f32], eps: f32, out: &mut [f32]) {
        for (out, x) in out.chunks_exact_mut(w.len()).zip(x.chunks_exact(w.len())) {
            let scale = scale_of(x, eps);
            for ((out, &x), &w) in out.iter_mut().zip(x).zip(w) {
                *out = x * scale * w;
            }
        }
    }
}

multiversion! {
    fn rows_backward(x: &[f32], grad: &[f32], w: &[f32], eps: f32, x_grad: &mut [f32], w_grad: &mut [f32]) {
        let width = w.len();
        for ((x_grad, x), grad) in x_grad.chunks_exact_mut(width).zip(x.chunks_exact(width)).zip(grad.chunks_exact(width)) {
            let scale = scale_of(x, eps);
            for ((sum, &grad), &x) in w_grad.iter_mut().zip(grad).zip(x) {
                *sum += grad * x * scale;
            }
            for ((out, &grad), &w) in x_grad.iter_mut().zip(grad).zip(w) {
                *out = grad * w;
            }
            let along = sum_with(x_grad, x, |g, x| g * x) * scale * scale / width as f32;
            for (out, &x) in x_grad.iter_mut().zip(x) {
                *out = scale * (*out - x * along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn rms_norm_is_right() {
        check(&[&[2, 3, 19], &[19]], |x| {
            rms_norm(&x[0], Some(&x[1]), 1e-6)
        });
        check(&[&[2 * ROWS + 5, 33]], |x| rms_norm(&x[0], None, 1e-6));
    }

    #[test]
    fn rms_norm_equals_pytorch() {
        check_golden("rms_norm", |x| rms_norm(&x[0], Some(&x[1]), 1e-6));
    }
}
