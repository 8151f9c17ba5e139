//! The weights of a model under its own parameters' names, whatever the model: of a folder of diffusers, or a part of a file that holds a whole pipeline.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::super::ldm::{Catalog, Shapes};
use super::super::{Error, Source};
use super::locate::{Found, locate, weights_in};
use super::{Container, Part};

/// The weights of one model, read onto a device in the type to compute in.
pub(crate) struct ModelFolder {
    container: Container<'static>,
    /// By the name to use.
    catalog: BTreeMap<String, Part>,
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
            .filter_map(|(stored, shape)| Some((rename(&stored)?, Part::whole(stored, shape))))
            .collect();
        Ok(Self {
            container,
            catalog,
            device: device.clone(),
            dtype,
        })
    }

    /// A part of a file that holds several models, where `catalog` finds its parameters. No tensor is read.
    ///
    /// # Errors
    /// A file that cannot be read, or what `catalog` fails with.
    pub(crate) fn within(
        file: &Path,
        device: &Device,
        dtype: DType,
        catalog: &dyn Fn(&Shapes) -> Result<Catalog, Error>,
    ) -> Result<Self, Error> {
        let container = Container::open(&[file.to_owned()])?;
        Ok(Self {
            catalog: catalog(&container.shapes())?,
            container,
            device: device.clone(),
            dtype,
        })
    }
}

/// Every tensor of a model folder or of a weights file, as stored, and the text of the `config.json` in the folder or beside the file.
///
/// # Errors
/// When there is nothing, a folder has no `config.json` or no weights, or a file cannot be read.
pub(crate) fn read_weights(
    path: &Path,
    device: &Device,
) -> Result<(BTreeMap<String, Tensor>, Option<String>), Error> {
    let (files, config) = match path.is_dir() {
        true => (weights_in(path)?, path.join("config.json")),
        false => (vec![path.to_owned()], path.with_file_name("config.json")),
    };
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { path, source }
    };
    let config = match config.is_file() {
        true => Some(std::fs::read_to_string(&config).map_err(io(&config))?),
        false => None,
    };
    let container = Container::open(&files)?;
    let mut tensors = BTreeMap::new();
    for name in container.shapes().into_keys() {
        let tensor = container.load(&name)?.to_device(device)?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, config))
}

impl Source for ModelFolder {
    fn names(&self) -> Vec<String> {
        self.catalog.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.catalog.get(name).map(|part| part.shape.clone())
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        let part = self.catalog.get(name).ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })?;
        let tensor = self.container.part(part)?;
        Ok(tensor.to_dtype(self.dtype)?.to_device(&self.device)?)
    }
}
