//! The tensor table of the test host: handles are counted pointers to a shape and a list of `f64`.

use std::{
    ffi::c_void,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use abi_stable::{prefix_type::PrefixTypeTrait, std_types::RVec};

use super::ops;
use crate::{
    DType, Element, Error, Result,
    abi::{Failure, OpArgs, RawDevice, RawTensor, Status, TensorOps, TensorOpsRef, report},
    ops::Op,
};

/// A tensor: `f64` holds every value of the element types exactly, `i64` beyond 2^53 aside.
#[derive(Debug)]
pub(super) struct Values {
    pub(super) dtype: DType,
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<f64>,
    live: Arc<AtomicUsize>,
}

impl Drop for Values {
    fn drop(&mut self) {
        self.live.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Values {
    /// A tensor of the host that counts in `live`. Values are rounded to what `dtype` can hold.
    pub(super) fn new(
        live: &Arc<AtomicUsize>,
        dtype: DType,
        shape: Vec<usize>,
        mut data: Vec<f64>,
    ) -> Self {
        for value in &mut data {
            *value = match dtype {
                DType::F64 => *value,
                DType::U8 => f64::from(*value as u8),
                DType::U32 => f64::from(*value as u32),
                DType::I64 => value.trunc(),
                _ => f64::from(*value as f32),
            };
        }
        live.fetch_add(1, Ordering::SeqCst);
        Values {
            dtype,
            shape,
            data,
            live: Arc::clone(live),
        }
    }

    pub(super) fn like(&self, dtype: DType, shape: Vec<usize>, data: Vec<f64>) -> Self {
        Values::new(&self.live, dtype, shape, data)
    }

    fn into_raw(self) -> RawTensor {
        RawTensor(Arc::into_raw(Arc::new(self)).cast::<c_void>())
    }
}

/// The tensor behind a handle of this host.
///
/// # Safety
/// `raw` is a live handle that this module made, and stays so for `'a`.
unsafe fn values<'a>(raw: RawTensor) -> &'a Values {
    // SAFETY: by this function's contract.
    unsafe { &*raw.0.cast::<Values>() }
}

pub(super) fn table() -> TensorOpsRef {
    static TABLE: OnceLock<TensorOpsRef> = OnceLock::new();
    *TABLE.get_or_init(|| {
        TensorOps {
            retain,
            release,
            dtype,
            shape,
            from_host,
            to_host,
            supports,
            invoke,
        }
        .leak_into_prefix()
    })
}

unsafe extern "C" fn retain(tensor: RawTensor) -> RawTensor {
    // SAFETY: the caller's handle is live, so its `Arc` is.
    unsafe { Arc::increment_strong_count(tensor.0.cast::<Values>()) };
    tensor
}

unsafe extern "C" fn release(tensor: RawTensor) {
    // SAFETY: the caller gives one strong reference back.
    unsafe { Arc::decrement_strong_count(tensor.0.cast::<Values>()) };
}

unsafe extern "C" fn dtype(tensor: RawTensor) -> DType {
    // SAFETY: the caller's handle is live.
    unsafe { values(tensor) }.dtype
}

unsafe extern "C" fn shape(tensor: RawTensor, out: *mut RVec<usize>) {
    // SAFETY: the caller's handle is live and its pointer valid.
    unsafe { *out = RVec::from(values(tensor).shape.clone()) };
}

unsafe extern "C" fn from_host(
    device: RawDevice,
    dtype: DType,
    bytes: *const u8,
    bytes_len: usize,
    shape: *const usize,
    rank: usize,
    out: *mut RawTensor,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the caller's pointers are valid, and the device is the one `TestHost::new` made.
    let (bytes, shape, live, out, failure) = unsafe {
        (
            if bytes_len == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(bytes, bytes_len)
            },
            if rank == 0 {
                &[]
            } else {
                std::slice::from_raw_parts(shape, rank)
            },
            &*device.0.cast::<Arc<AtomicUsize>>(),
            &mut *out,
            &mut *failure,
        )
    };
    finish(out, failure, || {
        let size = dtype
            .size()
            .ok_or_else(|| Error::msg("unknown element type"))?;
        let data = bytes
            .chunks_exact(size)
            .map(|chunk| read(dtype, chunk))
            .collect::<Result<Vec<f64>>>()?;
        Ok(Values::new(live, dtype, shape.to_vec(), data))
    })
}

fn read(dtype: DType, bytes: &[u8]) -> Result<f64> {
    let value = match dtype {
        DType::U8 => u8::read(bytes).map(f64::from),
        DType::U32 => u32::read(bytes).map(f64::from),
        DType::I64 => i64::read(bytes).map(|value| value as f64),
        DType::F32 => f32::read(bytes).map(f64::from),
        DType::F64 => f64::read(bytes),
        _ => None,
    };
    value.ok_or_else(|| Error::Message(format!("the test host has no {dtype}")))
}

unsafe extern "C" fn to_host(
    tensor: RawTensor,
    dtype: DType,
    out: *mut RVec<u8>,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the caller's handle is live and its pointers valid.
    let (tensor, out, failure) = unsafe { (values(tensor), &mut *out, &mut *failure) };
    let bytes = report(failure, || {
        let mut bytes = RVec::new();
        for &value in &tensor.data {
            match dtype {
                DType::U8 => bytes.extend([value as u8]),
                DType::U32 => bytes.extend((value as u32).to_ne_bytes()),
                DType::I64 => bytes.extend((value as i64).to_ne_bytes()),
                DType::F32 => bytes.extend((value as f32).to_ne_bytes()),
                DType::F64 => bytes.extend(value.to_ne_bytes()),
                _ => return Err(Error::Message(format!("the test host has no {dtype}"))),
            }
        }
        Ok(bytes)
    });
    match bytes {
        Ok(bytes) => {
            *out = bytes;
            Status::OK
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn supports(op: u32, revision: u32) -> bool {
    Op::find(op, revision).is_some_and(ops::known)
}

unsafe extern "C" fn invoke(
    op: u32,
    revision: u32,
    args: *const OpArgs,
    out: *mut RawTensor,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the caller's pointers are valid, its inputs live handles, and its device the one `TestHost::new` made.
    let (inputs, ints, floats, live, out, failure) = unsafe {
        let args = &*args;
        let inputs: Vec<&Values> = args.inputs().iter().map(|raw| values(*raw)).collect();
        (
            inputs,
            args.ints(),
            args.floats(),
            args.device.0.cast::<Arc<AtomicUsize>>().as_ref(),
            &mut *out,
            &mut *failure,
        )
    };
    let Some(op) = Op::find(op, revision).filter(|op| ops::known(*op)) else {
        return Status::UNSUPPORTED;
    };
    finish(out, failure, || {
        let live = inputs
            .first()
            .map(|first| &first.live)
            .or(live)
            .ok_or_else(|| Error::msg("no device"))?;
        ops::run(op, live, &inputs, ints, floats)
    })
}

fn finish(
    out: &mut RawTensor,
    failure: &mut Failure,
    work: impl FnOnce() -> Result<Values>,
) -> Status {
    match report(failure, work) {
        Ok(values) => {
            *out = values.into_raw();
            Status::OK
        }
        Err(status) => status,
    }
}
