//! The gated linear unit with GELU (Shazeer 2020), as the feed-forward layers of Stable Diffusion have it.

use candle_core::{D, Result, Shape, Tensor};

use super::elementwise::ROWS;
use super::fresh::{Cut, build};
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::gelu::gelu_erf;
use super::simd::{multiversion, normal};

/// `value gelu(gate)` with the exact GELU; the first half of the last dimension is the value, the second the gate.
///
/// # Shapes
/// `x [.., 2 D]` → `[.., D]`.
///
/// # Errors
/// If the last dimension is odd or missing.
pub fn geglu(x: &Tensor) -> Result<Tensor> {
    let width = x.dim(D::Minus1)?;
    if !width.is_multiple_of(2) {
        candle_core::bail!("geglu: the last dimension of {:?} must be even", x.dims());
    }
    if fast(&[x]) {
        return apply(Geglu, &[x]);
    }
    let half = width / 2;
    let gate = gelu_erf(&x.narrow(D::Minus1, half, half)?)?;
    x.narrow(D::Minus1, 0, half)? * gate
}

struct Geglu;

impl Function for Geglu {
    const NAME: &'static str = "geglu";
    const READS_OUTPUT: bool = true;

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let mut dims = inputs[0].dims().to_vec();
        let x = inputs[0].contiguous();
        let half = dims.last().map_or(1, |&width| width / 2).max(1);
        if let Some(last) = dims.last_mut() {
            *last /= 2;
        }
        let len = x.len() / 2;
        let out = build(len, Cut::flat(len, ROWS * half), |_, at, out| {
            rows_forward(&x[2 * at..2 * (at + out.len())], half, out)
        });
        Ok((out, dims.into()))
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
        let half = output.dim(D::Minus1)?.max(1);
        let (held, held_grad) = (Held::new(inputs[0]), Held::new(grad));
        let (x, grad) = (held.input()?.contiguous(), held_grad.input()?.contiguous());
        let cut = Cut::flat(x.len(), 2 * ROWS * half);
        let out = build(x.len(), cut, |_, at, out| {
            let range = at..at + out.len();
            rows_backward(&x[range], &grad[at / 2..(at + out.len()) / 2], half, out)
        });
        Ok(vec![Some(tensor(out, inputs[0].shape())?)])
    }
}

multiversion! {
    fn rows_forward(x: &[f32], half: usize, out: &mut [f32]) {
        for (x, out) in x.chunks_exact(2 * half).zip(out.chunks_exact_mut(half)) {
            let (value, gate) = x.split_at(half);
            for ((out, &value), &gate) in out.iter_mut().zip(value).zip(gate) {
                *out = value * (gate * normal(gate).0);
            }
        }
    }
}

multiversion! {
    fn rows_backward(x: &[f32], grad: &[f32], half: usize, out: &mut [f32]) {
        for ((x, grad), out) in x.chunks_exact(2 * half).zip(grad.chunks_exact(half)).zip(out.chunks_exact_mut(2 * half)) {
            let (value, gate) = x.split_at(half);
            let (value_out, gate_out) = out.split_at_mut(half);
            for ((((to_value, to_gate), &value), &gate), &grad) in value_out.iter_mut().zip(gate_out).zip(value).zip(gate).zip(grad) {
                let (below, density) = normal(gate);
                *to_value = grad * gate * below;
                *to_gate = grad * value * (below + gate * density);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn geglu_is_right() {
        check(&[&[2, 3, 10]], |x| geglu(&x[0]));
        check(&[&[1, 2]], |x| geglu(&x[0]));
        check(&[&[2 * ROWS + 3, 34]], |x| geglu(&x[0]));
    }

    #[test]
    fn an_odd_width_is_refused() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &candle_core::Device::Cpu);
        let message = x.and_then(|x| geglu(&x)).expect_err("3 is odd").to_string();
        assert!(message.contains("[2, 3]"), "{message}");
    }

    #[test]
    fn geglu_equals_pytorch() {
        check_golden("geglu", |x| geglu(&x[0]));
    }
}
