//! What can go wrong with a backbone: every variant names the file or tensor and both sides of a mismatch.

use std::path::PathBuf;

/// Why a backbone could not be read, built, run or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is nothing at the path given.
    #[error("no backbone at {}: there is no such file or folder", path.display())]
    Missing {
        /// The path given.
        path: PathBuf,
    },
    /// A folder without a configuration.
    #[error("{} holds no backbone: looked for {looked_for}", dir.display())]
    NoConfig {
        /// The folder searched.
        dir: PathBuf,
        /// The file names tried, for the message.
        looked_for: String,
    },
    /// A copy of more or fewer blocks than there are.
    #[error(
        "the backbone has {there} residual sites, of which 1 to {there} can be covered, not {asked}"
    )]
    Sites {
        /// How many were asked for.
        asked: usize,
        /// How many there are.
        there: usize,
    },
    /// A copy of a part of a UNet's way down.
    #[error("a UNet is copied whole, with its {there} residual sites, not {asked} of them")]
    PartOfUnet {
        /// How many sites were asked for.
        asked: usize,
        /// How many there are.
        there: usize,
    },
    /// A configuration without weights beside it.
    #[error("{} has a config.json but no weights: looked for {looked_for}", dir.display())]
    NoWeights {
        /// The folder searched.
        dir: PathBuf,
        /// The file names tried, for the message.
        looked_for: String,
    },
    /// A JSON file that does not parse, or does not have the expected fields.
    #[error("cannot read {file}: {reason}")]
    Json {
        /// The file, or what stands for it.
        file: String,
        /// What the parser says.
        reason: String,
    },
    /// A model of a kind that the host does not know.
    #[error(
        "{file} describes a `{found}`; supported backbones: UNet2DConditionModel, DiTTransformer2DModel, and Transformer2DModel with norm_type ada_norm_zero"
    )]
    UnsupportedClass {
        /// The file that names the class.
        file: String,
        /// The class it names.
        found: String,
    },
    /// A setting of the architecture that the host does not implement, or that makes no sense.
    #[error(
        "unsupported configuration of the backbone: `{setting}` is {found}, expected {expected}"
    )]
    Config {
        /// The field of `config.json`.
        setting: &'static str,
        /// Its value.
        found: String,
        /// What would have been accepted.
        expected: String,
    },
    /// A weights file that cannot be read: truncated, corrupt, or of another format.
    #[error("cannot read the weights in {file}: {reason}")]
    Weights {
        /// The weights file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor stored in a type that is not a floating-point type the host reads.
    #[error("tensor `{name}` in {file} is stored as {found}; expected f32, f16, bf16 or f64")]
    StoredType {
        /// The weights file.
        file: String,
        /// The tensor.
        name: String,
        /// Its stored type.
        found: String,
    },
    /// The configuration and the weights disagree about a tensor's shape.
    #[error(
        "the configuration does not match the weights: `{name}` should be {expected:?} by the configuration and is {found:?} in the weights"
    )]
    Shape {
        /// The first tensor, in the order of the network, that differs.
        name: String,
        /// The shape that follows from the configuration.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
    /// The weights lack tensors, or hold tensors that the architecture does not have.
    #[error(
        "the weights do not fit the configuration: {}",
        describe_names(missing, unexpected)
    )]
    Names {
        /// Tensors that the configuration asks for and the weights lack.
        missing: Vec<String>,
        /// Tensors in the weights that the configuration has no place for.
        unexpected: Vec<String>,
    },
    /// A position embedding that is not the fixed sinusoidal one.
    #[error(
        "the stored position embedding differs from DiT's sinusoidal table by up to {difference:.3}; learned position embeddings are not supported"
    )]
    PositionEmbedding {
        /// The largest absolute difference.
        difference: f32,
    },
    /// An overlay that names parameters the backbone does not have.
    #[error("the overlay has {} parameter(s) that the backbone does not: {}", unknown.len(), first_few(unknown))]
    UnknownParameters {
        /// The names without a counterpart.
        unknown: Vec<String>,
    },
    /// A file of inputs that a forward pass cannot use.
    #[error("cannot run the inputs in {}: {reason}", file.display())]
    Inputs {
        /// The file of inputs.
        file: PathBuf,
        /// What is missing or wrong.
        reason: String,
    },
    /// The system refused to read or write.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: std::io::Error,
    },
    /// An adapter that does not fit.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::Error),
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn describe_names(missing: &[String], unexpected: &[String]) -> String {
    let mut parts = Vec::new();
    if !missing.is_empty() {
        parts.push(format!(
            "{} tensor(s) missing ({})",
            missing.len(),
            first_few(missing)
        ));
    }
    if !unexpected.is_empty() {
        parts.push(format!(
            "{} unexpected ({})",
            unexpected.len(),
            first_few(unexpected)
        ));
    }
    parts.join(", ")
}

/// Enough names to see the pattern, never a screenful.
fn first_few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let rest = names.len().saturating_sub(SHOWN);
    match rest {
        0 => shown.join(", "),
        rest => format!("{}, and {rest} more", shown.join(", ")),
    }
}
