//! Where a network starts that is trained from nothing: a source that draws whatever a layer asks for, as PyTorch's layers do.

use candle_core::{DType, Device, Tensor};

use super::{Error, Source};
use crate::random::Stream;

/// Standard deviation of tables of embeddings.
const EMBEDDING_STD: f64 = 0.02;

/// Draws weights uniform within `1 / sqrt(fan_in)`; tables of embeddings from a normal distribution; norms start as ones, biases as zeros. Each parameter has
/// a stream of its own, so its start does not depend on the rest of the network.
pub(crate) struct Initial<'a> {
    pub(crate) seed: u64,
    pub(crate) device: &'a Device,
    /// Which weights start as zeros, by name: those whose layers are to add nothing at first.
    pub(crate) zeros: &'a dyn Fn(&str) -> bool,
}

impl Source for Initial<'_> {
    fn names(&self) -> Vec<String> {
        Vec::new()
    }

    fn shape(&self, _name: &str) -> Option<Vec<usize>> {
        None
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        Err(Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })
    }

    fn find(&self, name: &str, expected: &[usize]) -> Result<Option<Tensor>, Error> {
        let (shape, device) = (expected, self.device);
        let mut stream = Stream::new(self.seed, &format!("init {name}"));
        let is_weight = name.ends_with(".weight");
        Ok(Some(match shape {
            _ if !is_weight || (self.zeros)(name) => Tensor::zeros(shape, DType::F32, device)?,
            [_] => Tensor::ones(shape, DType::F32, device)?,
            _ if name.contains("embedding.weight") => {
                (stream.normal(shape, device)? * EMBEDDING_STD)?
            }
            [_, inputs @ ..] => {
                let bound = 1.0 / (inputs.iter().product::<usize>() as f64).sqrt();
                stream.uniform(shape, device)?.affine(2.0 * bound, -bound)?
            }
            [] => Tensor::zeros(shape, DType::F32, device)?,
        }))
    }
}
