//! A pretrained model as a run needs it: the backbone, its diffusion process, and what turns images into its latents. Also the one embedded in
//! this program.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use crate::backbone::{self, Backbone, DitConfig, ModelInfo};
use crate::diffusion::{self, Process, SchedulerConfig};
use crate::encode::Encoder;

/// What the embedded backbone is called where a path would stand.
pub const EMBEDDED: &str = "embedded";

const CONFIG: &str = include_str!("../assets/studio/config.json");
const SCHEDULER: &str = include_str!("../assets/studio/scheduler_config.json");
const WEIGHTS: &[u8] = include_bytes!("../assets/studio/diffusion_pytorch_model.safetensors");

/// Why a pretrained model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The network.
    #[error(transparent)]
    Backbone(#[from] backbone::Error),
    /// Its scheduler.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// The folder has an autoencoder, so the model works in a latent space.
    #[error("`{}` is a latent-space model (it has a `vae/`), which this host cannot train or sample yet; use a pixel-space model, or `host model forward` for its network alone", path.display())]
    LatentSpace {
        /// The folder.
        path: PathBuf,
    },
    /// The network works on something else than RGB images.
    #[error(
        "the backbone works on {channels} channels and comes without a `vae/`, but images have 3; use a pixel-space backbone with 3 input channels"
    )]
    Channels {
        /// The network's input channels.
        channels: usize,
    },
}

/// A model, ready to denoise.
#[derive(Debug)]
pub struct Pretrained {
    /// The frozen network.
    pub backbone: Backbone,
    /// Its process.
    pub process: Process,
    /// Between images and latents.
    pub encoder: Encoder,
}

/// The facts about a model, from its headers alone; `path` none is the embedded model.
///
/// # Errors
/// What cannot be read or used, before any weight is.
pub fn inspect(path: Option<&Path>) -> Result<ModelInfo, Error> {
    let info = match path {
        None => Backbone::from_bytes(CONFIG, WEIGHTS, &Device::Cpu, DType::F32)?
            .info()
            .clone(),
        Some(path) => {
            if path.join("vae").is_dir() {
                return Err(Error::LatentSpace {
                    path: path.to_path_buf(),
                });
            }
            scheduler(path)?;
            backbone::inspect(path)?.info
        }
    };
    if info.in_channels != 3 {
        return Err(Error::Channels {
            channels: info.in_channels,
        });
    }
    Ok(info)
}

impl Pretrained {
    /// The same model with other positions at sizes that it was not trained at.
    pub fn placing(self, positions: crate::backbone::Positions) -> Self {
        Self {
            backbone: self.backbone.with_positions(positions),
            ..self
        }
    }
}

/// Loads a model; `path` none is the embedded one.
///
/// # Errors
/// As [`inspect`], and whatever the weights hold.
pub fn open(path: Option<&Path>, device: &Device, dtype: DType) -> Result<Pretrained, Error> {
    let (backbone, config) = match path {
        None => (
            Backbone::from_bytes(CONFIG, WEIGHTS, device, dtype)?,
            embedded_scheduler()?,
        ),
        Some(path) => {
            // Here and not where it is read, so that a run that first looks at the headers says it once.
            if scheduler_file(path).is_none() {
                tracing::warn!(
                    "`{}` has no scheduler_config.json: taking DiT's own (linear betas, epsilon prediction)",
                    path.display()
                );
            }
            (Backbone::open(path, device, dtype)?, scheduler(path)?)
        }
    };
    let process = Process::new(config, backbone.info().learned_variance)?;
    Ok(Pretrained {
        backbone,
        process,
        encoder: Encoder::Pixels,
    })
}

/// The configuration of the embedded network.
///
/// # Errors
/// None in a program that was built and tested.
pub fn embedded_config() -> Result<DitConfig, Error> {
    Ok(DitConfig::from_json(CONFIG, "the embedded config.json")?)
}

/// Names of the classes of the embedded network, in the order of its labels.
pub fn embedded_classes() -> Vec<String> {
    crate::data::scenes::Content::Source.classes()
}

fn embedded_scheduler() -> Result<SchedulerConfig, Error> {
    Ok(SchedulerConfig::from_json(
        SCHEDULER,
        Path::new("the embedded scheduler_config.json"),
    )?)
}

/// The scheduler beside a network: in `scheduler/` of the pipeline, or in the network's own folder. Without one, DiT's own: linear betas, the
/// network predicts the noise.
fn scheduler(path: &Path) -> Result<SchedulerConfig, Error> {
    match scheduler_file(path) {
        Some(file) => Ok(SchedulerConfig::read(&file)?),
        None => Ok(SchedulerConfig::default()),
    }
}

fn scheduler_file(path: &Path) -> Option<PathBuf> {
    let beside = path.parent().map(|parent| parent.join("scheduler"));
    let folders = [
        Some(path.join("scheduler")),
        Some(path.to_path_buf()),
        beside,
    ];
    let mut files = folders
        .into_iter()
        .flatten()
        .map(|folder| folder.join("scheduler_config.json"));
    files.find(|file| file.is_file())
}
