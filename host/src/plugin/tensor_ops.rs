//! The host's side of `TensorOps`: every operation of `plugin_api::ops` on candle tensors, recorded by candle's autograd.
//!
//! Each function here is called by plugin code through the boundary, so none may unwind; what panics below (candle on an
//! element type an operation was never written for) is caught and answered with a status. The operations themselves are in
//! one file a family.

mod args;
mod elementwise;
mod network;
mod reduce;
mod shape;
#[cfg(test)]
mod tests;

use abi_stable::prefix_type::WithMetadata;
use abi_stable::std_types::RVec;
use candle_core::{DType, Device, Tensor};
use plugin_api::Error;
use plugin_api::abi::{
    Failure, OpArgs, RawDevice, RawTensor, Status, TensorOps, TensorOpsRef, report,
};
use plugin_api::ops::Op;

use self::args::Call;
use super::{crossing, handle};

/// The table every plugin gets; valid for the whole process.
pub(super) fn table() -> TensorOpsRef {
    TensorOpsRef(STATIC.static_as_prefix())
}

static STATIC: &WithMetadata<TensorOps> = &WithMetadata::new(TensorOps {
    retain,
    release,
    dtype,
    shape,
    from_host,
    to_host,
    supports,
    invoke,
});

/// A candle tensor as a plugin's tensor: one new handle.
pub fn export(tensor: &Tensor) -> plugin_api::Tensor {
    // SAFETY: the handle is new, made by the host whose table this is, and given to this value alone.
    unsafe { plugin_api::Tensor::from_raw(handle::new_handle(tensor.clone()), table()) }
}

/// The candle tensor behind a plugin's tensor; it shares the values and stays in the same autograd graph.
///
/// # Errors
/// The handle is not one of this host's, which only a plugin that makes up handles could cause.
pub fn import(tensor: &plugin_api::Tensor) -> Result<Tensor, Error> {
    if !std::ptr::eq(tensor.ops().0.prefix(), table().0.prefix()) {
        return Err(Error::msg("the tensor does not belong to this host"));
    }
    // SAFETY: a handle with this host's table came from `new_handle`, and `tensor` keeps it alive during the borrow.
    Ok(unsafe { handle::peek(tensor.as_raw()) }.clone())
}

/// The boundary's code of an element type; 0 for one that it does not have.
pub fn dtype_code(dtype: candle_core::DType) -> u32 {
    handle::dtype_to_abi(dtype).0
}

unsafe extern "C" fn retain(tensor: RawTensor) -> RawTensor {
    // SAFETY: the caller owns a live handle of this host, by the table's contract; so for the functions below.
    handle::new_handle(unsafe { handle::peek(tensor) }.clone())
}

unsafe extern "C" fn release(tensor: RawTensor) {
    // SAFETY: the caller gives back a handle that it owns and will not use again. Dropping a candle tensor frees memory and
    // runs no foreign code, so nothing here panics.
    unsafe { handle::drop_handle(tensor) }
}

unsafe extern "C" fn dtype(tensor: RawTensor) -> plugin_api::DType {
    // SAFETY: a live handle, as above.
    handle::dtype_to_abi(unsafe { handle::peek(tensor) }.dtype())
}

unsafe extern "C" fn shape(tensor: RawTensor, out: *mut RVec<usize>) {
    // SAFETY: a live handle, as above, and `out` points at a vector that the caller lets us replace.
    unsafe { *out = RVec::from(handle::peek(tensor).dims()) };
}

unsafe extern "C" fn supports(op: u32, revision: u32) -> bool {
    Op::find(op, revision).is_some()
}

unsafe extern "C" fn from_host(
    device: RawDevice,
    dtype: plugin_api::DType,
    bytes: *const u8,
    bytes_len: usize,
    shape: *const usize,
    rank: usize,
    out: *mut RawTensor,
    failure: *mut Failure,
) -> Status {
    // SAFETY: by the table's contract: `failure` and `out` are valid for writes; `bytes` and `shape` point at as many values
    // as stated (none when the count is 0); the device is one of ours or null.
    unsafe {
        answer(out, failure, || {
            let bytes = slice(bytes, bytes_len);
            let shape = slice(shape, rank);
            let device = handle::device(device).unwrap_or(&Device::Cpu);
            let dtype = handle::dtype_from_abi(dtype).ok_or_else(|| no_dtype(dtype))?;
            let elements: Option<usize> = shape
                .iter()
                .try_fold(1usize, |count, &dim| count.checked_mul(dim));
            let needed = elements.and_then(|count| count.checked_mul(dtype.size_in_bytes()));
            if needed != Some(bytes.len()) {
                let (got, name) = (bytes.len(), dtype.as_str());
                return Err(args::invalid(format!(
                    "{got} bytes do not fill shape {shape:?} of {name}"
                )));
            }
            Tensor::from_raw_buffer(bytes, dtype, shape, device)
                .map_err(|error| args::failed("from_host", &error))
        })
    }
}

unsafe extern "C" fn to_host(
    tensor: RawTensor,
    dtype: plugin_api::DType,
    out: *mut RVec<u8>,
    failure: *mut Failure,
) -> Status {
    // SAFETY: a live handle and out pointers that are valid for writes, by the table's contract.
    let (tensor, failure, out) = unsafe { (handle::peek(tensor), &mut *failure, &mut *out) };
    let bytes = report(failure, || {
        let dtype = handle::dtype_from_abi(dtype).ok_or_else(|| no_dtype(dtype))?;
        to_bytes(tensor, dtype).map_err(|error| args::failed("to_host", &error))
    });
    match bytes {
        Ok(bytes) => {
            *out = RVec::from(bytes);
            Status::OK
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn invoke(
    op: u32,
    revision: u32,
    args: *const OpArgs,
    out: *mut RawTensor,
    failure: *mut Failure,
) -> Status {
    let Some(op) = Op::find(op, revision) else {
        let unknown = Error::Unsupported {
            who: "host".into(),
            what: format!("operation {op}"),
            revision,
        };
        // SAFETY: `failure` is valid for writes, by the table's contract.
        unsafe { *failure = unknown.into_failure() };
        return Status::UNSUPPORTED;
    };
    // SAFETY: by the table's contract: `args` and what it points at are valid during the call, its inputs are live handles of
    // this host, its device is one of ours or null, and the out pointers are valid for writes.
    unsafe {
        answer(out, failure, || {
            let args = &*args;
            let inputs = args.inputs().iter().map(|&raw| handle::peek(raw)).collect();
            let call = Call {
                op,
                inputs,
                ints: args.ints(),
                floats: args.floats(),
                device: handle::device(args.device),
            };
            crossing::work(|| run(&call))
        })
    }
}

/// Runs one operation, whose family its code tells.
fn run(call: &Call<'_>) -> Result<Tensor, Error> {
    match call.op.code {
        100..200 => elementwise::unary(call),
        200..300 => elementwise::binary(call),
        300..400 => reduce::run(call),
        400..500 => shape::run(call),
        500..600 => network::run(call),
        _ => shape::create(call),
    }
}

/// Writes the tensor that `work` makes to `out`, or why there is none to `failure`.
///
/// # Safety
/// Both pointers are valid for writes.
unsafe fn answer(
    out: *mut RawTensor,
    failure: *mut Failure,
    work: impl FnOnce() -> Result<Tensor, Error>,
) -> Status {
    // SAFETY: by this function's contract.
    match report(unsafe { &mut *failure }, work) {
        Ok(tensor) => {
            // SAFETY: by this function's contract.
            unsafe { *out = handle::new_handle(tensor) };
            Status::OK
        }
        Err(status) => status,
    }
}

/// A slice from the boundary, where a length of zero goes with any pointer.
///
/// # Safety
/// `data` points at `len` initialised values that outlive the result, whenever `len > 0`.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(data, len) }
}

fn no_dtype(dtype: plugin_api::DType) -> Error {
    args::invalid(format!("the host has no element type {}", dtype.0))
}

/// All elements as `dtype`, row-major, native byte order.
fn to_bytes(tensor: &Tensor, dtype: DType) -> candle_core::Result<Vec<u8>> {
    macro_rules! bytes {
        ($flat:ident, $ty:ty) => {
            $flat
                .to_vec1::<$ty>()?
                .into_iter()
                .flat_map(<$ty>::to_ne_bytes)
                .collect()
        };
    }
    let flat = tensor.detach().to_dtype(dtype)?.flatten_all()?;
    Ok(match dtype {
        DType::U8 => flat.to_vec1::<u8>()?,
        DType::U32 => bytes!(flat, u32),
        DType::I64 => bytes!(flat, i64),
        DType::BF16 => bytes!(flat, half::bf16),
        DType::F16 => bytes!(flat, half::f16),
        DType::F32 => bytes!(flat, f32),
        DType::F64 => bytes!(flat, f64),
        other => candle_core::bail!("no bytes for {}", other.as_str()),
    })
}
