//! What can be wrong with an adapter file: one sentence that names the file, what is in it, and the way out.

use std::path::PathBuf;

/// Why an adapter cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing at the path given.
    #[error("no adapter at {}: there is no such file or folder", path.display())]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// A folder without an adapter file, or with more than one.
    #[error("{} {problem}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it, a clause.
        problem: String,
    },
    /// A file of Python's pickle format.
    #[error(
        "{} is a pickle, which can hold code and is not read; convert it: `safetensors.torch.save_file(torch.load(\"{}\", weights_only=True), \"adapter.safetensors\")`",
        path.display(),
        path.file_name().unwrap_or_default().display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A damaged file.
    #[error("cannot read the adapter {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Weights that are no adapter.
    #[error("{} is no adapter: {reason}", path.display())]
    NoAdapter {
        /// The file.
        path: PathBuf,
        /// What it seems to be, and where that belongs.
        reason: String,
    },
    /// A method that is not read.
    #[error("{} is an adapter of type {found}; the types that are read are LORA (DoRA and rsLoRA among them), LOHA, LOKR and IA3", path.display())]
    Unsupported {
        /// The file that names it.
        path: PathBuf,
        /// The type.
        found: String,
    },
    /// A file that is for another model.
    #[error("none of the {keys} keys of {} fits a layer of the backbone: the first is `{first}`{near}", path.display())]
    NoneMatched {
        /// The file.
        path: PathBuf,
        /// How many keys it has.
        keys: usize,
        /// One of them.
        first: String,
        /// The nearest layers, as the end of the sentence.
        near: String,
    },
    /// A tensor that does not fit its layer.
    #[error("`{key}` in {} is {found:?}, but {expected}", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// The layer's path and the part's name.
        key: String,
        /// The layer with the shape of its weight, and the shape that fits: a clause.
        expected: String,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A layer for which a part is missing, or too much is there.
    #[error("the update of `{layer}` in {} {problem}", path.display())]
    Parts {
        /// The file.
        path: PathBuf,
        /// The layer's path.
        layer: String,
        /// What is wrong, a clause.
        problem: String,
    },
    /// A file that is not the one a run began with.
    #[error("the adapter {} has changed: its SHA-256 was {was} and is {now}; restore the file, or begin a new run", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// The hash asked for.
        was: String,
        /// The hash found.
        now: String,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
