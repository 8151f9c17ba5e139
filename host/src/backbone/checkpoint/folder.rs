//! A model folder of diffusers under its own parameters' names, whatever the model.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::super::{Error, Source};
use super::Container;
use super::locate::{Found, locate};

/// The weights of a model folder, read onto a device in the type to compute in.
pub(crate) struct ModelFolder {
    container: Container<'static>,
    /// By the name to use: the name stored, and the shape.
    catalog: BTreeMap<String, (String, Vec<usize>)>,
    device: Device,
    dtype: DType,
}

impl ModelFolder {
    /// Lists what `dir` (with its `config.json`) holds; `rename` gives the name to use for one that is stored, or none for
    /// what is not a parameter. No tensor is read.
    ///
    /// # Errors
    /// When there is no model, or a file that cannot be read.
    pub(crate) fn open(
        dir: &Path,
        device: &Device,
        dtype: DType,
        rename: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, Error> {
        let weights = match locate(dir)? {
            Found::Folder { weights, .. } => weights,
            Found::File { weights, .. } => vec![weights],
        };
        let container = Container::open(&weights)?;
        let catalog = (container.shapes().into_iter())
            .filter_map(|(stored, shape)| Some((rename(&stored)?, (stored, shape))))
            .collect();
        Ok(Self {
            container,
            catalog,
            device: device.clone(),
            dtype,
        })
    }
}

impl Source for ModelFolder {
    fn names(&self) -> Vec<String> {
        self.catalog.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.catalog.get(name).map(|(_, shape)| shape.clone())
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        let (stored, _) = self.catalog.get(name).ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })?;
        let tensor = self.container.load(stored)?;
        Ok(tensor.to_dtype(self.dtype)?.to_device(&self.device)?)
    }
}
