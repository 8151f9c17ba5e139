//! The Gaussian error linear unit (Hendrycks and Gimpel 2016).

use candle_core::{Result, Tensor};

use super::elementwise::Activation;
use super::function::{apply, fast};
use super::simd::{multiversion, normal, sigmoid};

/// `sqrt(2 / π)`, twice.
const SLOPE: f64 = 1.595_769_121_605_730_7;
const CUBIC: f64 = 0.044_715;

/// `x / 2 (1 + tanh(sqrt(2/π) (x + 0.044715 x³)))`, the form of DiT and GPT-2, of any shape.
pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    if !fast(&[x]) {
        let u = ((x * (SLOPE / 2.0))? * ((x.sqr()? * CUBIC)? + 1.0)?)?;
        return (x * 0.5)? * (u.tanh()? + 1.0)?;
    }
    let activation = Activation {
        value: tanh_form,
        derivative: tanh_form_derivative,
    };
    apply(activation, &[x])
}

/// `x Φ(x)` with the normal distribution function `Φ(x) = (1 + erf(x / √2)) / 2`, the exact form, of any shape.
pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    if !fast(&[x]) {
        let erf = (x * std::f64::consts::FRAC_1_SQRT_2)?.erf()?;
        return (x * 0.5)? * (erf + 1.0)?;
    }
    let activation = Activation {
        value: erf_form,
        derivative: erf_form_derivative,
    };
    apply(activation, &[x])
}

multiversion! {
    // (1 + tanh u) / 2 = sigmoid(2u), which loses no digits where x is very negative.
    fn tanh_form(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(SLOPE as f32 * x * (1.0 + CUBIC as f32 * x * x));
        }
    }
}

multiversion! {
    fn tanh_form_derivative(x: &[f32], grad: &[f32], out: &mut [f32]) {
        for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
            // Farther out the derivative is zero or one, and x³ must not overflow.
            let x = x.clamp(-16.0, 16.0);
            let s = sigmoid(SLOPE as f32 * x * (1.0 + CUBIC as f32 * x * x));
            let slope = SLOPE as f32 * (1.0 + 3.0 * CUBIC as f32 * x * x);
            *out = grad * (s + x * s * (1.0 - s) * slope);
        }
    }
}

multiversion! {
    fn erf_form(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * normal(x).0;
        }
    }
}

multiversion! {
    fn erf_form_derivative(x: &[f32], grad: &[f32], out: &mut [f32]) {
        for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
            let (below, density) = normal(x);
            *out = grad * (below + x * density);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn gelu_tanh_is_right() {
        check(&[&[3, 5, 7]], |x| gelu_tanh(&x[0]));
        check(&[&[40_001]], |x| gelu_tanh(&x[0]));
    }

    #[test]
    fn gelu_erf_is_right() {
        check(&[&[3, 5, 7]], |x| gelu_erf(&x[0]));
        check(&[&[40_001]], |x| gelu_erf(&x[0]));
    }

    #[test]
    fn gelu_tanh_is_finite_far_out() {
        let x = candle_core::Var::new(
            &[-1e30f32, -100.0, 0.0, 100.0, 1e12],
            &candle_core::Device::Cpu,
        )
        .unwrap();
        let y = gelu_tanh(&x).unwrap();
        let expected = [0.0, 0.0, 0.0, 100.0, 1e12];
        for (y, expected) in y.to_vec1::<f32>().unwrap().into_iter().zip(expected) {
            assert!((y - expected).abs() < 1e-8, "{y} is not {expected}");
        }
        let grads = y.sum_all().unwrap().backward().unwrap();
        let expected = [0.0, 0.0, 0.5, 1.0, 1.0];
        let grads = grads.get(&x).unwrap().to_vec1::<f32>().unwrap();
        for (grad, expected) in grads.into_iter().zip(expected) {
            assert!((grad - expected).abs() < 1e-8, "{grad} is not {expected}");
        }
    }

    #[test]
    fn gelu_equals_pytorch() {
        check_golden("gelu_tanh", |x| gelu_tanh(&(&x[0] * 3.0)?));
        check_golden("gelu_erf", |x| gelu_erf(&(&x[0] * 3.0)?));
    }
}
