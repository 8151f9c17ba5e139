//! What can go wrong when images are measured, each variant with what is needed to put it right.

use std::path::PathBuf;

/// Images that cannot be measured, or a classifier that cannot be trained.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number of a classifier's recipe is out of its range.
    #[error("classifier.{key} must be {expected}")]
    Recipe {
        /// Which number.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// The classifier's loss is no number.
    #[error("the classifier's loss is no longer a number at step {step}; lower classifier.lr")]
    Diverged {
        /// Steps done.
        step: usize,
    },
    /// Too few images for any of the numbers.
    #[error(
        "{count} {what} images are too few: at least {least} are needed, and the numbers mean little below a few hundred"
    )]
    TooFew {
        /// "generated" or "reference".
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The least number.
        least: usize,
    },
    /// Two sets of features of different networks.
    #[error("features of {generated} and of {reference} numbers an image cannot be compared")]
    Dimensions {
        /// Of the generated images.
        generated: usize,
        /// Of the reference.
        reference: usize,
    },
    /// A feature is not finite.
    #[error(
        "the feature network gives {count} values that are no finite numbers; its weights are damaged, or of another network"
    )]
    NotFinite {
        /// How many.
        count: usize,
    },
    /// A weights file that cannot be read.
    #[error("cannot read the feature network `{}`: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A weights file of another network.
    #[error(
        "`{}` is no feature network that this host knows: {reason}; it takes Inception-v3 with torchvision's or pytorch-fid's keys as safetensors, and classifiers of `host pretrain`",
        path.display()
    )]
    OtherNetwork {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// A run whose plugin makes no images to be compared.
    #[error(
        "the run's `output` plugin makes {kinds} instead of images, which cannot be compared with a reference"
    )]
    NoImages {
        /// The kinds of pictures that it makes.
        kinds: String,
    },
    /// Estimates, and nothing to compare them with.
    #[error(
        "the run estimates {column}, and what it was drawn from has no `{column}` to compare with; name pictures that come with it by --input"
    )]
    NoTruth {
        /// The column that is missing.
        column: &'static str,
    },
    /// Estimates of another shape than the truth.
    #[error(
        "the run's {column} has the shape {estimates:?} and the truth {truth:?}; they must be of the same pixels"
    )]
    TruthShape {
        /// The column.
        column: &'static str,
        /// The estimates' shape.
        estimates: Vec<usize>,
        /// The truth's.
        truth: Vec<usize>,
    },
    /// A truth that is empty.
    #[error("no pixel of the data's {column} is known, so that there is nothing to compare with")]
    NothingKnown {
        /// The column.
        column: &'static str,
    },
    /// The reference has been trained on.
    #[error(
        "the reference would be the scenes that the run was trained on ({domain}, seed {seed}); give another --reference-seed"
    )]
    TrainedOn {
        /// The domain.
        domain: String,
        /// The seed of both.
        seed: u64,
    },
    /// Someone asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// Data that cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    /// A file that cannot be written.
    #[error(transparent)]
    Disk(#[from] crate::fs::Error),
    /// A report that cannot be written.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
