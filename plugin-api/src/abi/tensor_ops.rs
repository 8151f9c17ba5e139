//! Tensors as the boundary sees them: an opaque counted handle and the table of functions that work on it.

use std::ffi::c_void;

use abi_stable::{StableAbi, std_types::RVec};

use super::{Failure, Status};
use crate::DType;

/// One strong reference to a tensor that the host owns. Opaque: only the host that made it may look behind the pointer.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawTensor(pub *const c_void);

impl RawTensor {
    /// No tensor; the initial value of an out pointer.
    pub const NULL: RawTensor = RawTensor(std::ptr::null());
}

/// Where a new tensor is to live. Opaque to plugins, which pass on what the host gave them.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawDevice(pub *const c_void);

impl RawDevice {
    /// "The device of the first input": what operations on existing tensors pass.
    pub const OF_INPUT: RawDevice = RawDevice(std::ptr::null());
}

/// Arguments of one operation; [`ops`](crate::ops) documents what each expects. All pointers are borrowed for the call, and a
/// pointer whose length is zero may be dangling.
#[repr(C)]
#[derive(StableAbi, Clone, Copy, Debug)]
pub struct OpArgs {
    /// Where creating operations put their result; ignored when there are inputs.
    pub device: RawDevice,
    /// Input tensors, borrowed.
    pub inputs: *const RawTensor,
    /// Number of inputs.
    pub inputs_len: usize,
    /// Integer arguments.
    pub ints: *const i64,
    /// Number of integer arguments.
    pub ints_len: usize,
    /// Floating point arguments.
    pub floats: *const f64,
    /// Number of floating point arguments.
    pub floats_len: usize,
}

impl OpArgs {
    /// The input handles.
    ///
    /// # Safety
    /// The caller vouches that `inputs` points at `inputs_len` handles that outlive the borrow, as `invoke` promises.
    pub unsafe fn inputs(&self) -> &[RawTensor] {
        // SAFETY: by this function's contract; zero lengths never touch the pointer.
        unsafe { slice(self.inputs, self.inputs_len) }
    }

    /// The integer arguments.
    ///
    /// # Safety
    /// As for [`OpArgs::inputs`].
    pub unsafe fn ints(&self) -> &[i64] {
        // SAFETY: by this function's contract; zero lengths never touch the pointer.
        unsafe { slice(self.ints, self.ints_len) }
    }

    /// The floating point arguments.
    ///
    /// # Safety
    /// As for [`OpArgs::inputs`].
    pub unsafe fn floats(&self) -> &[f64] {
        // SAFETY: by this function's contract; zero lengths never touch the pointer.
        unsafe { slice(self.floats, self.floats_len) }
    }
}

/// A slice from a pointer that may dangle when `len` is zero.
///
/// # Safety
/// `data` points at `len` initialised values that outlive `'a` whenever `len > 0`.
unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if len == 0 {
        return &[];
    }
    // SAFETY: by this function's contract.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// The host's tensor functions. They may be called from any thread, and none of them unwinds.
///
/// Functions that return [`Status`] write their out pointer only on [`Status::OK`], and `failure` only otherwise.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = TensorOpsRef, prefix_fields = TensorOpsPrefix)))]
#[sabi(missing_field(panic))]
pub struct TensorOps {
    /// Returns another strong reference to the same tensor.
    pub retain: unsafe extern "C" fn(tensor: RawTensor) -> RawTensor,
    /// Gives one strong reference back.
    pub release: unsafe extern "C" fn(tensor: RawTensor),
    /// Element type.
    pub dtype: unsafe extern "C" fn(tensor: RawTensor) -> DType,
    /// Replaces `out` by the extents, outermost first; empty for a scalar.
    pub shape: unsafe extern "C" fn(tensor: RawTensor, out: *mut RVec<usize>),
    /// Makes a tensor from `bytes_len` bytes of row-major elements in native byte order; the bytes need not be aligned.
    pub from_host: unsafe extern "C" fn(
        device: RawDevice,
        dtype: DType,
        bytes: *const u8,
        bytes_len: usize,
        shape: *const usize,
        rank: usize,
        out: *mut RawTensor,
        failure: *mut Failure,
    ) -> Status,
    /// Replaces `out` by the elements converted to `dtype`, row-major, native byte order.
    pub to_host: unsafe extern "C" fn(
        tensor: RawTensor,
        dtype: DType,
        out: *mut RVec<u8>,
        failure: *mut Failure,
    ) -> Status,
    /// Whether `invoke` knows this operation at this revision.
    pub supports: unsafe extern "C" fn(op: u32, revision: u32) -> bool,
    /// Runs an operation and writes one new strong reference to `out`. Inputs are borrowed. The host's autograd records it.
    #[sabi(last_prefix_field)]
    pub invoke: unsafe extern "C" fn(
        op: u32,
        revision: u32,
        args: *const OpArgs,
        out: *mut RawTensor,
        failure: *mut Failure,
    ) -> Status,
}
