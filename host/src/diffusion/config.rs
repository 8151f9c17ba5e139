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
    /// The noise level that multistep samplers and Euler end at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub final_sigmas_type: Option<FinalSigma>,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
    /// What diffusers computes under this name: the logarithm of the forward variance where the variance belongs.
    FixedLargeLog,
    /// The network's own.
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
            final_sigmas_type: None,
            other: Map::new(),
        }
    }
}

impl SchedulerConfig {
    /// Reads a `scheduler_config.json`.
    ///
    /// # Errors
    /// The file is missing, is not such a file, or is of a class that has no beta schedule.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::File {
            path: path.into(),
            source,
        })?;
        let config: Self = serde_json::from_str(&text).map_err(|source| Error::Json {
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
        let known = |class: &&str| {
            **class == self.class_name || class.strip_suffix("Scheduler") == Some(&self.class_name)
        };
        if CLASSES.iter().any(|class| known(&class)) {
            return Ok(());
        }
        Err(Error::Class {
            class: self.class_name.clone(),
            supported: CLASSES,
        })
    }
}
