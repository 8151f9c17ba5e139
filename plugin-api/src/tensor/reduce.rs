//! Reductions: over all elements, over some dimensions, with or without keeping those dimensions as 1.

use super::{Dim, Dims, Tensor, index::int};
use crate::{
    Result,
    ops::{self, Op},
};

macro_rules! reduce {
    ($($what:literal $op:ident: $name:ident, $keep:ident, $all:ident;)*) => {
        impl Tensor {$(
            #[doc = concat!($what, " over `dims`, which disappear.")]
            ///
            /// # Errors
            /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
            pub fn $name(&self, dims: impl Dims) -> Result<Tensor> {
                self.reduce(ops::$op, dims, false, stringify!($name))
            }

            #[doc = concat!($what, " over `dims`, which stay as 1.")]
            ///
            /// # Errors
            /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
            pub fn $keep(&self, dims: impl Dims) -> Result<Tensor> {
                self.reduce(ops::$op, dims, true, stringify!($keep))
            }

            #[doc = concat!($what, " over all elements: a scalar.")]
            ///
            /// # Errors
            /// When the host fails.
            pub fn $all(&self) -> Result<Tensor> {
                self.apply(ops::$op, &[], &[0], &[])
            }
        )*}
    };
}

reduce! {
    "Sum" SUM: sum, sum_keepdim, sum_all;
    "Mean" MEAN: mean, mean_keepdim, mean_all;
    "Largest value" MAX: max, max_keepdim, max_all;
    "Smallest value" MIN: min, min_keepdim, min_all;
}

impl Tensor {
    fn reduce(&self, op: Op, dims: impl Dims, keep: bool, name: &'static str) -> Result<Tensor> {
        let dims = dims.resolve_all(&self.dims(), name)?;
        if dims.is_empty() {
            // Across the boundary "no dimensions" means all of them; here it means what it says.
            return Ok(self.clone());
        }
        let mut ints = vec![i64::from(keep)];
        ints.extend(dims);
        self.apply(op, &[], &ints, &[])
    }

    /// Index of the first largest value along `dim`, which disappears: u32.
    ///
    /// # Errors
    /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
    pub fn argmax(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "argmax")?;
        self.apply(ops::ARGMAX, &[], &[0, int(dim)], &[])
    }

    /// Index of the first smallest value along `dim`, which disappears: u32.
    ///
    /// # Errors
    /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
    pub fn argmin(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "argmin")?;
        self.apply(ops::ARGMIN, &[], &[0, int(dim)], &[])
    }

    /// Running sum along `dim`; the shape stays.
    ///
    /// # Errors
    /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
    pub fn cumsum(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "cumsum")?;
        self.apply(ops::CUMSUM, &[], &[int(dim)], &[])
    }
}
