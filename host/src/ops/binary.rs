//! Sums and products of two tensors of one shape.

use candle_core::{Result, Shape, Tensor};

use super::elementwise::{map, zip};
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::simd::multiversion;

/// `a + factor b`, of one shape.
///
/// # Errors
/// If the shapes differ.
pub fn add_scaled(a: &Tensor, b: &Tensor, factor: f64) -> Result<Tensor> {
    if a.dims() != b.dims() {
        candle_core::bail!(
            "add_scaled: shapes {:?} and {:?} differ",
            a.dims(),
            b.dims()
        );
    }
    if fast(&[a, b]) {
        return apply(AddScaled(factor as f32), &[a, b]);
    }
    a + b.affine(factor, 0.0)?
}

/// `a b`, element by element, of one shape.
///
/// # Errors
/// If the shapes differ.
pub fn multiply(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    if a.dims() != b.dims() {
        candle_core::bail!("multiply: shapes {:?} and {:?} differ", a.dims(), b.dims());
    }
    if fast(&[a, b]) {
        return apply(Multiply, &[a, b]);
    }
    a * b
}

/// `factor x + offset`.
///
/// # Errors
/// If memory cannot be had on the tensor's device.
pub fn affine(x: &Tensor, factor: f64, offset: f64) -> Result<Tensor> {
    if fast(&[x]) {
        let (factor, offset) = (factor as f32, offset as f32);
        return apply(Affine { factor, offset }, &[x]);
    }
    x.affine(factor, offset)
}

struct AddScaled(f32);

impl Function for AddScaled {
    const NAME: &'static str = "add_scaled";

    fn reads(&self, _: &[&Tensor], _: usize) -> bool {
        false
    }

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (a, b) = (inputs[0].contiguous(), inputs[1].contiguous());
        let out = zip(&a, &b, |a, b, out| scaled_sum(a, b, self.0, out));
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let b = match inputs[1].track_op() {
            false => None,
            true if self.0 == 1.0 => Some(grad.clone()),
            true => {
                let held = Held::new(grad);
                let scaled = map(&held.input()?.contiguous(), |grad, out| {
                    scaled(grad, self.0, 0.0, out)
                });
                Some(tensor(scaled, grad.shape())?)
            }
        };
        Ok(vec![inputs[0].track_op().then(|| grad.clone()), b])
    }
}

struct Multiply;

impl Function for Multiply {
    const NAME: &'static str = "multiply";

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (a, b) = (inputs[0].contiguous(), inputs[1].contiguous());
        Ok((zip(&a, &b, product), inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let held_grad = Held::new(grad);
        let flat = held_grad.input()?.contiguous();
        let by = |other: &Tensor| {
            let held = Held::new(other);
            tensor(
                zip(&flat, &held.input()?.contiguous(), product),
                grad.shape(),
            )
        };
        Ok(vec![
            inputs[0].track_op().then(|| by(inputs[1])).transpose()?,
            inputs[1].track_op().then(|| by(inputs[0])).transpose()?,
        ])
    }
}

struct Affine {
    factor: f32,
    offset: f32,
}

impl Function for Affine {
    const NAME: &'static str = "affine";

    fn reads(&self, _: &[&Tensor], _: usize) -> bool {
        false
    }

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let out = map(&inputs[0].contiguous(), |x, out| {
            scaled(x, self.factor, self.offset, out)
        });
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
        let held = Held::new(grad);
        let out = map(&held.input()?.contiguous(), |grad, out| {
            scaled(grad, self.factor, 0.0, out)
        });
        Ok(vec![Some(tensor(out, grad.shape())?)])
    }
}

multiversion! {
    fn scaled_sum(a: &[f32], b: &[f32], factor: f32, out: &mut [f32]) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = a + factor * b;
        }
    }
}

multiversion! {
    fn product(a: &[f32], b: &[f32], out: &mut [f32]) {
        for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
            *out = a * b;
        }
    }
}

multiversion! {
    fn scaled(x: &[f32], factor: f32, offset: f32, out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * factor + offset;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check;

    #[test]
    fn sums_and_products_are_right() {
        check(&[&[3, 5, 7], &[3, 5, 7]], |x| add_scaled(&x[0], &x[1], 1.0));
        check(&[&[3, 5, 7], &[3, 5, 7]], |x| {
            add_scaled(&x[0], &x[1], -0.3)
        });
        check(&[&[3, 5, 7], &[3, 5, 7]], |x| multiply(&x[0], &x[1]));
        check(&[&[40_001], &[40_001]], |x| multiply(&x[0], &x[1]));
        check(&[&[3, 5, 7]], |x| affine(&x[0], 1.7, -0.4));
    }

    #[test]
    fn one_tensor_may_be_both_operands() {
        check(&[&[3, 5, 7]], |x| add_scaled(&x[0], &x[0], 1.0));
        check(&[&[3, 5, 7]], |x| multiply(&x[0], &x[0]));
    }

    #[test]
    fn shapes_that_differ_are_refused() {
        let zeros = |shape: &[usize]| {
            Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu)
        };
        let run = || multiply(&zeros(&[2, 5])?, &zeros(&[5])?);
        let message = run().expect_err("2 x 5 is not 5").to_string();
        assert!(
            message.contains("[2, 5]") && message.contains("[5]"),
            "{message}"
        );
    }
}
