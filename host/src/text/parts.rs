//! Where the text encoders and tokenizers of a pipeline are: in its folders, or in one file with the tokenizers beside it.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::Value;

use super::clip::{self, ClipConfig, ClipText, single};
use super::{Error, TextInfo};
use crate::backbone::ldm;

/// A pipeline's encoders and the folders of their tokenizers, in order.
pub(super) struct Parts {
    pub(super) encoders: Vec<(Weights, PathBuf)>,
    /// Whether this is Stable Diffusion XL.
    pub(super) xl: bool,
    /// Whether "no text" is zeros.
    pub(super) zeros: bool,
}

/// Where an encoder's weights are.
pub(super) enum Weights {
    /// A folder of its own.
    Folder(PathBuf),
    /// A file of a whole pipeline.
    Within(PathBuf, single::Within),
}

impl Weights {
    /// What the encoder is, from headers alone.
    pub(super) fn config(&self) -> Result<ClipConfig, Error> {
        match self {
            Self::Folder(dir) => clip::read_config(dir),
            Self::Within(_, within) => Ok(within.config.clone()),
        }
    }

    /// Reads the encoder.
    pub(super) fn open(&self, device: &Device, dtype: DType) -> Result<ClipText, Error> {
        match self {
            Self::Folder(dir) => ClipText::open(dir, device, dtype),
            Self::Within(file, within) => within.open(file, device, dtype),
        }
    }
}

/// The folders of a pipeline's encoders and tokenizers, and what those are to people.
const PLACES: [[&str; 4]; 2] = [
    ["text_encoder", "text encoder", "tokenizer", "tokenizer"],
    [
        "text_encoder_2",
        "second text encoder",
        "tokenizer_2",
        "second tokenizer",
    ],
];

/// The pipeline of a path, if it has text encoders: the path itself, a folder or a file, or the folder above its network's.
pub fn pipeline(path: &Path) -> Option<PathBuf> {
    if let Some(shapes) = ldm::shapes_of(path) {
        let some = !ldm::text_encoders(&shapes).is_empty();
        return some.then(|| path.to_path_buf());
    }
    let is_network = ["unet", "transformer"]
        .iter()
        .any(|name| path.ends_with(name));
    let above = path.parent().filter(|_| is_network);
    let has_text = |folder: &&Path| {
        PLACES
            .iter()
            .any(|[part, ..]| folder.join(part).is_dir() || index(folder)[*part][1].is_string())
    };
    [Some(path), above]
        .into_iter()
        .flatten()
        .find(has_text)
        .map(Path::to_path_buf)
}

/// What a pipeline's text encoders will give, before any weight is read.
///
/// # Errors
/// A part that is missing, or a configuration that cannot be used.
pub fn inspect(pipeline: &Path) -> Result<TextInfo, Error> {
    let Parts { encoders, xl, .. } = parts(pipeline)?;
    let configs = (encoders.iter())
        .map(|(weights, _)| weights.config())
        .collect::<Result<Vec<_>, _>>()?;
    let tokens = (configs.iter())
        .map(|config| config.max_position_embeddings)
        .min();
    Ok(TextInfo {
        states: configs.iter().map(|config| config.hidden_size).sum(),
        embeds: configs
            .last()
            .filter(|_| xl)
            .map(|config| config.projection_dim),
        tokens: tokens.unwrap_or(0),
    })
}

/// Finds a pipeline's parts.
///
/// # Errors
/// [`Error::Missing`] for one that its index names, or that its kind cannot do without; [`Error::NoTokenizer`].
pub(super) fn parts(pipeline: &Path) -> Result<Parts, Error> {
    match pipeline.is_file() {
        true => in_file(pipeline),
        false => in_folder(pipeline),
    }
}

fn in_folder(pipeline: &Path) -> Result<Parts, Error> {
    let index = index(pipeline);
    let there = |part: &str| pipeline.join(part).is_dir();
    let named = |part: &str| index[part][1].is_string();
    let class = index["_class_name"].as_str().unwrap_or_default();
    let xl = class.contains("XL") || named("text_encoder_2") || there("text_encoder_2");
    let mut encoders = Vec::new();
    for (number, [encoder, encoder_is, tokenizer, tokenizer_is]) in PLACES.into_iter().enumerate() {
        // A refiner has the second alone, and its index says so.
        let wanted = match number {
            0 => there(encoder) || named(encoder) || !xl || index[encoder].is_null(),
            _ => xl,
        };
        if !wanted {
            continue;
        }
        for (part, what) in [(encoder, encoder_is), (tokenizer, tokenizer_is)] {
            if !there(part) {
                return Err(Error::Missing {
                    pipeline: pipeline.to_owned(),
                    what,
                    part,
                });
            }
        }
        let weights = Weights::Folder(pipeline.join(encoder));
        encoders.push((weights, pipeline.join(tokenizer)));
    }
    let stated = index["force_zeros_for_empty_prompt"].as_bool();
    Ok(Parts {
        encoders,
        xl,
        zeros: xl && stated.unwrap_or(true),
    })
}

/// A file holds the encoders' weights; their tokenizers are the same for all pipelines of a kind, and lie beside it.
fn in_file(file: &Path) -> Result<Parts, Error> {
    let within = single::encoders(file)?;
    let xl = within.iter().any(|encoder| encoder.xl);
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut encoders = Vec::new();
    for encoder in within {
        let [_, _, tokenizer, what] = PLACES[usize::from(encoder.second)];
        let dir = folder.join(tokenizer);
        if !dir.is_dir() {
            return Err(Error::NoTokenizer {
                file: file.to_owned(),
                what,
                part: tokenizer,
            });
        }
        encoders.push((Weights::Within(file.to_owned(), encoder), dir));
    }
    Ok(Parts {
        encoders,
        xl,
        zeros: xl,
    })
}

/// The pipeline's `model_index.json`; null where there is none that can be read, of which others tell.
fn index(pipeline: &Path) -> Value {
    std::fs::read_to_string(pipeline.join("model_index.json"))
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or(Value::Null)
}
