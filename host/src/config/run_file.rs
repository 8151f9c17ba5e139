//! The run file: one plain struct a section, with the defaults of `host run`.
//!
//! These structs hold what was written, nothing derived; every field can be given in the file, by `--set SECTION.KEY=VALUE`,
//! and the common ones by a flag of their own. The doc comment of a field is its documentation everywhere.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::choices::{
    Accelerator, Positions, Precision, Sampler, Schedule, Spacing, Trainable, Weighting,
};

/// A whole run: what `run.toml` holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunFile {
    /// Folders to look for plugins in, before every other place. Relative to the run file.
    pub plugin_dir: Vec<PathBuf>,
    /// Where the run goes and what it is called.
    pub run: RunSection,
    /// The frozen pretrained network.
    pub backbone: BackboneSection,
    /// The images to train on.
    pub data: DataSection,
    /// The training loop.
    pub train: TrainSection,
    /// The sample grids made before, during and after training.
    pub sample: SampleSection,
    /// Adapters that are merged into the frozen network's weights as it loads, one after the other.
    pub adapter: Vec<AdapterEntry>,
    /// The plugins, in the order in which they share slots.
    pub plugin: Vec<PluginEntry>,
}

/// `[run]`: where the run goes and what it is called.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunSection {
    /// Title of the report and name of the default folder. Empty: the names of the plugins, or `finetune` without any.
    pub name: String,
    /// The run folder. Empty: `runs/NAME` under the working directory. Relative to the run file.
    pub out: PathBuf,
}

/// `[backbone]`: the frozen pretrained network.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneSection {
    /// A diffusers folder (pipeline root or its `transformer/`), or an original DiT `.pt` or `.safetensors` file. Absent: the
    /// small backbone embedded in the program. Relative to the run file.
    pub path: Option<PathBuf>,
    /// Number format of the frozen weights and of the computation.
    pub dtype: Precision,
    /// Where it is computed.
    pub device: Accelerator,
    /// Positions of patches in pictures of another size than the backbone was trained at; at its own size nothing changes.
    pub positions: Positions,
}

/// `[data]`: the images to train on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataSection {
    /// A folder of images (class = subfolder, or flat), relative to the run file, or `scenes:DOMAIN` for rendered scenes.
    pub source: String,
    /// Side length in pixels to which images are resized and cropped. Absent: the size the backbone was trained at.
    pub size: Option<usize>,
    /// Mirror half of the images left to right, at random.
    pub flip: bool,
    /// How many images: of a folder the first so many in a seeded shuffle, absent for all of them; of scenes, absent for the
    /// generator's own number. At least 1.
    pub count: Option<usize>,
    /// Which scenes are rendered, and which files a `count` picks. At most 2^63 - 1.
    pub seed: u64,
    /// Threads that decode images in the background. 0: chosen from the number of cores.
    pub workers: usize,
    /// Further pictures of each image, by their names in a batch: where each comes from. Of a folder that is the name of a picture in its `metadata.jsonl`
    /// (absent for all of them under their own names); of scenes a map (`edges`, `fill`, `depth`, `normals`, `mask`), `hole`, `reference_1` and so on,
    /// or `domain:NAME` (absent for none).
    pub columns: Option<BTreeMap<String, String>>,
    /// The caption of a folder's images that have none of their own. Absent: a backbone that is conditioned on text needs one for each.
    pub caption: Option<String>,
    /// Keep about the shape of each image of a folder: sizes of about `size * size` pixels, one size a batch. Otherwise all are cropped to squares.
    pub bucketing: bool,
    /// Keep what the autoencoder and the text encoders make of each image and caption, in memory and in the cache folder.
    pub cache_latents: bool,
}

impl Default for DataSection {
    fn default() -> Self {
        Self {
            source: "scenes:dusk".to_owned(),
            size: None,
            flip: false,
            count: None,
            seed: 1,
            workers: 0,
            columns: None,
            caption: None,
            bucketing: false,
            cache_latents: false,
        }
    }
}

/// `[train]`: the training loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrainSection {
    /// Optimizer steps. At least 1.
    pub steps: u64,
    /// Images in one forward pass. At least 1.
    pub batch_size: usize,
    /// Forward passes whose gradients are averaged into one optimizer step. At least 1.
    pub accumulation: usize,
    /// Peak learning rate of AdamW. Above 0.
    pub lr: f64,
    /// AdamW's decay rates of the first and second moment. Each in 0..1, 1 excluded.
    pub betas: [f64; 2],
    /// AdamW's denominator floor. Above 0.
    pub eps: f64,
    /// AdamW's decoupled weight decay. 0 or more.
    pub weight_decay: f64,
    /// Largest allowed norm of the whole gradient; a longer one is scaled down to it. 0: no clipping.
    pub clip: f64,
    /// How the learning rate moves from `lr` to `lr * final_ratio` after the warm-up.
    pub schedule: Schedule,
    /// Steps over which the learning rate first rises linearly from 0 to `lr`. At most `steps`.
    pub warmup_steps: u64,
    /// Learning rate at the last step, as a share of `lr`; unused by `constant`. In 0..=1, above 0 for `exponential`.
    pub final_ratio: f64,
    /// Decay of the exponential moving average of what trains. 0: no average. In 0..1, 1 excluded.
    pub ema_decay: f64,
    /// Weight of each sample's loss by its timestep; multiplied with the weights of plugins.
    pub weighting: Weighting,
    /// The one parameter of `weighting`. Absent: 5 for `min_snr`, 0.5 for `p2`. Above 0.
    pub weighting_gamma: Option<f64>,
    /// Strength of a per-image, per-channel constant added to the noise. 0 or more.
    pub noise_offset: f64,
    /// Share of class labels replaced by the null class, for classifier-free guidance. In 0..=1.
    pub label_dropout: f64,
    /// Share of captions replaced by no text, for a backbone that is conditioned on text. In 0..=1.
    pub caption_dropout: f64,
    /// Also train the variance of a backbone that learns one, by the variational bound on the detached mean.
    pub variational_bound: bool,
    /// Keep no activations of the backbone's blocks for the backward pass, but compute them again there (Chen et al. 2016): the same gradients, less memory,
    /// about a third more time.
    pub gradient_checkpointing: bool,
    /// Which parameters of the backbone train: `"auto"`, `"all"`, `"none"`, `"bias"`, `"diffit"`, or a list of globs over
    /// parameter names. `auto`: all of it when no plugin brings parameters of its own, else none.
    pub trainable: Trainable,
    /// Steps between checkpoints; one is always written at the end. 0: only then.
    pub checkpoint_every: u64,
    /// How many checkpoints to keep, the newest first. 0: all.
    pub keep_checkpoints: usize,
    /// Seed of everything random in training. At most 2^63 - 1.
    pub seed: u64,
    /// Threads of computation. 0: one a core.
    pub threads: usize,
    /// Write TensorBoard event files beside `metrics.jsonl`.
    pub tensorboard: bool,
}

impl Default for TrainSection {
    fn default() -> Self {
        Self {
            steps: 200,
            batch_size: 32,
            accumulation: 1,
            lr: 3e-4,
            betas: [0.9, 0.999],
            eps: 1e-8,
            weight_decay: 0.0,
            clip: 1.0,
            schedule: Schedule::Constant,
            warmup_steps: 10,
            final_ratio: 0.01,
            ema_decay: 0.99,
            weighting: Weighting::None,
            weighting_gamma: None,
            noise_offset: 0.0,
            label_dropout: 0.1,
            caption_dropout: 0.1,
            variational_bound: true,
            gradient_checkpointing: false,
            trainable: Trainable::Auto,
            checkpoint_every: 100,
            keep_checkpoints: 3,
            seed: 0,
            threads: 0,
            tensorboard: true,
        }
    }
}

/// `[sample]`: the sample grids made before, during and after training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SampleSection {
    /// The sampler.
    pub sampler: Sampler,
    /// Denoising steps. At least 1.
    pub steps: usize,
    /// How the steps are spread over the training timesteps. Absent: the choice in the backbone's scheduler file.
    pub spacing: Option<Spacing>,
    /// Share of fresh noise in each DDIM step: 0 none (deterministic), 1 as much as DDPM. In 0..=1.
    pub eta: f64,
    /// Guidance scale w: `uncond + w * (cond - uncond)`. 1: no guidance, and half the work. 0 or more.
    pub guidance: f64,
    /// Domain Guidance: take the unconditional prediction from the pretrained backbone instead of the tuned one.
    pub domain_guidance: bool,
    /// Classes to draw, repeated over the images. Absent: every class of the data, in turn.
    pub classes: Option<Vec<u32>>,
    /// Texts to draw, repeated over the images, for a backbone that is conditioned on text. Absent: the captions of the data, in turn.
    pub prompts: Option<Vec<String>>,
    /// What guidance leads away from, in words. Empty: no text.
    pub negative: String,
    /// Images in a grid. 0: no grids.
    pub count: usize,
    /// Images denoised together; changes speed and memory, never the images. At least 1.
    pub batch_size: usize,
    /// Seed of the first image; image i starts from a stream of its own. At most 2^63 - 1.
    pub seed: u64,
    /// Training steps between grids, besides the ones before and after training. 0: only those.
    pub every: u64,
}

impl Default for SampleSection {
    fn default() -> Self {
        Self {
            sampler: Sampler::Ddim,
            steps: 30,
            spacing: None,
            eta: 0.0,
            guidance: 2.0,
            domain_guidance: false,
            classes: None,
            prompts: None,
            negative: String::new(),
            count: 24,
            batch_size: 24,
            seed: 0,
            every: 0,
        }
    }
}

/// One `[[adapter]]`: a file that diffusers, PEFT, kohya, LyCORIS or this program wrote.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterEntry {
    /// A `.safetensors` file, a folder of PEFT's or diffusers', or a run folder. Relative to the run file.
    pub path: PathBuf,
    /// How strongly it counts: 1 as trained, 0 not at all.
    #[serde(default = "one")]
    pub scale: f64,
    /// SHA-256 that the file must have, hexadecimal. The run folder's own run file has it, so that a run is not resumed on another adapter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

fn one() -> f64 {
    1.0
}

/// One `[[plugin]]`: a name or a path, and that plugin's own settings.
///
/// `name`, `as`, `without` and `lr` are the host's; no plugin can have settings of these names.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct PluginEntry {
    /// A plugin's name (`diff_tuning`), or the path of its file, relative to the run file.
    pub name: String,
    /// Another name for this use of the plugin; needed when one plugin is used twice.
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// Slots that the plugin offers and this run leaves to others, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<String>,
    /// Peak learning rate of the parameters that the plugin brings. Absent: `train.lr`. Above 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr: Option<f64>,
    /// The plugin's settings, checked against the schema it carries.
    #[serde(flatten)]
    pub settings: toml::Table,
}

impl PluginEntry {
    /// The name by which this use of the plugin is known in settings, logs and metrics: `as` if given, else the plugin's name;
    /// of a path, its file name without `lib` and extension. Hyphens read as underscores.
    pub fn handle(&self) -> String {
        match &self.alias {
            Some(alias) => alias.replace('-', "_"),
            None => handle_of(&self.name),
        }
    }

    /// Whether the name is a path of a file rather than a name to search for.
    pub fn is_path(&self) -> bool {
        is_path(&self.name)
    }
}

/// Whether `name` is a path of a plugin file rather than a name to search for.
pub(super) fn is_path(name: &str) -> bool {
    name.contains(['/', std::path::MAIN_SEPARATOR])
        || [".so", ".dylib", ".dll"]
            .iter()
            .any(|extension| name.ends_with(extension))
}

fn handle_of(name: &str) -> String {
    let stem = if is_path(name) {
        let stem = std::path::Path::new(name)
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        stem.strip_prefix("lib").map(str::to_owned).unwrap_or(stem)
    } else {
        name.to_owned()
    };
    stem.replace('-', "_")
}
