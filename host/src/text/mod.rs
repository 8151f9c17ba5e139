//! Between words and what a network is conditioned on: the tokenizers and the frozen text encoders of a pipeline.

pub mod clip;
mod error;
mod place;
#[cfg(test)]
pub(crate) mod tests;
pub mod tokenizer;
mod vocabulary;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Device, Result, Tensor};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::backbone::Pass;
use crate::memo::{self, Memo};
use crate::ops::autograd::no_grad;
pub use clip::{ClipConfig, ClipText, Encoded};
pub use error::Error;
use place::Place;
pub use place::{WrittenEncoder, write_encoders};
pub use tokenizer::{Tokenizer, Tokens};
pub use vocabulary::make_tokenizer;

/// Conditioning tensors by name, a row a text: `encoder_hidden_states` `[B, S, D]` and, of Stable Diffusion XL, `text_embeds` `[B, P]`; f32.
pub type TextRows = BTreeMap<String, Tensor>;

/// What a network attends to.
pub const STATES: &str = "encoder_hidden_states";
/// What a network of Stable Diffusion XL is told of a whole text.
pub const EMBEDS: &str = "text_embeds";

/// Characters that are shown of what is cut off a text.
const SHOWN: usize = 40;

/// Memory for encoded texts, in bytes: the captions of a data set of ordinary size.
const KEPT: usize = 1 << 30;

/// The text encoders of a pipeline: one, or the two of Stable Diffusion XL.
#[derive(Debug)]
pub struct TextEncoders {
    stages: Arc<Vec<Stage>>,
    /// Whether this is Stable Diffusion XL: the states before the last block, of all encoders side by side, and the last encoder's summary.
    xl: bool,
    /// Whether "no text" is zeros rather than the empty text (`force_zeros_for_empty_prompt`).
    zeros: bool,
    device: Device,
    /// Texts met before.
    known: Memo,
    /// Whether it was told that a text is too long.
    told: AtomicBool,
}

/// One tokenizer and its encoder.
#[derive(Debug)]
struct Stage {
    tokenizer: Tokenizer,
    model: ClipText,
}

/// What text encoders will give, from their configurations alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextInfo {
    /// Width of `encoder_hidden_states`.
    pub states: usize,
    /// Width of `text_embeds`, of Stable Diffusion XL.
    pub embeds: Option<usize>,
    /// Tokens of a text at most.
    pub tokens: usize,
}

/// The pipeline of a path, if it has text encoders: the path itself, which may be a file that holds a whole pipeline, or the folder above its network's.
pub fn pipeline(path: &Path) -> Option<PathBuf> {
    if !place::within(path).0.is_empty() {
        return Some(path.to_path_buf());
    }
    let is_network = ["unet", "transformer"]
        .iter()
        .any(|name| path.ends_with(name));
    let above = path.parent().filter(|_| is_network);
    let has_text = |folder: &&Path| {
        ["text_encoder", "text_encoder_2"]
            .iter()
            .any(|part| folder.join(part).is_dir() || index(folder)[*part][1].is_string())
    };
    [Some(path), above]
        .into_iter()
        .flatten()
        .find(has_text)
        .map(Path::to_path_buf)
}

/// A pipeline's encoders and folders of tokenizers, in order.
struct Parts {
    stages: Vec<(Place, PathBuf)>,
    xl: bool,
    zeros: bool,
}

/// Finds a pipeline's parts.
///
/// # Errors
/// [`Error::Missing`] for one that its index names, or that its kind cannot do without.
fn parts(pipeline: &Path) -> std::result::Result<Parts, Error> {
    if pipeline.is_file() {
        return parts_of_file(pipeline);
    }
    let index = index(pipeline);
    let there = |part: &str| pipeline.join(part).is_dir();
    let named = |part: &str| index[part][1].is_string();
    let class = index["_class_name"].as_str().unwrap_or_default();
    let xl = class.contains("XL") || named("text_encoder_2") || there("text_encoder_2");
    let all = [
        ("text_encoder", "text encoder", "tokenizer", "tokenizer"),
        (
            "text_encoder_2",
            "second text encoder",
            "tokenizer_2",
            "second tokenizer",
        ),
    ];
    let mut stages = Vec::new();
    for (number, (encoder, encoder_is, tokenizer, tokenizer_is)) in all.into_iter().enumerate() {
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
        stages.push((
            Place::Folder(pipeline.join(encoder)),
            pipeline.join(tokenizer),
        ));
    }
    Ok(Parts {
        stages,
        xl,
        zeros: xl
            && index["force_zeros_for_empty_prompt"]
                .as_bool()
                .unwrap_or(true),
    })
}

/// The parts of a pipeline that is one file; such files hold no tokenizers.
///
/// # Errors
/// [`Error::Beside`] for a tokenizer that is not beside it.
fn parts_of_file(file: &Path) -> std::result::Result<Parts, Error> {
    let (encoders, xl) = place::within(file);
    let stages = (encoders.into_iter())
        .map(|(encoder, part)| {
            let tokenizer = file.with_file_name(part);
            match tokenizer.is_dir() {
                true => Ok((encoder, tokenizer)),
                false => Err(Error::Beside {
                    file: file.to_owned(),
                    part,
                }),
            }
        })
        .collect::<std::result::Result<_, _>>()?;
    Ok(Parts {
        stages,
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

/// What a pipeline's text encoders will give, before any weight is read.
///
/// # Errors
/// A part that is missing, or a configuration that cannot be used.
pub fn inspect(pipeline: &Path) -> std::result::Result<TextInfo, Error> {
    let Parts { stages, xl, .. } = parts(pipeline)?;
    let configs = (stages.iter())
        .map(|(encoder, _)| encoder.config())
        .collect::<std::result::Result<Vec<_>, _>>()?;
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

impl TextEncoders {
    /// Reads the text encoders of a pipeline folder: `text_encoder/` with `tokenizer/`, and where there are, `text_encoder_2/` with `tokenizer_2/`. They compute in
    /// `dtype`, whatever their files hold.
    ///
    /// # Errors
    /// A part that is missing or cannot be used.
    pub fn open(
        pipeline: &Path,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<Self, Error> {
        let Parts { stages, xl, zeros } = parts(pipeline)?;
        let stages = (stages.iter())
            .map(|(encoder, tokenizer)| Stage::open(encoder, tokenizer, device, dtype))
            .collect::<std::result::Result<_, _>>()?;
        Ok(Self {
            stages: Arc::new(stages),
            xl,
            zeros,
            device: device.clone(),
            known: Memo::new(KEPT),
            told: AtomicBool::new(false),
        })
    }

    /// What a network is conditioned on for these texts. No gradients; a text longer than the encoders take is cut, which is told once.
    ///
    /// An empty text is no text: what [`TextEncoders::unconditional`] gives. Each text is encoded by itself, so that its numbers do not depend on those beside it, and kept in memory for the next time.
    ///
    /// # Errors
    /// No text at all, or a device that fails.
    pub fn encode(&self, texts: &[String]) -> Result<TextRows> {
        let rows = texts
            .iter()
            .map(|text| self.row(text))
            .collect::<Result<Vec<_>>>()?;
        joined(&rows)
    }

    /// What "no text" is, one row: for the half of guidance without, and for captions that are dropped in training. The empty text's, or zeros where the pipeline
    /// of Stable Diffusion XL says so.
    ///
    /// # Errors
    /// A device that fails.
    pub fn unconditional(&self) -> Result<TextRows> {
        self.row("")
    }

    /// The same encoders, which keep encoded texts in the cache folder `root`, too, under all that they depend on.
    ///
    /// # Errors
    /// A device that fails.
    pub fn cached(&self, root: &Path) -> Result<Self> {
        let mut hash = Sha256::new();
        self.digest(&mut hash)?;
        let folder = root.join("texts").join(memo::named(hash));
        Ok(Self {
            stages: self.stages.clone(),
            xl: self.xl,
            zeros: self.zeros,
            device: self.device.clone(),
            known: Memo::new(KEPT).in_folder(folder),
            told: AtomicBool::new(false),
        })
    }

    /// Adds all that encoded texts depend on to a hash.
    ///
    /// # Errors
    /// A device that fails.
    pub fn digest(&self, hash: &mut Sha256) -> Result<()> {
        hash.update([u8::from(self.xl)]);
        for stage in &*self.stages {
            hash.update(stage.tokenizer.description());
            hash.update(format!("{:?}", stage.model.config()));
            for (name, tensor) in stage.model.parameters() {
                memo::digest(hash, name, tensor)?;
            }
        }
        Ok(())
    }

    fn row(&self, text: &str) -> Result<TextRows> {
        let key = memo::key(text.as_bytes());
        let row = (self.known).get(key, &self.device, || no_grad(|| self.encoded(text)))?;
        if !text.is_empty() || !self.zeros {
            return Ok(row);
        }
        (row.into_iter())
            .map(|(name, tensor)| Ok((name, tensor.zeros_like()?)))
            .collect()
    }

    fn encoded(&self, text: &str) -> Result<TextRows> {
        let mut states = Vec::new();
        let mut summary = None;
        for stage in &*self.stages {
            let tokens = stage.tokenizer.encode(text)?;
            if let Some(cut) = &tokens.cut
                && !self.told.swap(true, Ordering::Relaxed)
            {
                let first: String = cut.chars().take(SHOWN).collect();
                let more = if first.len() < cut.len() { "..." } else { "" };
                tracing::warn!(
                    "a text is longer than the {} tokens that the text encoder reads, and ends before \"{first}{more}\"; others that are too long are cut without a word",
                    stage.tokenizer.length()
                );
            }
            let ids = Tensor::new(vec![tokens.ids], &self.device)?; // [1, S]
            let encoded = stage.model.forward(&ids, &Pass::frozen())?;
            states.push(match self.xl {
                true => encoded.penultimate,
                false => encoded.last,
            });
            summary = Some(encoded.pooled);
        }
        let states = Tensor::cat(&states, 2)?.to_dtype(DType::F32)?; // [1, S, D]
        let mut row = TextRows::from([(STATES.to_owned(), states.detach())]);
        if let Some(summary) = summary.filter(|_| self.xl) {
            row.insert(EMBEDS.to_owned(), summary.to_dtype(DType::F32)?.detach());
        }
        Ok(row)
    }

    /// What they give.
    pub fn info(&self) -> TextInfo {
        let widths = self.stages.iter().map(|stage| stage.model.config());
        let last = self.stages.last().filter(|_| self.xl);
        let lengths = self.stages.iter().map(|stage| stage.tokenizer.length());
        TextInfo {
            states: widths.map(|config| config.hidden_size).sum(),
            embeds: last.map(|stage| stage.model.summary_width()),
            tokens: lengths.min().unwrap_or(0),
        }
    }

    /// The encoders, in order.
    pub fn models(&self) -> impl Iterator<Item = &ClipText> {
        self.stages.iter().map(|stage| &stage.model)
    }

    /// What the encoders make of tokens, one tensor `[B, S]` for each: the conditioning, and the raw outputs of each encoder.
    ///
    /// # Errors
    /// Tokens that do not fit.
    pub fn forward(&self, ids: &[Tensor]) -> Result<(TextRows, Vec<Encoded>)> {
        let outputs = (self.stages.iter().zip(ids))
            .map(|(stage, ids)| stage.model.forward(ids, &Pass::frozen()))
            .collect::<Result<Vec<_>>>()?;
        let states: Vec<&Tensor> = (outputs.iter())
            .map(|encoded| match self.xl {
                true => &encoded.penultimate,
                false => &encoded.last,
            })
            .collect();
        let mut rows = TextRows::from([(
            STATES.to_owned(),
            Tensor::cat(&states, 2)?.to_dtype(DType::F32)?,
        )]);
        if let Some(last) = outputs.last().filter(|_| self.xl) {
            rows.insert(EMBEDS.to_owned(), last.pooled.to_dtype(DType::F32)?);
        }
        Ok((rows, outputs))
    }
}

impl Stage {
    fn open(
        encoder: &Place,
        tokenizer: &Path,
        device: &Device,
        dtype: DType,
    ) -> std::result::Result<Self, Error> {
        let model = encoder.open(device, dtype)?;
        let config = model.config();
        let dir = tokenizer;
        let tokenizer = Tokenizer::open(dir, config.max_position_embeddings)?;
        if tokenizer.vocabulary() > config.vocab_size {
            return Err(Error::Vocabulary {
                dir: dir.to_owned(),
                tokens: tokenizer.vocabulary(),
                rows: config.vocab_size,
            });
        }
        Ok(Self { tokenizer, model })
    }
}

/// Rows one after the other.
fn joined(rows: &[TextRows]) -> Result<TextRows> {
    let Some(first) = rows.first() else {
        candle_core::bail!("there is no text to encode");
    };
    (first.keys())
        .map(|name| {
            let tensors: Vec<&Tensor> = rows.iter().filter_map(|row| row.get(name)).collect();
            Ok((name.clone(), Tensor::cat(&tensors, 0)?))
        })
        .collect()
}
