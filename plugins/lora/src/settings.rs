//! What a user can set, and which of it goes together.

use std::collections::BTreeMap;
use std::path::PathBuf;

use plugin_api::{Result, Settings, bail};

/// Small trainable changes of chosen layers of the frozen backbone: LoRA (arXiv 2106.09685) and its relatives.
#[derive(Debug, Clone, PartialEq, Settings)]
pub struct LoraSettings {
    /// What changes a layer.
    pub kind: Kind,
    /// Rank of each update: how many directions of its input a layer learns to answer anew.
    #[setting(default = 16, range = 1..=65536)]
    pub rank: usize,
    /// Each update counts alpha / rank; its rank when not given.
    #[setting(above = 0)]
    pub alpha: Option<f64>,
    /// Layers to adapt (`host model inspect` lists them): globs over their paths, in which `*` stays within one part between dots and `**` does not, or `re:` and
    /// a regular expression for the whole path. The projections of attention when not given; for ia3 those of keys and values, and the last layer of each
    /// feed-forward part.
    pub targets: Option<Vec<String>>,
    /// Targets to leave out, written as `targets` are.
    pub exclude: Vec<String>,
    /// Other ranks for some of the layers: a glob or `re:` expression, and the rank.
    #[setting(range = 1..=65536)]
    pub rank_pattern: BTreeMap<String, usize>,
    /// Other alphas for some of the layers.
    #[setting(above = 0)]
    pub alpha_pattern: BTreeMap<String, f64>,
    /// Share of an update's inputs that are set to zero in training (lora).
    #[setting(default = 0.0, range = 0..1)]
    pub dropout: f64,
    /// Let an update count alpha / sqrt(rank), so that a larger rank learns no slower (lora; arXiv 2312.03732).
    #[setting(default = false)]
    pub rslora: bool,
    /// Train each output's magnitude apart from its direction (lora; DoRA, arXiv 2402.09353).
    #[setting(default = false)]
    pub dora: bool,
    /// How the first factor is drawn; the second is zero (lora).
    pub init: FirstFactor,
    /// Decompose the kernels of convolutions larger than 1x1 as well (loha, lokr; FedPara's proposition 3).
    #[setting(default = false)]
    pub effective_conv: bool,
    /// Decompose the left factor of the Kronecker product, too, where the rank is small enough (lokr).
    #[setting(default = false)]
    pub decompose_both: bool,
    /// Size of the left factor, where it divides a layer's size; as near to the root of the size as possible when not given (lokr).
    #[setting(range = 1..)]
    pub decompose_factor: Option<usize>,
    /// Those of the targets whose input is scaled instead of their output (ia3); the last layers of feed-forward parts when not given.
    pub feedforward: Option<Vec<String>>,
    /// Go on from this adapter's file (or folder) of diffusers, PEFT or kohya, which has the same kind, rank and alpha.
    pub from: Option<PathBuf>,
    /// Files to write; when not given `diffusers`, and `peft` for kinds that diffusers does not read.
    pub formats: Option<Vec<Format>>,
}

/// What changes a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Kind {
    /// A product of two narrow matrices is added to the weight.
    #[setting(default)]
    Lora,
    /// The elementwise product of two such products is (arXiv 2108.06098).
    Loha,
    /// A Kronecker product is (arXiv 2309.14859).
    Lokr,
    /// Nothing is added; outputs, or the inputs of feed-forward layers, are scaled one by one (arXiv 2205.05638).
    Ia3,
}

/// How LoRA's first factor is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum FirstFactor {
    /// Uniformly, as PyTorch initialises a layer.
    #[setting(default)]
    Kaiming,
    /// From a normal distribution of deviation 1 / rank.
    Gaussian,
}

/// A family of files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Format {
    /// `pytorch_lora_weights.safetensors`.
    #[setting(default)]
    Diffusers,
    /// `adapter_model.safetensors` and `adapter_config.json`.
    Peft,
    /// `kohya.safetensors`, in the names of kohya's scripts and of LyCORIS.
    Kohya,
}

impl Kind {
    /// The word in the settings.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lora => "lora",
            Kind::Loha => "loha",
            Kind::Lokr => "lokr",
            Kind::Ia3 => "ia3",
        }
    }
}

impl LoraSettings {
    /// Refuses what is set and would change nothing.
    ///
    /// # Errors
    /// A setting away from its default that the kind does not have, and a format that has no form for the kind.
    pub fn check(&self) -> Result<()> {
        use Kind::{Ia3, Loha, Lokr, Lora};
        let usual = Self::default();
        let ranked: &[Kind] = &[Lora, Loha, Lokr];
        for (name, set, kinds) in [
            ("rank", self.rank != usual.rank, ranked),
            ("alpha", self.alpha.is_some(), ranked),
            ("rank_pattern", !self.rank_pattern.is_empty(), ranked),
            ("alpha_pattern", !self.alpha_pattern.is_empty(), ranked),
            ("dropout", self.dropout != usual.dropout, &[Lora]),
            ("rslora", self.rslora, &[Lora]),
            ("dora", self.dora, &[Lora]),
            ("init", self.init != usual.init, &[Lora]),
            ("effective_conv", self.effective_conv, &[Loha, Lokr]),
            ("decompose_both", self.decompose_both, &[Lokr]),
            ("decompose_factor", self.decompose_factor.is_some(), &[Lokr]),
            ("feedforward", self.feedforward.is_some(), &[Ia3]),
        ] {
            if set && !kinds.contains(&self.kind) {
                let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
                bail!(
                    "`{name}` changes nothing where `kind` is {}: leave it out, or take the kind {}",
                    self.kind.name(),
                    kinds.join(" or ")
                );
            }
        }
        for format in self.formats() {
            match (format, self.kind) {
                (Format::Diffusers, Loha | Ia3) => bail!(
                    "diffusers reads no file of kind {}: set `formats` to [\"peft\"]",
                    self.kind.name()
                ),
                (Format::Kohya, Ia3) => bail!(
                    "there is no file of kind ia3 in kohya's names: set `formats` to [\"peft\"]"
                ),
                _ => {}
            }
        }
        match self.formats().is_empty() {
            true => bail!("`formats` is empty, so nothing would be left of the run: leave it out"),
            false => Ok(()),
        }
    }

    /// The files to write.
    pub fn formats(&self) -> Vec<Format> {
        match (&self.formats, self.kind) {
            (Some(formats), _) => formats.clone(),
            (None, Kind::Lora | Kind::Lokr) => vec![Format::Diffusers],
            (None, Kind::Loha | Kind::Ia3) => vec![Format::Peft],
        }
    }

    /// What the update of a layer is multiplied by.
    pub fn scale(&self, rank: usize, alpha: f64) -> f64 {
        match self.rslora {
            true => alpha / (rank as f64).sqrt(),
            false => alpha / rank as f64,
        }
    }
}
