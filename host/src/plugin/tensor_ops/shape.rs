//! Shape, selection, conversion and creation.

use candle_core::{DType, Device, Result, Tensor};
use plugin_api::{Error, ops};

use super::args::Call;
use super::{handle, no_dtype};

/// Codes 400 to 499.
pub(super) fn run(call: &Call<'_>) -> std::result::Result<Tensor, Error> {
    let x = call.input(0)?;
    call.done(match call.op {
        ops::RESHAPE => x.reshape(call.sizes(0)?),
        ops::PERMUTE => x.permute(call.sizes(0)?),
        ops::NARROW => narrow(call, x)?,
        ops::CAT => {
            call.same_dtype(&call.inputs)?;
            Tensor::cat(&call.inputs, call.dim(0, x)?)
        }
        ops::BROADCAST_AS => x.broadcast_as(call.sizes(0)?),
        ops::INDEX_SELECT => {
            let ids = indices(call, 1)?;
            call.rank(&ids, 1)?;
            x.contiguous()
                .and_then(|x| x.index_select(&ids, call_dim(call, &x)?))
        }
        ops::GATHER => {
            let ids = indices(call, 1)?;
            x.contiguous()
                .and_then(|x| x.gather(&ids, call_dim(call, &x)?))
        }
        ops::INDEX_ADD => {
            let (ids, source) = (indices(call, 1)?, call.input(2)?);
            call.same_dtype(&[x, source])?;
            let dim = call.dim(0, x)?;
            x.contiguous()
                .and_then(|x| x.index_add(&ids, &source.contiguous()?, dim))
        }
        ops::WHERE_COND => where_cond(call, x)?,
        ops::PAD_ZEROS => x.pad_with_zeros(call.dim(0, x)?, call.size(1)?, call.size(2)?),
        ops::FLIP => x.flip(&call.dims(0, x)?),
        _ => return Err(unknown(call)),
    })
}

/// Codes 600 to 699.
pub(super) fn create(call: &Call<'_>) -> std::result::Result<Tensor, Error> {
    let code = call.int(0)?;
    let asked = plugin_api::DType(u32::try_from(code).unwrap_or(0));
    let dtype = handle::dtype_from_abi(asked).ok_or_else(|| no_dtype(asked))?;
    let device = match call.inputs.first() {
        Some(like) => like.device(),
        None => call.device.unwrap_or(&Device::Cpu),
    };
    call.done(match call.op {
        ops::TO_DTYPE => {
            let x = call.input(0)?;
            // A whole number has no gradient; without the cut candle would follow one and find none.
            let x = if dtype.is_float() {
                x.clone()
            } else {
                x.detach()
            };
            x.to_dtype(dtype)
        }
        ops::FULL => full(call.float(0)?, call.sizes(1)?, dtype, device),
        ops::ARANGE => arange(call, dtype, device)?,
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

/// The dimension argument as candle's own kind of error, for use inside a chain of candle calls.
fn call_dim(call: &Call<'_>, x: &Tensor) -> Result<usize> {
    call.dim(0, x)
        .map_err(|error| candle_core::Error::Msg(error.to_string()))
}

fn narrow(call: &Call<'_>, x: &Tensor) -> std::result::Result<Result<Tensor>, Error> {
    let (dim, start, length) = (call.dim(0, x)?, call.size(1)?, call.size(2)?);
    if start
        .checked_add(length)
        .is_none_or(|end| end > x.dims()[dim])
    {
        let extent = x.dims()[dim];
        return Err(call.invalid(format_args!(
            "{length} entries from {start} on leave dimension {dim}, which has {extent}"
        )));
    }
    Ok(x.narrow(dim, start, length))
}

/// Input `index` as indices: u32 or i64, contiguous, outside the graph.
fn indices(call: &Call<'_>, index: usize) -> std::result::Result<Tensor, Error> {
    let ids = call.input(index)?;
    if !matches!(ids.dtype(), DType::U32 | DType::I64 | DType::U8) {
        let name = ids.dtype().as_str();
        return Err(call.invalid(format_args!("indices must be u32 or i64, got {name}")));
    }
    call.done(ids.detach().contiguous())
}

fn where_cond(call: &Call<'_>, condition: &Tensor) -> std::result::Result<Result<Tensor>, Error> {
    let (a, b) = (call.input(1)?, call.input(2)?);
    call.same_dtype(&[a, b])?;
    if condition.dtype() != DType::U8 {
        let name = condition.dtype().as_str();
        return Err(call.invalid(format_args!("the condition must be u8, got {name}")));
    }
    let shape = a
        .shape()
        .broadcast_shape_binary_op(b.shape(), "where_cond")
        .and_then(|shape| shape.broadcast_shape_binary_op(condition.shape(), "where_cond"));
    Ok(shape.and_then(|shape| {
        let condition = condition.detach().broadcast_as(&shape)?;
        condition.where_cond(&a.broadcast_as(&shape)?, &b.broadcast_as(&shape)?)
    }))
}

fn full(value: f64, shape: Vec<usize>, dtype: DType, device: &Device) -> Result<Tensor> {
    Tensor::new(value, &Device::Cpu)?
        .to_dtype(dtype)?
        .to_device(device)?
        .broadcast_as(shape)?
        .contiguous()
}

/// More entries than this in one `arange` is a mistake in its arguments.
const MOST_ENTRIES: f64 = (1u64 << 31) as f64;

fn arange(
    call: &Call<'_>,
    dtype: DType,
    device: &Device,
) -> std::result::Result<Result<Tensor>, Error> {
    let (start, end, step) = (call.float(0)?, call.float(1)?, call.float(2)?);
    let count = ((end - start) / step).ceil();
    if step == 0.0 || !count.is_finite() || count > MOST_ENTRIES {
        return Err(call.invalid(format_args!("no range from {start} to {end} by {step}")));
    }
    let values: Vec<f64> = (0..count.max(0.0) as u64)
        .map(|i| start + i as f64 * step)
        .collect();
    let length = values.len();
    Ok(Tensor::from_vec(values, length, &Device::Cpu)
        .and_then(|values| values.to_dtype(dtype)?.to_device(device)))
}
