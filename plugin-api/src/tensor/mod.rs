//! The tensor a plugin works with: a counted handle to one the host owns, so the host's autograd records whatever a plugin computes.

mod arithmetic;
mod create;
mod index;
mod nn;
mod reduce;
mod shape;

use abi_stable::{StableAbi, std_types::RVec};

pub use arithmetic::Operand;
pub use index::{D, Dim, Dims};
pub use nn::Conv2d;

use crate::{
    DType, Element, Error, Result,
    abi::{Failure, OpArgs, RawDevice, RawTensor, Status, TensorOpsRef},
    ops::Op,
};

/// A tensor that the host owns: on whatever device, under the host's autograd.
///
/// Cloning is cheap and shares the values. Method names and meanings are those of candle; every method that computes returns a
/// [`Result`], and so do the operators: `((&a * 2.0)? + &b)?`. Binary methods and operators broadcast.
///
/// A tensor that depends on trainable parameters keeps the whole graph behind it alive. To keep one beyond a step, keep
/// [`Tensor::detach`] of it, or use [`StoredTensor`](crate::StoredTensor).
#[repr(C)]
#[derive(StableAbi)]
pub struct Tensor {
    raw: RawTensor,
    ops: TensorOpsRef,
}

// SAFETY: the host promises that every function of `TensorOps` may be called from any thread (see its documentation), and
// a handle is nothing but an argument to those functions.
unsafe impl Send for Tensor {}
// SAFETY: as above; shared handles only ever call those functions.
unsafe impl Sync for Tensor {}

impl Clone for Tensor {
    fn clone(&self) -> Self {
        // SAFETY: `self.raw` is a live strong reference of the host that `self.ops` belongs to.
        let raw = unsafe { self.ops.retain()(self.raw) };
        Tensor { raw, ops: self.ops }
    }
}

impl Drop for Tensor {
    fn drop(&mut self) {
        // SAFETY: `self.raw` is a strong reference that only this value gives back.
        unsafe { self.ops.release()(self.raw) }
    }
}

impl std::fmt::Debug for Tensor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tensor({:?} {})", self.dims(), self.dtype())
    }
}

impl Tensor {
    /// Takes ownership of one strong reference. For hosts.
    ///
    /// # Safety
    /// `raw` is a strong reference made by the host whose table is `ops`, and nobody else gives it back.
    pub unsafe fn from_raw(raw: RawTensor, ops: TensorOpsRef) -> Self {
        Tensor { raw, ops }
    }

    /// The handle, still owned by `self`. For hosts.
    pub fn as_raw(&self) -> RawTensor {
        self.raw
    }

    /// The table this handle belongs to. For hosts: compare before trusting [`Tensor::as_raw`].
    pub fn ops(&self) -> TensorOpsRef {
        self.ops
    }

    /// Gives the strong reference away. For hosts.
    pub fn into_raw(self) -> RawTensor {
        std::mem::ManuallyDrop::new(self).raw
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        // SAFETY: `self.raw` is live.
        unsafe { self.ops.dtype()(self.raw) }
    }

    /// Extents, outermost first; empty for a scalar.
    pub fn dims(&self) -> Vec<usize> {
        let mut out = RVec::new();
        // SAFETY: `self.raw` is live and `out` is a valid vector to replace.
        unsafe { self.ops.shape()(self.raw, &raw mut out) };
        out.into_vec()
    }

    /// Extent of one dimension.
    ///
    /// # Errors
    /// [`Error::Dimension`] when there is no such dimension.
    pub fn dim(&self, dim: impl Dim) -> Result<usize> {
        let dims = self.dims();
        Ok(dims[dim.resolve(&dims, "dim")?])
    }

    /// Number of dimensions.
    pub fn rank(&self) -> usize {
        self.dims().len()
    }

    /// Number of elements.
    pub fn elem_count(&self) -> usize {
        self.dims().iter().product()
    }

    /// The extents of a tensor of exactly `N` dimensions: `let [b, c, h, w] = x.dims_n()?;`.
    ///
    /// # Errors
    /// [`Error::Shape`] when the rank is another.
    pub fn dims_n<const N: usize>(&self) -> Result<[usize; N]> {
        let dims = self.dims();
        <[usize; N]>::try_from(dims.as_slice()).map_err(|_| Error::Host {
            status: Status::INVALID,
            message: format!("expected a tensor of {N} dimensions, got shape {dims:?}"),
        })
    }

    /// All elements in row-major order, converted to `T`. Copies from the device: not for inner loops.
    ///
    /// # Errors
    /// When the host cannot convert or copy.
    pub fn to_vec<T: Element>(&self) -> Result<Vec<T>> {
        let mut bytes = RVec::new();
        let mut failure = Failure::default();
        // SAFETY: `self.raw` is live; the out pointers are valid for writes.
        let status =
            unsafe { self.ops.to_host()(self.raw, T::DTYPE, &raw mut bytes, &raw mut failure) };
        if status != Status::OK {
            return Err(Error::from_failure(status, failure));
        }
        let size = T::DTYPE.size().unwrap_or(1);
        let values: Option<Vec<T>> = bytes.as_slice().chunks_exact(size).map(T::read).collect();
        let expected = self.elem_count();
        values
            .filter(|values| values.len() == expected)
            .ok_or_else(|| {
                Error::msg(format!(
                    "the host returned {} bytes for {expected} elements of {}",
                    bytes.len(),
                    T::DTYPE
                ))
            })
    }

    /// The only element of a tensor that has just one.
    ///
    /// # Errors
    /// When there is another number of elements.
    pub fn to_scalar<T: Element>(&self) -> Result<T> {
        match self.to_vec::<T>()?.as_slice() {
            [value] => Ok(*value),
            _ => Err(Error::Shape {
                what: "to_scalar".into(),
                expected: vec![],
                got: self.dims(),
            }),
        }
    }

    /// Runs `op` on tensors of this tensor's host.
    pub(crate) fn invoke(
        ops: TensorOpsRef,
        op: Op,
        inputs: &[&Tensor],
        ints: &[i64],
        floats: &[f64],
    ) -> Result<Tensor> {
        // Nearly every operation has at most three inputs; those need no allocation.
        let mut few = [RawTensor::NULL; 3];
        let many: Vec<RawTensor>;
        let raws: &[RawTensor] = if inputs.len() <= few.len() {
            for (slot, tensor) in few.iter_mut().zip(inputs) {
                *slot = tensor.raw;
            }
            &few[..inputs.len()]
        } else {
            many = inputs.iter().map(|tensor| tensor.raw).collect();
            &many
        };
        Self::invoke_raw(ops, RawDevice::OF_INPUT, op, raws, ints, floats)
    }

    pub(crate) fn invoke_raw(
        ops: TensorOpsRef,
        device: RawDevice,
        op: Op,
        inputs: &[RawTensor],
        ints: &[i64],
        floats: &[f64],
    ) -> Result<Tensor> {
        let args = OpArgs {
            device,
            inputs: inputs.as_ptr(),
            inputs_len: inputs.len(),
            ints: ints.as_ptr(),
            ints_len: ints.len(),
            floats: floats.as_ptr(),
            floats_len: floats.len(),
        };
        let mut out = RawTensor::NULL;
        let mut failure = Failure::default();
        // SAFETY: `args` borrows slices that outlive the call, and every input is a live handle; the out pointers are valid.
        let status = unsafe {
            ops.invoke()(
                op.code,
                op.revision,
                &raw const args,
                &raw mut out,
                &raw mut failure,
            )
        };
        match status {
            // SAFETY: on OK the host wrote one new strong reference.
            Status::OK => Ok(unsafe { Tensor::from_raw(out, ops) }),
            Status::UNSUPPORTED => Err(Error::Unsupported {
                who: "host".into(),
                what: op.name.to_ascii_lowercase(),
                revision: op.revision,
            }),
            status => Err(Error::from_failure(status, failure)),
        }
    }

    pub(crate) fn apply(
        &self,
        op: Op,
        others: &[&Tensor],
        ints: &[i64],
        floats: &[f64],
    ) -> Result<Tensor> {
        match others {
            [] => Self::invoke(self.ops, op, &[self], ints, floats),
            [a] => Self::invoke(self.ops, op, &[self, a], ints, floats),
            [a, b] => Self::invoke(self.ops, op, &[self, a, b], ints, floats),
            _ => Err(Error::msg("operations take at most three named tensors")),
        }
    }
}
