//! New tensors: from constants and from Rust numbers.

use super::{Tensor, index::extents};
use crate::{
    DType, Element, Error, Host, Result,
    abi::{Failure, RawTensor, Status},
    ops,
};

impl Tensor {
    /// A tensor of `shape` filled with `value`.
    ///
    /// # Errors
    /// When the host has no room or does not know the type.
    pub fn full(
        value: f64,
        shape: impl AsRef<[usize]>,
        dtype: DType,
        host: &Host,
    ) -> Result<Tensor> {
        let mut ints = vec![i64::from(dtype.0)];
        ints.extend(extents(shape.as_ref()));
        let handle = host.handle();
        Tensor::invoke_raw(
            handle.tensors,
            handle.device,
            ops::FULL,
            &[],
            &ints,
            &[value],
        )
    }

    /// Zeros.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn zeros(shape: impl AsRef<[usize]>, dtype: DType, host: &Host) -> Result<Tensor> {
        Tensor::full(0.0, shape, dtype, host)
    }

    /// Ones.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn ones(shape: impl AsRef<[usize]>, dtype: DType, host: &Host) -> Result<Tensor> {
        Tensor::full(1.0, shape, dtype, host)
    }

    /// `start, start + 1, ..` below `end`: `[N]`.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn arange(start: f64, end: f64, dtype: DType, host: &Host) -> Result<Tensor> {
        Tensor::arange_step(start, end, 1.0, dtype, host)
    }

    /// `start, start + step, ..` while below `end` (above, for a negative step): `[N]`.
    ///
    /// # Errors
    /// As [`Tensor::full`], and for a step of zero.
    pub fn arange_step(
        start: f64,
        end: f64,
        step: f64,
        dtype: DType,
        host: &Host,
    ) -> Result<Tensor> {
        if step == 0.0 {
            return Err(Error::msg("arange: the step must not be 0"));
        }
        let handle = host.handle();
        let ints = [i64::from(dtype.0)];
        Tensor::invoke_raw(
            handle.tensors,
            handle.device,
            ops::ARANGE,
            &[],
            &ints,
            &[start, end, step],
        )
    }

    /// A tensor of `shape` from row-major values.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of values is not the product of the shape.
    pub fn from_slice<T: Element>(
        values: &[T],
        shape: impl AsRef<[usize]>,
        host: &Host,
    ) -> Result<Tensor> {
        let shape = shape.as_ref();
        if shape.iter().product::<usize>() != values.len() {
            return Err(Error::Shape {
                what: "from_slice".into(),
                expected: shape.to_vec(),
                got: vec![values.len()],
            });
        }
        let handle = host.handle();
        let mut out = RawTensor::NULL;
        let mut failure = Failure::default();
        // SAFETY: `Element` is sealed to plain numbers, so the values are `size_of_val` initialised bytes; shape and out
        // pointers are valid for the call.
        let status = unsafe {
            handle.tensors.from_host()(
                handle.device,
                T::DTYPE,
                values.as_ptr().cast::<u8>(),
                size_of_val(values),
                shape.as_ptr(),
                shape.len(),
                &raw mut out,
                &raw mut failure,
            )
        };
        if status != Status::OK {
            return Err(Error::from_failure(status, failure));
        }
        // SAFETY: on OK the host wrote one new strong reference.
        Ok(unsafe { Tensor::from_raw(out, handle.tensors) })
    }

    /// A scalar (rank 0).
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn scalar<T: Element>(value: T, host: &Host) -> Result<Tensor> {
        Tensor::from_slice(&[value], [0usize; 0], host)
    }

    /// A constant with this tensor's element type and device.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn full_like(&self, value: f64, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        let mut ints = vec![i64::from(self.dtype().0)];
        ints.extend(extents(shape.as_ref()));
        self.apply(ops::FULL, &[], &ints, &[value])
    }

    /// Zeros with this tensor's shape, element type and device.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn zeros_like(&self) -> Result<Tensor> {
        self.full_like(0.0, self.dims())
    }

    /// Ones with this tensor's shape, element type and device.
    ///
    /// # Errors
    /// As [`Tensor::full`].
    pub fn ones_like(&self) -> Result<Tensor> {
        self.full_like(1.0, self.dims())
    }

    /// Converted to another element type; floats to whole numbers truncate.
    ///
    /// # Errors
    /// When the host does not know the type.
    pub fn to_dtype(&self, dtype: DType) -> Result<Tensor> {
        if self.dtype() == dtype {
            return Ok(self.clone());
        }
        self.apply(ops::TO_DTYPE, &[], &[i64::from(dtype.0)], &[])
    }

    /// The same values without the graph behind them: no gradient flows through.
    ///
    /// # Errors
    /// When the host fails.
    pub fn detach(&self) -> Result<Tensor> {
        self.apply(ops::DETACH, &[], &[], &[])
    }
}
