//! `host model`: what a checkpoint is, and its raw network on inputs from a file.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;

use super::arguments::{AdapterChoice, whole};
use super::failure::Failure;
use super::text::{Listing, grouped, table};
use super::threads;
use crate::adapter::{Report, read_all};
use crate::backbone::forward_file::{InputsFile, forward_file, write_outputs, write_prediction};
use crate::backbone::{Backbone, Inspection, LayerKind, Pass, inspect};
use crate::config::Precision;
use crate::encode::Vae;
use crate::hub;
use crate::pretrained::{inspect_adapters, vae_folder};
use crate::report::Progress;
use crate::text::{self, ClipText, TextEncoders};

/// Look into a backbone, run it raw, or download one
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Inspect(Inspect),
    Forward(Forward),
    Download(Download),
}

/// Download a model from the Hugging Face Hub into its cache on this machine, where --backbone hf:ORG/NAME finds it
///
/// The only command that uses the network. Of a pipeline it takes what the host reads: the networks, in one number format, tokenizers and the scheduler. What is there
/// already is not downloaded again. HF_HUB_CACHE, HF_HOME, HF_ENDPOINT and HF_TOKEN mean what they mean for the hub's own tools.
#[derive(Debug, Args)]
pub(super) struct Download {
    /// The model: hf:ORG/NAME, or hf:ORG/NAME@REVISION
    #[arg(value_name = "hf:ORG/NAME")]
    name: String,
}

/// Print a backbone's architecture, parameters and adaptable layers
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A diffusers folder (pipeline root, its transformer/ or its unet/), an original DiT .pt or .safetensors file, or a whole Stable Diffusion in one .safetensors or .ckpt file
    #[arg(value_name = "DIR", value_parser = located)]
    backbone: PathBuf,
    #[command(flatten)]
    adapters: AdapterChoice,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Run the raw network on inputs from a file: the way to check a checkpoint against another framework
///
/// Reads `latents` [B,C,H,W], `timesteps` [B] and the conditioning from a safetensors file and writes `prediction` [B,C_out,H,W] in f32
/// to another. The conditioning of a DiT is `class_labels` [B] (without them, the null class), of a UNet `encoder_hidden_states` [B,S,D],
/// of SDXL's also `text_embeds` [B,P] and `time_ids` [B,6]. Of the autoencoder, `vae-encode` reads `images` [B,3,H,W] in -1..1 and writes
/// the posterior's mean, `vae-decode` reads `latents` [B,C,h,w] and writes the pictures, both as `prediction` and without the scaling factor.
/// `text` reads `input_ids` [B,S] (and `input_ids_2` for SDXL's second encoder, else the same) and writes what the network is told as `prediction`,
/// and of each encoder `last_hidden_state`, `penultimate_hidden_state` and `pooled` (projected where it projects), with `_2` for the second.
#[derive(Debug, Args)]
pub(super) struct Forward {
    /// A diffusers folder (pipeline root, its transformer/ or its unet/), an original DiT .pt or .safetensors file, or a whole Stable Diffusion in one .safetensors or .ckpt file
    #[arg(long, value_name = "DIR", value_parser = located)]
    backbone: PathBuf,
    /// The part of the pipeline to run
    #[arg(long, value_name = "PART", default_value = "denoiser")]
    component: Component,
    #[command(flatten)]
    adapters: AdapterChoice,
    /// The file of inputs
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,
    /// The file to write
    #[arg(long, value_name = "OUT.safetensors")]
    output: PathBuf,
    /// Number format to compute in
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    dtype: Precision,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
}

/// A network of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Component {
    /// The network that predicts noise
    Denoiser,
    /// The autoencoder's first half
    VaeEncode,
    /// The autoencoder's second half
    VaeDecode,
    /// The text encoders
    Text,
}

/// The path of a backbone, also of one that is named as on the Hugging Face Hub.
fn located(text: &str) -> Result<PathBuf, String> {
    hub::located(Path::new(text)).map_err(|error| error.to_string())
}

pub(super) fn run(command: &Command, progress: &Progress) -> Result<Listing, Failure> {
    match command {
        Command::Download(arguments) => {
            let folder = hub::download(&arguments.name, progress)?;
            Ok(Listing::text(format!("it is in {}", folder.display())))
        }
        Command::Inspect(arguments) => {
            let inspection = inspect(&arguments.backbone)?;
            let adapters =
                inspect_adapters(Some(&arguments.backbone), &arguments.adapters.entries()?)?;
            Ok(Listing::new(
                arguments.json,
                || describe(&inspection) + &lines(&adapters),
                || {
                    let mut told = json!(inspection);
                    if !adapters.is_empty() {
                        told["adapters"] = json!(adapters);
                    }
                    told
                },
            ))
        }
        Command::Forward(arguments) => {
            threads::set(arguments.threads.unwrap_or(0) as usize);
            match arguments.component {
                Component::Denoiser => {}
                Component::Text => return encode_texts(arguments),
                Component::VaeEncode | Component::VaeDecode => return autoencode(arguments),
            }
            let adapters = read_all(&arguments.adapters.entries()?)?;
            let (backbone, reports) = Backbone::open_adapted(
                &arguments.backbone,
                &adapters,
                &Device::Cpu,
                DType::from(arguments.dtype),
            )?;
            reports.iter().for_each(Report::log);
            let prediction = forward_file(&backbone, &arguments.inputs, &arguments.output)?;
            Ok(wrote(&prediction, arguments))
        }
    }
}

/// Runs one half of the autoencoder.
fn autoencode(arguments: &Forward) -> Result<Listing, Failure> {
    let device = Device::Cpu;
    let folder = vae_folder(&arguments.backbone).ok_or_else(|| {
        Failure::input(format!(
            "{} has no autoencoder: there is no vae/ in it",
            arguments.backbone.display()
        ))
    })?;
    let vae = Vae::open(&folder, &device).map_err(crate::pretrained::Error::from)?;
    let inputs = InputsFile::open(&arguments.inputs, &device)?;
    let prediction = match arguments.component {
        Component::VaeDecode => inputs.accepted(vae.decode_raw(&inputs.get("latents")?))?,
        _ => inputs.accepted(vae.posterior(&inputs.get("images")?))?.mean,
    };
    write_prediction(&prediction, &arguments.output)?;
    Ok(wrote(&prediction, arguments))
}

/// Runs the text encoders of a pipeline, or one by itself.
fn encode_texts(arguments: &Forward) -> Result<Listing, Failure> {
    let device = Device::Cpu;
    let dtype = DType::from(arguments.dtype);
    let path = &arguments.backbone;
    let inputs = InputsFile::open(&arguments.inputs, &device)?;
    let ids = inputs.get("input_ids")?;
    let refused = |error: text::Error| Failure::from(crate::pretrained::Error::from(error));
    let (prediction, encoded) = match text::pipeline(path) {
        Some(pipeline) => {
            let encoders = TextEncoders::open(&pipeline, &device, dtype).map_err(refused)?;
            let second = match inputs.has("input_ids_2") {
                true => inputs.get("input_ids_2")?,
                false => ids.clone(),
            };
            let (rows, encoded) = inputs.accepted(encoders.forward(&[ids, second]))?;
            (rows[text::STATES].clone(), encoded)
        }
        None if path.join("config.json").is_file() => {
            let encoder = ClipText::open(path, &device, dtype).map_err(refused)?;
            let encoded = inputs.accepted(encoder.forward(&ids, &Pass::frozen()))?;
            (encoded.last.clone(), vec![encoded])
        }
        None => {
            return Err(Failure::input(format!(
                "{} has no text encoder: there is no text_encoder/ in it",
                path.display()
            )));
        }
    };
    let mut outputs = vec![("prediction".to_owned(), prediction.clone())];
    for (encoded, ending) in encoded.into_iter().zip(["", "_2"]) {
        let parts = [
            ("last_hidden_state", encoded.last),
            ("penultimate_hidden_state", encoded.penultimate),
            ("pooled", encoded.pooled),
        ];
        outputs.extend(parts.map(|(name, tensor)| (format!("{name}{ending}"), tensor)));
    }
    write_outputs(&outputs, &arguments.output)?;
    Ok(wrote(&prediction, arguments))
}

fn wrote(prediction: &Tensor, arguments: &Forward) -> Listing {
    Listing::text(format!(
        "wrote prediction {:?} to {}",
        prediction.dims(),
        arguments.output.display()
    ))
}

/// A line for each adapter.
pub(super) fn lines(adapters: &[Report]) -> String {
    adapters
        .iter()
        .map(|adapter| format!("\n{}", adapter.sentence()))
        .collect()
}

fn describe(inspection: &Inspection) -> String {
    let info = &inspection.info;
    let is_unet = info.architecture == "unet";
    let input = format!(
        "{} x {} x {}",
        info.in_channels, info.sample_size, info.sample_size
    );
    let variance = match info.learned_variance {
        true => " (learned variance)",
        false => "",
    };
    let mut facts = vec![
        ("architecture", info.architecture.clone()),
        ("parameters", grouped(info.parameters)),
        (
            if is_unet { "levels" } else { "blocks" },
            format!("{}, width {}, {} heads", info.depth, info.width, info.heads),
        ),
        ("input", input),
        (
            "output channels",
            format!("{}{variance}", info.out_channels),
        ),
        ("patch", info.patch_size.to_string()),
    ];
    if let Some(classes) = info.num_classes {
        facts.push(("classes", format!("{classes} and the null class {classes}")));
    }
    if let Some(width) = info.cross_attention {
        facts.push(("text", format!("tokens {width} wide")));
    }
    if let Some(width) = info.text_embeds {
        facts.push((
            "beside the timestep",
            format!("the text's embedding, {width} wide, and the picture's size"),
        ));
    }
    facts.push(("residual sites", info.residual_sites.to_string()));
    if !is_unet {
        let sharing = match info.shared_embedders {
            true => "shared by all blocks",
            false => "one for each block",
        };
        facts.push(("embedders", sharing.to_owned()));
    }
    let facts: Vec<_> = facts
        .into_iter()
        .map(|(name, value)| [name.to_owned(), value])
        .collect();
    let mut rows = vec![["layer", "kind", "in", "out"].map(str::to_owned)];
    rows.extend(inspection.layers.iter().map(|layer| {
        let kind = match layer.kind {
            LayerKind::Linear => "linear",
            LayerKind::Conv2d => "conv2d",
            LayerKind::Embedding => "embedding",
        };
        [
            layer.path.clone(),
            kind.to_owned(),
            layer.in_features.to_string(),
            layer.out_features.to_string(),
        ]
    }));
    format!(
        "{}\n{} adaptable layers\n{}",
        table(&facts),
        inspection.layers.len(),
        table(&rows)
    )
}
