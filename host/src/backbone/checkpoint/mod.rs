//! Checkpoints in others' formats, read one tensor at a time and seen under diffusers' names whatever their own layout.

mod folder;
mod locate;
mod names;
mod pt;
mod safetensors;
mod write;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::{Config, Error, Source, ldm};
use locate::{Found, locate};
use pt::PickleFile;
use safetensors::SafetensorsFiles;

pub(crate) use folder::{ModelFolder, read_weights};
pub(crate) use locate::only_variant;
pub(crate) use names::Part;
pub(crate) use write::{DIFFUSION_WEIGHTS, write_folder};

/// Names and shapes of the tensors of a weights file, of either kind.
///
/// # Errors
/// A file that cannot be read.
pub(crate) fn shapes_of(file: &Path) -> Result<BTreeMap<String, Vec<usize>>, Error> {
    Ok(Container::open(&[file.to_owned()])?.shapes())
}

/// A checkpoint whose tensors have been listed and not loaded.
#[derive(Debug)]
pub(crate) struct Checkpoint<'a> {
    container: Container<'a>,
    /// What is stored, by diffusers' keys.
    catalog: BTreeMap<String, Part>,
    config: Config,
}

/// The kinds of file tensors come in.
#[derive(Debug)]
enum Container<'a> {
    Safetensors(SafetensorsFiles<'a>),
    Pickle(PickleFile),
}

impl Container<'_> {
    /// Reads the headers of weights files: of shards, or of one file of either kind.
    fn open(files: &[PathBuf]) -> Result<Self, Error> {
        let is_safetensors = |file: &Path| {
            file.extension()
                .is_some_and(|ending| ending == "safetensors")
        };
        Ok(match files {
            [pickle] if !is_safetensors(pickle) => Self::Pickle(PickleFile::open(pickle)?),
            files => Self::Safetensors(SafetensorsFiles::open(files)?),
        })
    }

    fn shapes(&self) -> BTreeMap<String, Vec<usize>> {
        match self {
            Self::Safetensors(files) => files.shapes(),
            Self::Pickle(file) => file.shapes(),
        }
    }

    /// A tensor as stored, on the CPU.
    fn load(&self, stored: &str) -> Result<Tensor, Error> {
        match self {
            Self::Safetensors(files) => files.load(stored),
            Self::Pickle(file) => file.load(stored),
        }
    }

    /// A parameter, on the CPU.
    fn part(&self, part: &Part) -> Result<Tensor, Error> {
        let mut tensor = self.load(&part.stored)?;
        if let Some(third) = part.third {
            let rows = tensor.dim(0)? / 3;
            // Owned, so that the stacked tensor does not stay in memory behind its thirds.
            tensor = tensor.narrow(0, third * rows, rows)?.force_contiguous()?;
        }
        if part.transposed {
            tensor = tensor.t()?.force_contiguous()?;
        }
        Ok(tensor.reshape(part.shape.as_slice())?)
    }
}

impl<'a> Checkpoint<'a> {
    /// Opens a diffusers folder (pipeline root, `transformer/` or `unet/`) or a weights file, a DiT's or a whole pipeline's, reading headers only.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let found = locate(path)?;
        let (config, files) = match &found {
            Found::Folder { config, weights } => (Some(config), weights.as_slice()),
            Found::File { config, weights } => (config.as_ref(), std::slice::from_ref(weights)),
        };
        let container = Container::open(files)?;
        let shapes = container.shapes();
        if ldm::is_single_file(&shapes) {
            return Self::single(container, &shapes, config);
        }
        let original = names::is_original(&shapes);
        let config = match (original, config) {
            (true, _) => names::infer_config(&shapes)?.into(),
            (false, Some(file)) => read_config(file)?,
            (false, None) => {
                return Err(Error::Weights {
                    file: path.display().to_string(),
                    reason: names::describe_foreign(&shapes),
                });
            }
        };
        Ok(Self::new(container, shapes, original, config))
    }

    /// The UNet of a whole pipeline in one file. A `config.json` beside it counts if it is a UNet's.
    fn single(
        container: Container<'a>,
        shapes: &ldm::Shapes,
        config: Option<&PathBuf>,
    ) -> Result<Self, Error> {
        let config = match config.map(|file| read_config(file)) {
            Some(Ok(Config::Unet(config))) => config,
            _ => ldm::unet_config(shapes)?,
        };
        Ok(Self {
            container,
            catalog: ldm::unet_catalog(shapes, &config)?,
            config: config.into(),
        })
    }

    /// A diffusers checkpoint held in memory.
    pub(crate) fn from_bytes(config_json: &str, safetensors: &'a [u8]) -> Result<Self, Error> {
        let config = Config::from_json(config_json, "the configuration in memory")?;
        let container = Container::Safetensors(SafetensorsFiles::borrow(
            safetensors,
            "the weights in memory",
        )?);
        let shapes = container.shapes();
        Ok(Self::new(container, shapes, false, config))
    }

    fn new(
        container: Container<'a>,
        shapes: BTreeMap<String, Vec<usize>>,
        original: bool,
        config: Config,
    ) -> Self {
        let catalog = match original {
            true => names::from_original(shapes),
            false => names::from_diffusers(shapes),
        };
        Self {
            container,
            catalog,
            config,
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    fn part(&self, name: &str) -> Result<&Part, Error> {
        self.catalog.get(name).ok_or_else(|| Error::Names {
            missing: vec![name.to_owned()],
            unexpected: Vec::new(),
        })
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        self.container.part(self.part(name)?)
    }
}

fn read_config(file: &Path) -> Result<Config, Error> {
    let text = std::fs::read_to_string(file).map_err(|source| Error::Io {
        path: file.to_owned(),
        source,
    })?;
    Config::from_json(&text, &file.display().to_string())
}

/// A checkpoint read onto a device, in the type to compute in.
pub(crate) struct Reading<'a> {
    pub(crate) checkpoint: &'a Checkpoint<'a>,
    pub(crate) device: &'a Device,
    pub(crate) dtype: DType,
}

impl Source for Reading<'_> {
    fn names(&self) -> Vec<String> {
        self.checkpoint.catalog.keys().cloned().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.checkpoint
            .catalog
            .get(name)
            .map(|part| part.shape.clone())
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        Ok(self
            .checkpoint
            .load(name)?
            .to_dtype(self.dtype)?
            .to_device(self.device)?)
    }

    fn same(&self, first: &str, second: &str) -> Result<bool, Error> {
        let (first, second) = (self.checkpoint.part(first)?, self.checkpoint.part(second)?);
        match &self.checkpoint.container {
            Container::Safetensors(files) => files.same(&first.stored, &second.stored),
            Container::Pickle(file) => {
                let values = |part: &Part| -> Result<Vec<f32>, Error> {
                    let tensor = file.load(&part.stored)?.to_dtype(DType::F32)?;
                    Ok(tensor.flatten_all()?.to_vec1()?)
                };
                Ok(values(first)? == values(second)?)
            }
        }
    }
}
