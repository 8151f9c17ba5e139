//! Where a network's parameters come from, behind one seam: files and tensors in memory are checked and loaded alike.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::{Error, Result};

/// Where parameters come from: a checkpoint on disk or in memory, or tensors already built.
pub(crate) trait Source {
    /// Every parameter there is, by diffusers' keys.
    fn names(&self) -> Vec<String>;
    /// The shape of one, if there is one of that name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;
    /// One parameter on the device and in the type that the backbone computes in.
    fn load(&self, name: &str) -> Result<Tensor, Error>;
    /// The parameter that a layer asks for, if there is one of that name.
    ///
    /// # Errors
    /// One of another shape than the layer's.
    fn find(&self, name: &str, expected: &[usize]) -> Result<Option<Tensor>, Error> {
        match self.shape(name) {
            Some(found) if found == expected => Ok(Some(self.load(name)?)),
            Some(found) => Err(Error::Shape {
                name: name.to_owned(),
                expected: expected.to_vec(),
                found,
            }),
            None => Ok(None),
        }
    }
    /// Whether two parameters hold the same values.
    fn same(&self, first: &str, second: &str) -> Result<bool, Error> {
        let (first, second) = (self.load(first)?, self.load(second)?);
        if first.id() == second.id() {
            return Ok(true);
        }
        let values = |tensor: &Tensor| tensor.flatten_all()?.to_dtype(DType::F32)?.to_vec1::<f32>();
        Ok(first.dims() == second.dims() && values(&first)? == values(&second)?)
    }
}

impl Source for HashMap<String, Tensor> {
    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.get(name).map(|tensor| tensor.dims().to_vec())
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        self.get(name).cloned().ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })
    }
}

/// The source of a network that is only looked at, by its configuration alone: whatever a layer asks for, it gets one number for it.
pub(crate) struct Outline;

impl Source for Outline {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, _name: &str) -> Result<Tensor, Error> {
        Ok(Tensor::zeros((), DType::F32, &Device::Cpu)?)
    }

    fn find(&self, name: &str, _expected: &[usize]) -> Result<Option<Tensor>, Error> {
        self.load(name).map(Some)
    }
}

/// The source of a network that is only looked at, checked against the names and shapes of another source; no value is read.
pub(crate) struct Checked<'a>(pub(crate) &'a dyn Source);

impl Source for Checked<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.0.shape(name)
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        Outline.load(name)
    }
}
