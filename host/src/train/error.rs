//! What can go wrong while training.

use std::path::PathBuf;

/// A training run that cannot start, go on, or be resumed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Two parts of the run want a parameter of the same name.
    #[error("a parameter named `{name}` exists already; give the plugin another name with `as`")]
    ParameterTaken {
        /// The name both want.
        name: String,
    },
    /// A checkpoint holds a parameter of another shape than the run creates.
    #[error(
        "the checkpoint's `{name}` has shape {saved:?}, but this run creates it with shape {expected:?}; resume with the settings of the first run"
    )]
    SavedShape {
        /// The parameter.
        name: String,
        /// The shape in the checkpoint.
        saved: Vec<usize>,
        /// The shape the run creates.
        expected: Vec<usize>,
    },
    /// A checkpoint holds parameters that nothing in the run creates.
    #[error(
        "the checkpoint holds {count} parameters that this run does not create, `{first}` among them; resume with the plugins and settings of the first run"
    )]
    Unclaimed {
        /// How many.
        count: usize,
        /// One of them.
        first: String,
    },
    /// A file of the run folder cannot be read.
    #[error("cannot read `{}`: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A file of the run folder cannot be written.
    #[error("cannot write `{}`: {reason}", path.display())]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// One plugin copies the backbone's first layer, another makes it wider.
    #[error(
        "`{plugin}` runs a copy of the backbone's first blocks, which takes {taken} channels, but another plugin of the run feeds the backbone {channels}: leave one of the two out, or keep the input as it is (for e2e_ft with `--set e2e_ft.input=rgb`)"
    )]
    WidenedBesideCopy {
        /// The plugin with the copy.
        plugin: String,
        /// Channels that the copy takes.
        taken: usize,
        /// Channels that the backbone takes in this run.
        channels: usize,
    },
    /// The run folder exists.
    #[error("the run folder `{}` exists already; continue it with --resume, replace it with --overwrite, or choose another with --out", path.display())]
    FolderExists {
        /// The folder.
        path: PathBuf,
    },
    /// `--overwrite` of a folder that holds something else.
    #[error("`{}` holds no run (there is no run.toml), so --overwrite leaves it alone; choose another folder with --out", path.display())]
    NotARun {
        /// The folder.
        path: PathBuf,
    },
    /// `--resume` of a folder that holds no run.
    #[error("nothing to resume in `{}`: it holds no run; start one without --resume", path.display())]
    NothingToResume {
        /// The folder.
        path: PathBuf,
    },
    /// A folder to draw from that holds no checkpoint.
    #[error("nothing to draw with in `{}`: it holds no checkpoint yet", path.display())]
    NothingSaved {
        /// The folder.
        path: PathBuf,
    },
    /// A checkpoint that is not there.
    #[error("`{}` holds no checkpoint of step {step}; saved are {}", path.display(), saved.iter().map(u64::to_string).collect::<Vec<_>>().join(", "))]
    NoSuchCheckpoint {
        /// The run folder.
        path: PathBuf,
        /// The step asked for.
        step: u64,
        /// The steps there are.
        saved: Vec<u64>,
    },
    /// `--resume` with settings that would make another run of it.
    #[error("cannot resume `{}` with other settings: {differences}; use the settings of the first run, start a new one with --out, or go on all the same with --force", path.display())]
    SettingsDiffer {
        /// The run folder.
        path: PathBuf,
        /// What differs, in words.
        differences: String,
    },
    /// The device asked for cannot be had.
    #[error("cannot compute on {device}: {reason}")]
    Device {
        /// What was asked for.
        device: crate::config::Accelerator,
        /// Why not.
        reason: String,
    },
    /// Training has left the numbers.
    #[error(
        "the {what} of step {step} is {value}: stopped before it was applied; lower the learning rate (train.lr) or clip gradients (train.clip)"
    )]
    NonFinite {
        /// The loss or the gradient norm.
        what: &'static str,
        /// The step that failed, counted from 1.
        step: u64,
        /// NaN or infinite.
        value: f64,
    },
    /// A recipe that cannot be followed.
    #[error("`{key}` of the recipe must be {expected}")]
    Recipe {
        /// The key.
        key: &'static str,
        /// What it may be.
        expected: String,
    },
    /// A batch hook has lost the images.
    #[error("the batch has no `images`; a plugin on the batch slot must keep them")]
    NoImages,
    /// Texts for a network that reads none.
    #[error(
        "the backbone is not conditioned on text, or has no text encoders beside it; ask by class, or take a whole pipeline of text to image"
    )]
    NoText,
    /// Another number of captions than samples.
    #[error(
        "there are {captions} captions for {samples} samples; a plugin on the batch slot must keep one each"
    )]
    Captions {
        /// How many captions there are.
        captions: usize,
        /// How many samples there are.
        samples: usize,
    },
    /// Nothing trains.
    #[error(
        "nothing to train: no plugin brings parameters and `train.trainable` selects none; set it to \"all\", \"bias\", \"diffit\" or a list of globs over parameter names (see `host model inspect`)"
    )]
    NothingTrains,
    /// A selection that matches no parameter.
    #[error("`{pattern}` in the trainable selection matches no parameter of the backbone{near}")]
    NoSuchParameter {
        /// The glob.
        pattern: String,
        /// Near names, as a phrase, or nothing.
        near: String,
    },
    /// The backbone and the data do not fit.
    #[error("{what}: the backbone takes {expected}, the data has {found}; {way_out}")]
    Mismatch {
        /// What does not fit.
        what: &'static str,
        /// The backbone's side.
        expected: String,
        /// The data's side.
        found: String,
        /// What to do.
        way_out: &'static str,
    },
    /// Inputs of a benchmark that cannot be used.
    #[error("cannot take inputs from `{}`: {reason}", path.display())]
    Inputs {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A run of which nothing can be merged into a network.
    #[error(
        "nothing of this run merges into a network ({plugins}); take what it left in its adapter/ folder, or a ControlNet by --format controlnet"
    )]
    NothingMerges {
        /// The files of its plugins.
        plugins: String,
    },
    /// A run without an adapter that another format could hold.
    #[error("the run has no adapter to write in this format: {reasons}")]
    NothingToRewrite {
        /// Why, for each file.
        reasons: String,
    },
    /// A run that trained no ControlNet or the like.
    #[error(
        "the run has no network of its own to write, such as a ControlNet (its plugins: {plugins}); take another --format"
    )]
    NoNetwork {
        /// The ids of its plugins.
        plugins: String,
    },
    /// A plugin failed.
    #[error(transparent)]
    Plugin(#[from] crate::plugin::failure::PluginError),
    /// The plugins could not be set up.
    #[error(transparent)]
    Stack(#[from] crate::plugin::stack::Error),
    /// The current model was asked for too early.
    #[error("the plugins are still being prepared: only the frozen model can be asked for")]
    StillPreparing,
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] crate::fs::Error),
    /// The data failed.
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    /// The backbone does not fit or cannot be read or written.
    #[error(transparent)]
    Backbone(#[from] crate::backbone::Error),
    /// The pretrained model cannot be used.
    #[error(transparent)]
    Pretrained(#[from] crate::pretrained::Error),
    /// Texts cannot be encoded.
    #[error(transparent)]
    Text(#[from] crate::text::Error),
    /// The autoencoder cannot be made or written.
    #[error(transparent)]
    Encoder(#[from] crate::encode::Error),
    /// The configuration cannot be written or read back.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// The diffusion process cannot be made.
    #[error(transparent)]
    Diffusion(#[from] crate::diffusion::Error),
    /// Sampling failed.
    #[error(transparent)]
    Sample(#[from] crate::sample::Error),
    /// Metrics or reports cannot be written.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

impl Error {
    /// Refuses a loss or gradient norm, `what`, that is no number; `step` counts from 1.
    pub(super) fn refuse_non_finite(what: &'static str, step: u64, value: f64) -> Result<(), Self> {
        match value.is_finite() {
            true => Ok(()),
            false => Err(Self::NonFinite { what, step, value }),
        }
    }

    /// Whether someone asked to stop, rather than something going wrong.
    pub fn is_interruption(&self) -> bool {
        use crate::plugin::failure::PluginError::Cancelled;
        matches!(
            self,
            Self::Plugin(Cancelled { .. })
                | Self::Stack(crate::plugin::stack::Error::Plugin(Cancelled { .. }))
                | Self::Sample(crate::sample::Error::Interrupted)
        )
    }
}
