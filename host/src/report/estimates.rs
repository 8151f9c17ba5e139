//! What `host eval` found of a run that estimates depth or normals: plain data, saved as `estimates.json` and shown on the run's page.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
use super::evaluation::Images;
use crate::fs;

/// Name of the saved form in the run folder.
pub const ESTIMATES_JSON: &str = "estimates.json";

/// Estimates measured against the truth.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Estimates {
    /// The estimates.
    pub generated: Images,
    /// The data that holds the truth, in one line.
    pub truth: String,
    /// How long one took, loading left aside.
    pub seconds_per_image: f64,
    /// Errors of depth, where depth was estimated.
    pub depth: Option<DepthErrors>,
    /// Errors of normals, where normals were.
    pub normals: Option<NormalErrors>,
    /// What a reader must know, a sentence each.
    pub notes: Vec<String>,
}

/// Errors of depth after the least squares, for each image, have brought the estimate to the truth's scale and shift; means over the images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DepthErrors {
    /// Mean of `|estimate - truth| / truth`.
    pub abs_rel: f64,
    /// Share of pixels of which the larger of `estimate / truth` and `truth / estimate` is below 1.25, 0..=1.
    pub delta1: f64,
    /// Images with a known depth.
    pub images: u64,
}

/// Angles between estimated and true normals, over all known pixels of all images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NormalErrors {
    /// Mean, in degrees.
    pub mean: f64,
    /// Median, in degrees.
    pub median: f64,
    /// Share of pixels below 11.25 degrees, 0..=1.
    pub within_11_25: f64,
    /// Share below 22.5 degrees.
    pub within_22_5: f64,
    /// Share below 30 degrees.
    pub within_30: f64,
    /// Images with a known normal.
    pub images: u64,
}

impl Estimates {
    /// Each number with its name and what it means, for people.
    pub fn numbers(&self) -> Vec<(&'static str, String, &'static str)> {
        let mut numbers = Vec::new();
        if let Some(depth) = &self.depth {
            numbers.push((
                "AbsRel",
                format!("{:.4}", depth.abs_rel),
                "mean of |estimate - truth| / truth, after alignment",
            ));
            numbers.push((
                "delta < 1.25",
                share(depth.delta1),
                "pixels within a quarter of the truth",
            ));
        }
        if let Some(normals) = &self.normals {
            numbers.push((
                "mean angle",
                format!("{:.2}°", normals.mean),
                "between estimate and truth",
            ));
            numbers.push((
                "median angle",
                format!("{:.2}°", normals.median),
                "half of the pixels are nearer",
            ));
            numbers.push(("below 11.25°", share(normals.within_11_25), "of the pixels"));
            numbers.push(("below 22.5°", share(normals.within_22_5), "of the pixels"));
            numbers.push(("below 30°", share(normals.within_30), "of the pixels"));
        }
        numbers.push((
            "time",
            format!("{:.1} ms", 1e3 * self.seconds_per_image),
            "an image",
        ));
        numbers
    }

    /// The estimates in a run folder; none where there are none.
    ///
    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn read(folder: &Path) -> Result<Option<Self>, Error> {
        let path = folder.join(ESTIMATES_JSON);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(fs::Error::io("read", path, error).into()),
        };
        match serde_json::from_slice(&bytes) {
            Ok(estimates) => Ok(Some(estimates)),
            Err(source) => Err(Error::EvalJson { path, source }),
        }
    }

    /// Writes `estimates.json` into a folder, making it if needed.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn write(&self, folder: &Path) -> Result<(), Error> {
        let path = folder.join(ESTIMATES_JSON);
        match serde_json::to_vec_pretty(self) {
            Ok(text) => Ok(fs::write_atomic(&path, &text)?),
            Err(source) => Err(Error::EvalJson { path, source }),
        }
    }
}

fn share(share: f64) -> String {
    format!("{:.1}%", 100.0 * share)
}
