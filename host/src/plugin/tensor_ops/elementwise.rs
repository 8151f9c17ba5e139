//! Elementwise operations on one tensor and, broadcasting, on two.

use candle_core::{DType, Device, Result, Tensor};
use plugin_api::{Error, ops};

use super::args::Call;
use crate::ops as fast;

/// Codes 100 to 199: in `x`.
pub(super) fn unary(call: &Call<'_>) -> std::result::Result<Tensor, Error> {
    let x = call.input(0)?;
    if !x.dtype().is_float() {
        return whole(call, x);
    }
    let flat = || x.detach();
    call.done(match call.op {
        ops::ABS => abs(x),
        ops::EXP => x.exp(),
        ops::LOG => x.log(),
        ops::SQRT => x.sqrt(),
        ops::SQR => x.sqr(),
        ops::RECIP => x.recip(),
        ops::COS => x.cos(),
        ops::SIN => x.sin(),
        ops::TANH => x.tanh(),
        ops::ERF => x.erf(),
        ops::ACOS => acos(x),
        ops::RELU => x.relu(),
        ops::GELU_TANH => fast::gelu_tanh(x),
        ops::GELU_ERF => fast::gelu_erf(x),
        ops::SILU => fast::silu(x),
        ops::SIGMOID => candle_nn::ops::sigmoid(x),
        ops::FLOOR => flat().floor(),
        ops::CEIL => flat().ceil(),
        ops::ROUND => flat().round(),
        ops::SIGN => flat().sign(),
        ops::DETACH => Ok(flat()),
        ops::AFFINE => fast::affine(x, call.float(0)?, call.float(1)?),
        ops::POWF => powf(x, call.float(0)?),
        ops::CLAMP => clamp(x, call.float(0)?, call.float(1)?),
        _ => return Err(unknown(call)),
    })
}

/// The same for whole numbers, where it has a meaning.
fn whole(call: &Call<'_>, x: &Tensor) -> std::result::Result<Tensor, Error> {
    let signed = x.dtype() == DType::I64;
    call.done(match call.op {
        ops::FLOOR | ops::CEIL | ops::ROUND | ops::DETACH => Ok(x.detach()),
        ops::ABS | ops::RELU if !signed => Ok(x.clone()),
        ops::ABS => x
            .affine(-1.0, 0.0)
            .and_then(|negative| x.maximum(&negative)),
        ops::RELU => x.maximum(0i64),
        ops::SQR => x.mul(x),
        ops::SIGN => sign(x),
        ops::AFFINE => x.affine(call.float(0)?, call.float(1)?),
        ops::CLAMP => x.clamp(call.float(0)?, call.float(1)?),
        _ => return call.floating(x).and_then(|()| Err(unknown(call))),
    })
}

fn sign(x: &Tensor) -> Result<Tensor> {
    let zero = x.zeros_like()?;
    let above = x.gt(&zero)?.to_dtype(x.dtype())?;
    above.sub(&x.lt(&zero)?.to_dtype(x.dtype())?)
}

/// Codes 200 to 299: in `a, b`.
pub(super) fn binary(call: &Call<'_>) -> std::result::Result<Tensor, Error> {
    let (a, b) = (call.input(0)?, call.input(1)?);
    call.same_dtype(&[a, b])?;
    // Comparisons cut the graph: their result has no gradient, so nothing behind it need stay alive.
    let (flat_a, flat_b) = (|| a.detach(), || b.detach());
    let alike = a.dtype().is_float() && a.dims() == b.dims();
    call.done(match call.op {
        ops::ADD if alike => fast::add_scaled(a, b, 1.0),
        ops::SUB if alike => fast::add_scaled(a, b, -1.0),
        ops::MUL if alike => fast::multiply(a, b),
        ops::ADD => a.broadcast_add(b),
        ops::SUB => a.broadcast_sub(b),
        ops::MUL => a.broadcast_mul(b),
        ops::DIV => a.broadcast_div(b),
        ops::MAXIMUM => a.broadcast_maximum(b),
        ops::MINIMUM => a.broadcast_minimum(b),
        ops::EQ => flat_a().broadcast_eq(&flat_b()),
        ops::NE => flat_a().broadcast_ne(&flat_b()),
        ops::LT => flat_a().broadcast_lt(&flat_b()),
        ops::LE => flat_a().broadcast_le(&flat_b()),
        ops::GT => flat_a().broadcast_gt(&flat_b()),
        ops::GE => flat_a().broadcast_ge(&flat_b()),
        _ => return Err(unknown(call)),
    })
}

fn unknown(call: &Call<'_>) -> Error {
    Error::Unsupported {
        who: "host".into(),
        what: call.op.name.to_ascii_lowercase(),
        revision: call.op.revision,
    }
}

/// `x sign(x)`: the gradient at 0 is 0, where candle's own is 1.
fn abs(x: &Tensor) -> Result<Tensor> {
    x.mul(&x.detach().sign()?)
}

/// `x^p`; candle's backward of `x^0` is 0 * inf at 0.
fn powf(x: &Tensor, exponent: f64) -> Result<Tensor> {
    if exponent == 0.0 {
        return x.ones_like();
    }
    if exponent == 1.0 {
        return Ok(x.clone());
    }
    x.powf(exponent)
}

/// Limits values with gradient 1 on the bounds, where candle's own has 1/2. NaN stays NaN.
fn clamp(x: &Tensor, low: f64, high: f64) -> Result<Tensor> {
    if low > high {
        candle_core::bail!("low {low} is above high {high}");
    }
    let values = x.detach();
    let limited = values.clamp(low, high)?;
    let constant = |value: f64| Tensor::new(value, x.device())?.to_dtype(x.dtype());
    let below = values.broadcast_lt(&constant(low)?)?;
    let above = values.broadcast_gt(&constant(high)?)?;
    below.add(&above)?.where_cond(&limited, x)
}

/// Arc cosine with the gradient `-1 / sqrt(max(1 - x^2, 1e-12))`.
///
/// Candle has no such function, so the values are computed on the CPU and the gradient rides on `slope * (x - x)`, which adds
/// nothing to the values.
fn acos(x: &Tensor) -> Result<Tensor> {
    let flat = x.detach();
    let single = flat
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F64)?
        .flatten_all()?
        .to_vec1::<f64>()?;
    let values: Vec<f64> = single.iter().map(|value| value.acos()).collect();
    let slopes = single
        .iter()
        .map(|value| -1.0 / (1.0 - value * value).max(1e-12).sqrt());
    let back = |values: Vec<f64>| -> Result<Tensor> {
        Tensor::from_vec(values, x.shape(), &Device::Cpu)?
            .to_dtype(x.dtype())?
            .to_device(x.device())
    };
    let (values, slopes) = (back(values)?, back(slopes.collect())?);
    if !x.track_op() {
        return Ok(values);
    }
    values.add(&x.sub(&flat)?.mul(&slopes)?)
}
