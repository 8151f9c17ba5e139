//! `scheduler_config.json` as diffusers writes it, read whatever scheduler class wrote it and written back without losing a key.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Error, Prediction};

/// The classes whose process is a beta schedule, with or without their suffix `Scheduler`.
const CLASSES: &[&str] = &[
    "DDPMScheduler",
    "DDIMScheduler",
    "PNDMScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "KDPM2DiscreteScheduler",
];

/// A diffusers scheduler configuration.
///
/// Keys that a file leaves out have the values that diffusers gives them. Where those differ from class to class the field is an
/// `Option`, and each sampler fills in its own class's value, as diffusers does when one class reads another's file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SchedulerConfig {
    /// The diffusers class, such as `DDPMScheduler`.
    #[serde(rename = "_class_name")]
    pub class_name: String,
    /// Number of training timesteps.
    pub num_train_timesteps: usize,
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// The curve between them.
    pub beta_schedule: BetaSchedule,
    /// Betas given one by one, in place of a curve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trained_betas: Option<Vec<f64>>,
    /// What the network predicts.
    pub prediction_type: Prediction,
    /// How a sampler chooses its timesteps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<Spacing>,
    /// Added to the timesteps of `leading` spacing.
    pub steps_offset: usize,
    /// Rescale the betas so that the last timestep holds no signal (Lin et al. 2024, algorithm 1).
    pub rescale_betas_zero_snr: bool,
    /// Whether the last step of DDIM ends at no noise, or at the level of timestep 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub set_alpha_to_one: Option<bool>,
    /// Whether to clamp predicted clean data while sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_sample: Option<bool>,
    /// The magnitude to clamp it to.
    pub clip_sample_range: f64,
    /// Whether to clamp predicted clean data to a quantile of itself while sampling (Saharia et al. 2022, section 2.3).
    pub thresholding: bool,
    /// That quantile, in `0..=1`.
    pub dynamic_thresholding_ratio: f64,
    /// The largest value that thresholding divides by.
    pub sample_max_value: f64,
    /// The variance of a DDPM reverse step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variance_type: Option<VarianceType>,
    /// Karras et al. 2022 noise levels, for samplers that know them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub use_karras_sigmas: Option<bool>,
    /// Whether multistep samplers drop to first order at the end of a short run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lower_order_final: Option<bool>,
    /// Whether multistep samplers take their last step at first order whatever the number of steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub euler_at_final: Option<bool>,
    /// The noise level that multistep samplers and Euler end at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_sigmas_type: Option<FinalSigma>,
    /// Multistep samplers leave out timesteps whose half log signal to noise ratio is below this.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lambda_min_clipped: Option<f64>,
    /// Every key that is not one of the above, kept for writing the file back.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A curve of betas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BetaSchedule {
    /// Evenly spaced betas.
    #[default]
    Linear,
    /// Evenly spaced square roots of betas: Stable Diffusion's.
    ScaledLinear,
    /// The cosine schedule of Nichol and Dhariwal 2021, capped at 0.999.
    #[serde(rename = "squaredcos_cap_v2")]
    SquaredcosCapV2,
    /// A sigmoid between the two ends.
    Sigmoid,
    /// The Laplace schedule of Hang et al. 2024.
    Laplace,
}

/// How a sampler chooses its timesteps among the training timesteps (Lin et al. 2024, table 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Spacing {
    /// Multiples of `T / steps` from 0 (plus `steps_offset`): never reaches the last timestep.
    Leading,
    /// Multiples of `T / steps` down from the last timestep.
    Trailing,
    /// Evenly spaced from the first to the last timestep.
    Linspace,
}

/// The variance of a DDPM reverse step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VarianceType {
    /// The posterior variance.
    FixedSmall,
    /// The posterior variance by way of its logarithm.
    FixedSmallLog,
    /// The variance of the forward transition.
    FixedLarge,
    /// The variance of the forward transition by way of its logarithm.
    FixedLargeLog,
    /// The network puts out the variance itself.
    Learned,
    /// The network interpolates between the logarithms of the posterior and the forward variance.
    LearnedRange,
}

/// The noise level that multistep samplers and Euler end at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinalSigma {
    /// No noise.
    Zero,
    /// The level of training timestep 0.
    SigmaMin,
}

impl Default for SchedulerConfig {
    fn default() -> Self {
        Self {
            class_name: "DDPMScheduler".into(),
            num_train_timesteps: 1000,
            beta_start: 0.0001,
            beta_end: 0.02,
            beta_schedule: BetaSchedule::Linear,
            trained_betas: None,
            prediction_type: Prediction::Epsilon,
            timestep_spacing: None,
            steps_offset: 0,
            rescale_betas_zero_snr: false,
            set_alpha_to_one: None,
            clip_sample: None,
            clip_sample_range: 1.0,
            thresholding: false,
            dynamic_thresholding_ratio: 0.995,
            sample_max_value: 1.0,
            variance_type: None,
            use_karras_sigmas: None,
            lower_order_final: None,
            euler_at_final: None,
            final_sigmas_type: None,
            lambda_min_clipped: None,
            other: Map::new(),
        }
    }
}

impl SchedulerConfig {
    /// The process that every Stable Diffusion was trained with: betas whose square roots are evenly spaced.
    pub fn stable_diffusion(prediction_type: Prediction) -> Self {
        Self {
            class_name: "DDIMScheduler".into(),
            beta_start: 0.00085,
            beta_end: 0.012,
            beta_schedule: BetaSchedule::ScaledLinear,
            prediction_type,
            steps_offset: 1,
            set_alpha_to_one: Some(false),
            clip_sample: Some(false),
            ..Self::default()
        }
    }

    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// The file is missing, is not such a file, or is of a class that has no beta schedule.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.into(),
            source,
        })?;
        Self::from_json(&text, path)
    }

    /// Reads the text of a `scheduler_config.json`; `path` names it in errors.
    ///
    /// # Errors
    /// As [`SchedulerConfig::read`].
    pub fn from_json(text: &str, path: &Path) -> Result<Self, Error> {
        let config: Self =
            serde_json::from_str(&without_non_finite(text)).map_err(|source| Error::Json {
                path: path.into(),
                source,
            })?;
        config.check_class()?;
        Ok(config)
    }

    /// Writes a `scheduler_config.json` that diffusers reads.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let mut text = serde_json::to_string_pretty(self).map_err(|source| Error::Json {
            path: path.into(),
            source,
        })?;
        text.push('\n');
        std::fs::write(path, text).map_err(|source| Error::File {
            path: path.into(),
            source,
        })
    }

    /// Refuses a class whose process is not a beta schedule, such as a flow-matching one.
    pub(super) fn check_class(&self) -> Result<(), Error> {
        // Some released files name the class without its suffix.
        let name = &self.class_name;
        let known = |class: &&str| *class == name || class.strip_suffix("Scheduler") == Some(name);
        if CLASSES.iter().any(known) {
            return Ok(());
        }
        Err(Error::Class {
            class: self.class_name.clone(),
            supported: CLASSES,
        })
    }
}

/// Python writes `-Infinity`, `Infinity` and `NaN` into JSON, which has no such numbers; where diffusers does, the key at this value
/// means what the absent key means.
fn without_non_finite(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut in_string = false;
    while let Some(first) = rest.chars().next() {
        let token = ["-Infinity", "Infinity", "NaN"]
            .iter()
            .find(|token| !in_string && rest.starts_with(**token));
        let length = match (token, first) {
            (Some(token), _) => {
                out.push_str("null");
                rest = &rest[token.len()..];
                continue;
            }
            // An escape is two characters, and the second one may be a quote.
            (None, '\\') if in_string => 1 + rest[1..].chars().next().map_or(0, char::len_utf8),
            (None, first) => {
                in_string ^= first == '"';
                first.len_utf8()
            }
        };
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn read(text: &str) -> Result<SchedulerConfig, Error> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scheduler_config.json");
        std::fs::write(&path, text).unwrap();
        SchedulerConfig::read(&path)
    }

    /// The file of a released Stable Diffusion, in part.
    #[test]
    fn a_file_survives_being_read_and_written() {
        let text = r#"{"_class_name": "PNDMScheduler", "_diffusers_version": "0.6.0", "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "num_train_timesteps": 1000, "set_alpha_to_one": false, "skip_prk_steps": true, "steps_offset": 1,
            "trained_betas": null, "clip_sample": false}"#;
        let config = read(text).unwrap();
        assert_eq!(config.beta_schedule, BetaSchedule::ScaledLinear);
        assert_eq!(
            (
                config.steps_offset,
                config.set_alpha_to_one,
                config.clip_sample
            ),
            (1, Some(false), Some(false))
        );
        assert_eq!(
            (config.timestep_spacing, config.variance_type),
            (None, None)
        );
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("scheduler_config.json");
        config.write(&path).unwrap();
        assert_eq!(SchedulerConfig::read(&path).unwrap(), config);
        let written: Value =
            serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        assert_eq!(written["skip_prk_steps"], true);
        assert_eq!(written["beta_schedule"], "scaled_linear");
        assert_eq!(written["_class_name"], "PNDMScheduler");
    }

    /// diffusers writes this number, which is no JSON, into every file of this class.
    #[test]
    fn minus_infinity_reads_as_absent() {
        let config = read(r#"{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "note": "a \"NaN\" stays", "variance_type": null}"#).unwrap();
        assert_eq!(config.lambda_min_clipped, None);
        assert_eq!(config.other["note"], "a \"NaN\" stays");
        assert_eq!(
            read(r#"{"lambda_min_clipped": -5.1}"#)
                .unwrap()
                .lambda_min_clipped,
            Some(-5.1)
        );
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let flow = read(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler"}"#)
            .unwrap_err()
            .to_string();
        assert!(
            flow.contains("FlowMatchEulerDiscreteScheduler") && flow.contains("DDIMScheduler"),
            "{flow}"
        );
        let curve = read(r#"{"beta_schedule": "quadratic"}"#)
            .unwrap_err()
            .to_string();
        assert!(
            curve.contains("quadratic") && curve.contains("scaled_linear"),
            "{curve}"
        );
        let missing = SchedulerConfig::read(Path::new("nowhere/scheduler_config.json"))
            .unwrap_err()
            .to_string();
        assert!(missing.contains("nowhere"), "{missing}");
    }
}
