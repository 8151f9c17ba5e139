//! A pretrained model as a run needs it: the backbone, its diffusion process, and what turns images into its latents. Also the one embedded in
//! this program.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device};

use crate::adapter::{self, Report};
use crate::backbone::{self, Backbone, Config, ModelInfo};
use crate::config::AdapterEntry;
use crate::diffusion::{self, Prediction, Process, SchedulerConfig};
use crate::encode::{self, CachedVae, Encoder, Vae, vae};
use crate::text::{self, TextEncoders, TextInfo};

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
    /// An adapter for it.
    #[error(transparent)]
    Adapter(#[from] adapter::Error),
    /// Its scheduler.
    #[error(transparent)]
    Diffusion(#[from] diffusion::Error),
    /// Its autoencoder.
    #[error(transparent)]
    Encoder(#[from] encode::Error),
    /// Its text encoders.
    #[error(transparent)]
    Text(#[from] text::Error),
    /// The network is told a text, and nothing reads it.
    #[error(
        "the backbone is conditioned on texts (`encoder_hidden_states` {width} wide), and there is no text encoder beside it to make them"
    )]
    NoText {
        /// Width of the text's tokens.
        width: usize,
    },
    /// The network takes something beside the latents, and nothing gives it.
    #[error(
        "the backbone takes {channels} channels and its latents have {latents}: something must be joined to them, which a plugin at the slot `denoiser_input` does (e2e_ft joins those of a picture)"
    )]
    Wide {
        /// The network's input channels.
        channels: usize,
        /// The latents'.
        latents: usize,
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
    /// Between texts and what the network reads of them.
    pub text: Option<Arc<TextEncoders>>,
    /// What adapter files were merged into the network.
    pub adapters: Vec<Report>,
}

/// The facts about a model, from its headers alone; `path` none is the embedded model.
///
/// # Errors
/// What cannot be read or used, before any weight is.
pub fn inspect(path: Option<&Path>) -> Result<Facts, Error> {
    let info = match path {
        None => Backbone::from_bytes(CONFIG, WEIGHTS, &Device::Cpu, DType::F32)?
            .info()
            .clone(),
        Some(path) => {
            let info = backbone::inspect(path)?.info;
            scheduler(path, &info)?;
            info
        }
    };
    let (factor, latent_channels) = match path.and_then(vae_folder) {
        None if info.in_channels == 0 || !info.in_channels.is_multiple_of(3) => {
            return Err(Error::Channels {
                channels: info.in_channels,
            });
        }
        None => (1, 3),
        Some(folder) => {
            let config = vae::read_config(&folder)?;
            if config.latent_channels > info.in_channels {
                return Err(encode::Error::Channels {
                    path: folder,
                    latents: config.latent_channels,
                    network: info.in_channels,
                }
                .into());
            }
            (config.factor(), config.latent_channels)
        }
    };
    let pipeline = path.and_then(text::pipeline);
    let text = pipeline.as_deref().map(text::inspect).transpose()?;
    Ok(Facts {
        info: info.of_latents(latent_channels),
        factor,
        latent_channels,
        text,
        pipeline,
    })
}

/// The facts about a model from its headers.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Those of the network.
    pub info: ModelInfo,
    /// Pictures are this many times as high and wide as their latents.
    pub factor: usize,
    /// Channels of the latents.
    pub latent_channels: usize,
    /// What its text encoders give, where it has some.
    pub text: Option<TextInfo>,
    /// The pipeline that they are of.
    pipeline: Option<PathBuf>,
}

impl Facts {
    /// Refuses a network that is conditioned on what a run cannot give it.
    ///
    /// # Errors
    /// It attends to a text and there is no text encoder, or one of another model.
    pub fn check_conditioning(&self) -> Result<(), Error> {
        let pipeline = self
            .pipeline
            .as_deref()
            .unwrap_or(Path::new("the backbone"));
        check_text(&self.info, pipeline, self.text)
    }

    /// Side of the pictures it was trained on, in pixels.
    pub fn image_size(&self) -> usize {
        self.info.sample_size * self.factor
    }

    /// Both sides of a picture must be multiples of this.
    pub fn image_multiple(&self) -> usize {
        self.info.patch_size * self.factor
    }
}

/// Refuses a network that takes more than latents of `latents` channels where nothing is `joined` to them.
///
/// # Errors
/// [`Error::Wide`].
pub fn check_input(info: &ModelInfo, latents: usize, joined: bool) -> Result<(), Error> {
    let channels = info.in_channels;
    match channels == latents || joined {
        true => Ok(()),
        false => Err(Error::Wide { channels, latents }),
    }
}

/// Refuses a network that is conditioned on texts of which its pipeline's text encoders make nothing, or something else.
///
/// # Errors
/// It attends to a text and there is no text encoder, or one of another model.
fn check_text(info: &ModelInfo, pipeline: &Path, text: Option<TextInfo>) -> Result<(), Error> {
    let Some(width) = info.cross_attention else {
        return Ok(());
    };
    let Some(text) = text else {
        return Err(Error::NoText { width });
    };
    let shown = |width: Option<usize>| width.map_or("none".to_owned(), |width| width.to_string());
    // Of two encoders that should be there, the second is the one that is forgotten.
    if info.text_embeds.is_some() && text.embeds.is_none() {
        return Err(text::Error::Missing {
            pipeline: pipeline.to_owned(),
            what: "second text encoder",
            part: "text_encoder_2",
        }
        .into());
    }
    let pairs = [
        (text::STATES, Some(text.states), Some(width)),
        (text::EMBEDS, text.embeds, info.text_embeds),
    ];
    match pairs
        .into_iter()
        .find(|(_, found, expected)| found != expected)
    {
        None => Ok(()),
        Some((what, found, expected)) => Err(text::Error::Width {
            pipeline: pipeline.to_owned(),
            what,
            found: shown(found),
            expected: shown(expected),
        }
        .into()),
    }
}

/// The autoencoder of a pipeline, if it has one: its folder, or the file that holds the whole pipeline.
pub fn vae_folder(path: &Path) -> Option<PathBuf> {
    // The path may also be that of the pipeline's network.
    let is_network = path.ends_with("transformer") || path.ends_with("unet");
    let beside = path.parent().filter(|_| is_network);
    if vae::is_within(path) {
        return Some(path.to_path_buf());
    }
    let folders = [Some(path), beside].into_iter().flatten();
    let mut folders = folders.map(|folder| folder.join("vae"));
    folders.find(|folder| folder.is_dir())
}

impl Pretrained {
    /// The same model, keeping what the autoencoder and the text encoders make of images and texts in the cache folder `root`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn caching(self, root: &Path) -> candle_core::Result<Self> {
        let encoder = match self.encoder {
            Encoder::Vae(vae) => Encoder::Cached(Arc::new(CachedVae::new(vae, root)?)),
            other => other,
        };
        let text = match self.text {
            None => None,
            Some(text) => Some(Arc::new(text.cached(root)?)),
        };
        Ok(Self {
            encoder,
            text,
            ..self
        })
    }

    /// The same model with other positions at sizes that it was not trained at.
    pub fn placing(self, positions: crate::backbone::Positions) -> Self {
        Self {
            backbone: self.backbone.with_positions(positions),
            ..self
        }
    }
}

/// What adapters hold for a model, without its weights; `path` none is the embedded model.
///
/// # Errors
/// An adapter that cannot be read or does not fit, or a model that cannot be read.
pub fn inspect_adapters(
    path: Option<&Path>,
    adapters: &[AdapterEntry],
) -> Result<Vec<Report>, Error> {
    if adapters.is_empty() {
        return Ok(Vec::new());
    }
    let layers = match path {
        None => embedded_config()?.layers()?,
        Some(path) => backbone::layers_of(path)?,
    };
    let read = adapter::read_all(adapters)?;
    let reports = read
        .iter()
        .map(|(weights, _)| Ok(weights.matched(&layers)?.report));
    reports.collect()
}

/// Loads a model, and merges adapters into its weights; `path` none is the embedded one.
///
/// # Errors
/// As [`inspect`] and [`inspect_adapters`], and whatever the weights hold.
pub fn open(
    path: Option<&Path>,
    adapters: &[AdapterEntry],
    device: &Device,
    dtype: DType,
) -> Result<Pretrained, Error> {
    let adapters = adapter::read_all(adapters)?;
    let ((backbone, reports), config) = match path {
        None => (
            Backbone::from_bytes_adapted(CONFIG, WEIGHTS, &adapters, device, dtype)?,
            embedded_scheduler()?,
        ),
        Some(path) => {
            let opened = Backbone::open_adapted(path, &adapters, device, dtype)?;
            let config = scheduler(path, opened.0.info())?;
            // Here and not where it is read, so that a run that first looks at the headers says it once.
            if scheduler_file(path).is_none() {
                tracing::warn!(
                    "`{}` has no scheduler_config.json: taking the process that such models were trained with, {:?} prediction and {:?} betas; a `scheduler/` beside it says otherwise",
                    path.display(),
                    config.prediction_type,
                    config.beta_schedule
                );
            }
            (opened, config)
        }
    };
    for report in &reports {
        report.log();
    }
    let encoder = match path.and_then(vae_folder) {
        Some(folder) => Encoder::Vae(Arc::new(Vae::open(&folder, device)?)),
        None => Encoder::Pixels,
    };
    let backbone = match encoder.is_pixels() && !backbone.info().in_channels.is_multiple_of(3) {
        // Latents without their autoencoder, as a measurement takes them.
        true => backbone,
        false => backbone.of_latents(encoder.latent_channels()),
    };
    let process = Process::new(config, backbone.info().learned_variance)?;
    let text = match path.and_then(text::pipeline) {
        Some(pipeline) if backbone.info().cross_attention.is_some() => {
            let text = TextEncoders::open(&pipeline, device, dtype)?;
            check_text(backbone.info(), &pipeline, Some(text.info()))?;
            Some(Arc::new(text))
        }
        _ => None,
    };
    Ok(Pretrained {
        backbone,
        process,
        encoder,
        text,
        adapters: reports,
    })
}

/// The configuration of the embedded network.
///
/// # Errors
/// None in a program that was built and tested.
pub fn embedded_config() -> Result<Config, Error> {
    Ok(Config::from_json(CONFIG, "the embedded config.json")?)
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

/// The scheduler beside a network: in `scheduler/` of the pipeline, or in the network's own folder. Without one, the architecture's own: of a DiT linear
/// betas, of a UNet Stable Diffusion's; the network predicts the noise, or the velocity where a whole Stable Diffusion 2 in one file does not say.
fn scheduler(path: &Path, info: &ModelInfo) -> Result<SchedulerConfig, Error> {
    /// Width of the text in Stable Diffusion 2.
    const SECOND: usize = 1024;
    Ok(match (scheduler_file(path), info.cross_attention) {
        (Some(file), _) => SchedulerConfig::read(&file)?,
        (None, None) => SchedulerConfig::default(),
        (None, Some(SECOND)) if path.is_file() => {
            SchedulerConfig::stable_diffusion(Prediction::VPrediction)
        }
        (None, Some(_)) => SchedulerConfig::stable_diffusion(Prediction::Epsilon),
    })
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
