//! Why texts cannot be encoded for a network.

use std::path::PathBuf;

use crate::backbone;

/// Why a pipeline's text encoders cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that cannot be read or is not implemented.
    #[error("cannot use the text encoder of {file}: {reason}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tokenizer that cannot be read.
    #[error("cannot use the tokenizer in {}: {reason}", dir.display())]
    Tokenizer {
        /// Its folder.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A part that the pipeline should have.
    #[error("{} lacks its {what}: there is no {part}/ in it; take the whole pipeline", pipeline.display())]
    Missing {
        /// The pipeline.
        pipeline: PathBuf,
        /// What the part is.
        what: &'static str,
        /// Its folder.
        part: &'static str,
    },
    /// A tokenizer that should lie beside a file of a whole pipeline.
    #[error(
        "{} holds text encoders but no tokenizer, as no file of its layout does: put the {part}/ of a pipeline of its kind beside it", file.display()
    )]
    Beside {
        /// The file.
        file: PathBuf,
        /// The tokenizer's folder.
        part: &'static str,
    },
    /// Tokenizer and encoder that do not belong together.
    #[error(
        "{} knows {tokens} tokens and its encoder {rows}: they are not of one model", dir.display()
    )]
    Vocabulary {
        /// The tokenizer's folder.
        dir: PathBuf,
        /// How many tokens it knows.
        tokens: usize,
        /// Rows of the encoder's table.
        rows: usize,
    },
    /// Encoders of another model than the network.
    #[error(
        "the text encoders of {} give {what} of width {found} and the network takes {expected}: they are not of one model", pipeline.display()
    )]
    Width {
        /// The pipeline.
        pipeline: PathBuf,
        /// The conditioning tensor.
        what: &'static str,
        /// The encoders' side.
        found: String,
        /// The network's side.
        expected: String,
    },
    /// The weights.
    #[error("the text encoder: {0}")]
    Weights(#[from] backbone::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
