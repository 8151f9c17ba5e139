//! The arguments of one operation, taken out with a sentence for each that does not fit.

use candle_core::{Device, Tensor};
use plugin_api::Error;
use plugin_api::abi::Status;
use plugin_api::ops::Op;

/// One call of an operation.
pub(super) struct Call<'a> {
    /// Which operation.
    pub(super) op: Op,
    /// Its inputs.
    pub(super) inputs: Vec<&'a Tensor>,
    /// Its integer arguments.
    pub(super) ints: &'a [i64],
    /// Its floating-point arguments.
    pub(super) floats: &'a [f64],
    /// Where to create, when there is no input.
    pub(super) device: Option<&'static Device>,
}

/// What was asked does not fit together.
pub(super) fn invalid(message: impl Into<String>) -> Error {
    Error::Host {
        status: Status::INVALID,
        message: message.into(),
    }
}

/// A refusal of candle or of the host's own operation, its name once before it, and without the backtrace that candle appends
/// when the environment asks for one.
pub(super) fn failed(name: &str, error: &candle_core::Error) -> Error {
    let (name, text) = (name.to_ascii_lowercase(), error.to_string());
    let first = text.lines().next().unwrap_or_default();
    let reason = first.strip_prefix(&format!("{name}: ")).unwrap_or(first);
    invalid(format!("{name}: {reason}"))
}

impl<'a> Call<'a> {
    /// What was asked of this operation does not fit together.
    pub(super) fn invalid(&self, message: impl std::fmt::Display) -> Error {
        invalid(format!("{}: {message}", self.op.name.to_ascii_lowercase()))
    }

    /// Candle's refusal as this operation's.
    pub(super) fn done(&self, result: candle_core::Result<Tensor>) -> Result<Tensor, Error> {
        result.map_err(|error| failed(self.op.name, &error))
    }

    /// Input `index`.
    pub(super) fn input(&self, index: usize) -> Result<&'a Tensor, Error> {
        self.inputs
            .get(index)
            .copied()
            .ok_or_else(|| self.invalid(format_args!("input {index} is missing")))
    }

    /// An optional input: `flag` says whether it is there, `next` counts those taken.
    pub(super) fn optional(
        &self,
        flag: bool,
        next: &mut usize,
    ) -> Result<Option<&'a Tensor>, Error> {
        if !flag {
            return Ok(None);
        }
        let tensor = self.input(*next)?;
        *next += 1;
        Ok(Some(tensor))
    }

    /// Integer argument `index`.
    pub(super) fn int(&self, index: usize) -> Result<i64, Error> {
        self.ints
            .get(index)
            .copied()
            .ok_or_else(|| self.invalid(format_args!("integer argument {index} is missing")))
    }

    /// Integer argument `index` as a size.
    pub(super) fn size(&self, index: usize) -> Result<usize, Error> {
        let value = self.int(index)?;
        usize::try_from(value)
            .map_err(|_| self.invalid(format_args!("argument {index} is {value}, below 0")))
    }

    /// Integer argument `index` as a size above 0.
    pub(super) fn positive(&self, index: usize) -> Result<usize, Error> {
        match self.size(index)? {
            0 => Err(self.invalid(format_args!("argument {index} is 0"))),
            size => Ok(size),
        }
    }

    /// The integer arguments from `start` on, as sizes.
    pub(super) fn sizes(&self, start: usize) -> Result<Vec<usize>, Error> {
        (start..self.ints.len())
            .map(|index| self.size(index))
            .collect()
    }

    /// Integer argument `index` as a dimension of `x`.
    pub(super) fn dim(&self, index: usize, x: &Tensor) -> Result<usize, Error> {
        let dim = self.int(index)?;
        usize::try_from(dim)
            .ok()
            .filter(|&dim| dim < x.rank())
            .ok_or_else(|| self.invalid(format_args!("no dimension {dim} in shape {:?}", x.dims())))
    }

    /// The integer arguments from `start` on, as dimensions of `x`, in rising order, each once.
    pub(super) fn dims(&self, start: usize, x: &Tensor) -> Result<Vec<usize>, Error> {
        let dims: Result<Vec<usize>, Error> = (start..self.ints.len())
            .map(|index| self.dim(index, x))
            .collect();
        let mut dims = dims?;
        dims.sort_unstable();
        dims.dedup();
        Ok(dims)
    }

    /// Floating-point argument `index`.
    pub(super) fn float(&self, index: usize) -> Result<f64, Error> {
        self.floats
            .get(index)
            .copied()
            .ok_or_else(|| self.invalid(format_args!("number argument {index} is missing")))
    }

    /// Refuses tensors of different element types: the boundary never converts silently.
    pub(super) fn same_dtype(&self, tensors: &[&Tensor]) -> Result<(), Error> {
        let Some((first, rest)) = tensors.split_first() else {
            return Ok(());
        };
        match rest.iter().find(|tensor| tensor.dtype() != first.dtype()) {
            None => Ok(()),
            Some(other) => {
                let (a, b) = (first.dtype().as_str(), other.dtype().as_str());
                Err(self.invalid(format_args!("element types {a} and {b} differ")))
            }
        }
    }

    /// Refuses whole-number tensors, for which the operation has no meaning.
    pub(super) fn floating(&self, x: &Tensor) -> Result<(), Error> {
        if x.dtype().is_float() {
            return Ok(());
        }
        Err(self.invalid(format_args!(
            "needs a floating-point tensor, got {}",
            x.dtype().as_str()
        )))
    }

    /// Refuses tensors of another rank.
    pub(super) fn rank(&self, x: &Tensor, rank: usize) -> Result<(), Error> {
        if x.rank() == rank {
            return Ok(());
        }
        Err(self.invalid(format_args!(
            "needs {rank} dimensions, got shape {:?}",
            x.dims()
        )))
    }
}
