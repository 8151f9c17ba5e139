//! What `host eval` found: plain data, saved as `eval.json` and shown on the run's page.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use crate::config::SampleSection;
use crate::fs;

/// Name of the saved form in the run folder.
pub const EVAL_JSON: &str = "eval.json";

/// Generated images measured against a reference.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Evaluation {
    /// The generated images.
    pub generated: Images,
    /// What they are compared with.
    pub reference: Images,
    /// The numbers.
    #[serde(flatten)]
    pub scores: Scores,
}

/// Where images come from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Images {
    /// One line: what they are.
    pub description: String,
    /// How many.
    pub count: u64,
    /// Pixels along each side.
    pub size: u64,
    /// Steps of training behind them; none for a backbone alone and for images from a folder.
    pub step: Option<u64>,
    /// Whether averaged weights drew them, where a run did.
    pub averaged: Option<bool>,
    /// How they were drawn, where they were.
    pub sample: Option<SampleSection>,
}

/// The distances of two sets of images.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    /// The network whose features are compared; distances compare only where it is the same.
    pub network: FeatureNetwork,
    /// Seed of the kernel distance's subsets.
    pub seed: u64,
    /// Frechet distance, 0 or more.
    pub frechet: f64,
    /// Its part from the means.
    pub frechet_mean: f64,
    /// Its part from the covariances.
    pub frechet_covariance: f64,
    /// Kernel distance.
    pub kernel: Kernel,
    /// Share of generated images among the real ones, 0..=1.
    pub precision: f64,
    /// Share of real images among the generated ones, 0..=1.
    pub recall: f64,
    /// Which nearest neighbour bounds an image's surroundings, for precision and recall.
    pub neighbours: u64,
    /// Share of generated images whose nearest real image is of the class asked for, 0..=1; none without named classes.
    pub agreement: Option<f64>,
    /// Class by class, those that both sets have.
    pub classes: Vec<ClassScores>,
    /// What a reader must know, a sentence each.
    pub notes: Vec<String>,
}

/// The network that images are compared by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureNetwork {
    /// What it is.
    pub name: String,
    /// Its file, or "embedded".
    pub source: String,
    /// SHA-256 of the weights.
    pub sha256: String,
    /// Features an image.
    pub dimensions: u64,
}

/// A kernel distance over subsets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Kernel {
    /// Mean over the subsets.
    pub mean: f64,
    /// Standard deviation over the subsets.
    pub std: f64,
    /// How many subsets.
    pub subsets: u64,
    /// Images of each set in a subset.
    pub subset_size: u64,
}

/// The numbers of one class.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClassScores {
    /// The class.
    pub name: String,
    /// Generated images of it.
    pub generated: u64,
    /// Reference images of it.
    pub reference: u64,
    /// Kernel distance between the two.
    pub kernel: Kernel,
    /// Share of the generated ones among the real ones of all classes, 0..=1.
    pub precision: f64,
    /// Share of the real ones among the generated ones of all classes, 0..=1.
    pub recall: f64,
    /// Share of the generated ones whose nearest real image is of the class, 0..=1.
    pub agreement: Option<f64>,
}

impl Evaluation {
    /// The evaluation in a run folder; none where there is none.
    ///
    /// # Errors
    /// A file that cannot be read or is no evaluation.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(EVAL_JSON);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fs::Error::io("read", path, error).into()),
        };
        match serde_json::from_slice(&bytes) {
            Ok(evaluation) => Ok(Some(evaluation)),
            Err(source) => Err(Error::EvalJson { path, source }),
        }
    }

    /// Writes `eval.json` into a folder, making it if needed.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::EvalJson {
            path: folder.join(EVAL_JSON),
            source,
        })?;
        Ok(fs::write_atomic(&folder.join(EVAL_JSON), &text)?)
    }
}
