//! The inputs of a benchmark's steps: drawn from the seed, or read from a file that another framework was given, too.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use crate::backbone::ModelInfo;
use crate::data::Batch;
use crate::encode::Encoder;
use crate::random::Stream;
use crate::train::{Error, Start};

/// Tokens of a text, as CLIP's tokenizer makes them.
const TOKENS: usize = 77;
/// Pixels a side to a latent pixel, in every autoencoder of Stable Diffusion.
const VAE_FACTOR: usize = 8;

/// Which inputs to take.
#[derive(Clone, Debug)]
pub enum Inputs {
    /// Normal latents, noise and texts, uniform timesteps and classes.
    Drawn {
        /// Samples a pass.
        batch_size: usize,
        /// Height and width of the latents; the backbone's when not given.
        size: Option<usize>,
        /// Where the draws begin.
        seed: u64,
    },
    /// A safetensors file with `step0.noise` `[B, C, h, w]`, `step0.timesteps` `[B]`, what they are for, and the conditioning; then `step1.noise`, and so on.
    ///
    /// What they are for: `step0.latents` `[B, C, h, w]`, or `step0.images` `[B, 3, H, W]` in -1..1, which the backbone's autoencoder encodes in every step. With
    /// images may come columns of data for plugins by their names, such as `step0.hint` `[B, 3, H, W]` in -1..1 or `step0.depth` `[B, 1, H, W]` in 0..1.
    /// The conditioning: `step0.class_labels` `[B]` (without them, the null class), or for a UNet `step0.encoder_hidden_states` `[B, S, D]`, and for SDXL's
    /// `step0.text_embeds` `[B, P]` and `step0.time_ids` `[B, 6]`.
    File(PathBuf),
}

/// What inputs have to fit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) backbone: &'a ModelInfo,
    /// What makes latents of images.
    pub(super) encoder: &'a Encoder,
    pub(super) num_train_timesteps: usize,
    /// How many forward passes want inputs.
    pub(super) passes: usize,
}

/// The inputs of a benchmark.
#[derive(Debug)]
pub(super) struct Made {
    /// Of every pass.
    pub(super) starts: Vec<Start>,
    /// Whether their images are pictures, and not latents.
    pub(super) pictures: bool,
}

impl Inputs {
    /// The inputs of every pass.
    ///
    /// # Errors
    /// A size that the backbone does not take; a file that cannot be read, or lacks something, or holds what does not fit.
    pub(super) fn make(&self, frame: Frame<'_>) -> Result<Made, Error> {
        match self {
            Self::Drawn {
                batch_size,
                size,
                seed,
            } => {
                let side = size.unwrap_or(frame.backbone.sample_size);
                check_side(side, frame.backbone)?;
                let mut stream = Stream::new(*seed, "benchmark inputs");
                let starts = (0..frame.passes)
                    .map(|_| drawn(frame, *batch_size, side, &mut stream))
                    .collect::<Result<_, _>>()?;
                Ok(Made {
                    starts,
                    pictures: false,
                })
            }
            Self::File(path) => read(path, frame),
        }
    }
}

fn check_side(side: usize, backbone: &ModelInfo) -> Result<(), Error> {
    match side > 0 && side.is_multiple_of(backbone.patch_size) {
        true => Ok(()),
        false => Err(Error::Mismatch {
            what: "size of the latents",
            expected: format!("multiples of its patch size {}", backbone.patch_size),
            found: format!("{side} a side"),
            way_out: "set --size",
        }),
    }
}

fn drawn(frame: Frame<'_>, count: usize, side: usize, stream: &mut Stream) -> Result<Start, Error> {
    let shape = (count, frame.backbone.in_channels, side, side);
    let device = &Device::Cpu;
    let latents = stream.normal(shape, device)?; // [B, C, H, W]
    let noise = stream.normal(shape, device)?; // [B, C, H, W]
    let timesteps = stream.integers(frame.num_train_timesteps, count, device)?; // [B]
    let info = frame.backbone;
    let mut conditioning = BTreeMap::new();
    for name in info.reads() {
        let tensor = match name {
            "class_labels" => stream.integers(info.num_classes.unwrap_or(1), count, device)?, // [B]
            "encoder_hidden_states" => {
                let width = info.cross_attention.unwrap_or(1);
                stream.normal((count, TOKENS, width), device)? // [B, S, D]
            }
            "text_embeds" => stream.normal((count, info.text_embeds.unwrap_or(1)), device)?, // [B, P]
            _ => {
                // An uncropped picture of the size that is made.
                let pixels = (side * VAE_FACTOR) as f32;
                let sizes = Tensor::new(&[pixels, pixels, 0.0, 0.0, pixels, pixels], device)?;
                sizes.unsqueeze(0)?.repeat((count, 1))? // [B, 6]
            }
        };
        conditioning.insert(name.to_owned(), tensor);
    }
    Ok(start(latents, noise, timesteps, conditioning))
}

fn start(
    images: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    others: BTreeMap<String, Tensor>,
) -> Start {
    let mut tensors = others;
    tensors.insert("images".to_owned(), images);
    Start {
        batch: Batch {
            tensors,
            ..Batch::default()
        },
        timesteps: Some(timesteps),
        noise: Some(noise),
    }
}

fn read(path: &Path, frame: Frame<'_>) -> Result<Made, Error> {
    let refuse = |reason: String| Error::Inputs {
        path: path.to_owned(),
        reason,
    };
    let tensors = candle_core::safetensors::load(path, &Device::Cpu)
        .map_err(|error| refuse(error.to_string()))?;
    let there = (0..)
        .take_while(|step| tensors.contains_key(&format!("step{step}.noise")))
        .count();
    if there < frame.passes {
        return Err(refuse(format!(
            "it holds inputs for {there} forward passes and {} are asked for; the first step comes on top of --steps",
            frame.passes
        )));
    }
    let steps = (0..frame.passes).map(|step| one(&tensors, step, frame));
    let starts: Vec<Start> = steps.collect::<Result<_, _>>().map_err(refuse)?;
    let shape = |start: &Start| start.noise.as_ref().map(|noise| noise.dims().to_vec());
    match starts.iter().all(|start| shape(start) == shape(&starts[0])) {
        true => Ok(Made {
            starts,
            pictures: tensors.contains_key("step0.images"),
        }),
        false => Err(refuse("its steps differ in shape".to_owned())),
    }
}

/// The inputs of one step, or the reason why they cannot be used.
fn one(tensors: &HashMap<String, Tensor>, step: usize, frame: Frame<'_>) -> Result<Start, String> {
    let get = |name: &str, dtype: DType| {
        let name = format!("step{step}.{name}");
        let tensor = tensors
            .get(&name)
            .ok_or_else(|| format!("there is no `{name}`"))?;
        tensor.to_dtype(dtype).map_err(|error| error.to_string())
    };
    let noise = get("noise", DType::F32)?; // [B, C, h, w]
    let &[count, channels, height, width] = noise.dims() else {
        return Err(format!(
            "`step{step}.noise` is {:?}, not [B, C, H, W]",
            noise.dims()
        ));
    };
    if channels != frame.backbone.in_channels {
        return Err(format!(
            "`step{step}.noise` has {channels} channels, and the backbone takes {}",
            frame.backbone.in_channels
        ));
    }
    for side in [height, width] {
        check_side(side, frame.backbone).map_err(|error| error.to_string())?;
    }
    let (name, expected) = match tensors.contains_key(&format!("step{step}.images")) {
        true => {
            let factor = frame.encoder.factor();
            ("images", [count, 3, height * factor, width * factor])
        }
        false => ("latents", [count, channels, height, width]),
    };
    let images = get(name, DType::F32)?;
    if images.dims() != expected {
        return Err(format!(
            "`step{step}.{name}` are {:?}; for the noise, {:?}, they must be {expected:?}",
            images.dims(),
            noise.dims()
        ));
    }
    let numbers = |name: &str, bound: usize| {
        let wide = get(name, DType::I64)?;
        let values = wide.to_vec1::<i64>().map_err(|error| error.to_string())?;
        let fits = values
            .iter()
            .all(|&value| (0..bound as i64).contains(&value));
        if values.len() != count || !fits {
            return Err(format!(
                "`step{step}.{name}` must be {count} whole numbers below {bound}, one a sample"
            ));
        }
        wide.to_dtype(DType::U32).map_err(|error| error.to_string())
    };
    let timesteps = numbers("timesteps", frame.num_train_timesteps)?; // [B]
    let info = frame.backbone;
    let prefix = format!("step{step}.");
    let known = ["images", "latents", "noise", "timesteps"];
    let mut others = BTreeMap::new();
    for name in tensors.keys().filter_map(|name| name.strip_prefix(&prefix)) {
        if !known.contains(&name) {
            others.insert(name.to_owned(), get(name, DType::F32)?);
        }
    }
    for name in info.reads() {
        let there = tensors.contains_key(&format!("step{step}.{name}"));
        let tensor = match (name, there) {
            ("class_labels", true) => numbers(name, info.num_classes.unwrap_or(0) + 1)?,
            ("class_labels", false) => Tensor::full(info.null_class(), count, &Device::Cpu)
                .map_err(|error| error.to_string())?,
            _ => get(name, DType::F32)?,
        };
        others.insert(name.to_owned(), tensor);
    }
    for (name, tensor) in &others {
        if tensor.dims().first() != Some(&count) {
            return Err(format!(
                "`step{step}.{name}` is {:?} for {count} samples",
                tensor.dims()
            ));
        }
    }
    Ok(start(images, noise, timesteps, others))
}
