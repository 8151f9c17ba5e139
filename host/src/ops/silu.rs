//! The sigmoid linear unit, also called swish (Elfwing et al. 2017).

use candle_core::{Result, Tensor};

use super::elementwise::Activation;
use super::function::{apply, fast};
use super::simd::{multiversion, sigmoid};

/// `x / (1 + exp(-x))`, of any shape.
pub fn silu(x: &Tensor) -> Result<Tensor> {
    if !fast(&[x]) {
        // By tanh, whose gradient cannot overflow in half precision.
        return (x * 0.5)? * ((x * 0.5)?.tanh()? + 1.0)?;
    }
    apply(Activation { value, derivative }, &[x])
}

multiversion! {
    fn value(x: &[f32], out: &mut [f32]) {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = x * sigmoid(x);
        }
    }
}

multiversion! {
    fn derivative(x: &[f32], grad: &[f32], out: &mut [f32]) {
        for ((out, &x), &grad) in out.iter_mut().zip(x).zip(grad) {
            let s = sigmoid(x);
            *out = grad * s * (1.0 + x * (1.0 - s));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn silu_is_right() {
        check(&[&[3, 5, 7]], |x| silu(&x[0]));
        check(&[&[40_001]], |x| silu(&x[0]));
    }

    #[test]
    fn silu_equals_pytorch() {
        check_golden("silu", |x| silu(&(&x[0] * 3.0)?));
    }
}
