//! What a sampler is: its settings, and the trait of one step.

use std::fmt;

use candle_core::{Result as TensorResult, Tensor};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Error, ddim::Ddim, ddpm::Ddpm, dpm_solver::DpmSolver, euler::Euler, sigmas};
use crate::diffusion::{Level, Process, SchedulerConfig, Spacing};

/// The samplers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum SamplerKind {
    /// Ancestral sampling (Ho et al. 2020), with fixed or learned variance.
    Ddpm,
    /// Denoising diffusion implicit models (Song et al. 2021).
    Ddim,
    /// Second-order multistep DPM-Solver++ (Lu et al. 2022).
    #[serde(rename = "dpmpp_2m", alias = "dpm++2m")]
    #[value(name = "dpmpp_2m", alias = "dpm++2m")]
    DpmSolverPlusPlus2M,
    /// Euler's method in the noise to signal ratio (Karras et al. 2022).
    Euler,
}

/// A sampler and its settings. What is `None` is as the scheduler file says, or as diffusers has it for this sampler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampler {
    /// Which sampler.
    pub kind: SamplerKind,
    /// Number of steps, at least 1 and at most the number of training timesteps.
    pub steps: usize,
    /// How the timesteps are chosen.
    #[serde(default)]
    pub spacing: Option<Spacing>,
    /// DDIM: share of DDPM's noise to add, in `0..=1`.
    #[serde(default)]
    pub eta: f64,
    /// DPM-Solver++ and Euler: space the noise levels as Karras et al. 2022 do.
    #[serde(default)]
    pub karras: Option<bool>,
}

/// One run of a sampler over one batch.
pub trait Scheduler {
    /// The timesteps that the network is told, from the noisiest to the cleanest.
    fn timesteps(&self) -> &[f32];

    /// Standard deviation of the data to start from, close to 1.
    fn init_noise_sigma(&self) -> f64 {
        1.0
    }

    /// Whether step `index` uses fresh noise.
    fn uses_noise(&self, _index: usize) -> bool {
        false
    }

    /// The data after step `index`, which goes to the next timestep, or after the last one to the end.
    ///
    /// Steps are taken in order from 0, for a scheduler may remember earlier ones.
    ///
    /// # Errors
    /// Shapes or types that disagree, or noise or variance missing where the step uses it.
    fn step(&mut self, step: &Step<'_>) -> TensorResult<Tensor>;
}

/// What one step is given.
#[derive(Clone, Copy, Debug)]
pub struct Step<'a> {
    /// Which step, from 0.
    pub index: usize,
    /// The network's prediction: `[B, C, H, W]`.
    pub prediction: &'a Tensor,
    /// The network's variance channels where it has them: `[B, C, H, W]`.
    pub variance: Option<&'a Tensor>,
    /// The data before the step: `[B, C, H, W]`.
    pub sample: &'a Tensor,
    /// Standard normal noise where [`Scheduler::uses_noise`]: `[B, C, H, W]`.
    pub noise: Option<&'a Tensor>,
}

impl Step<'_> {
    /// The noise, or an error that says which step lacks it.
    pub(super) fn noise(&self) -> TensorResult<&Tensor> {
        match self.noise {
            Some(noise) => Ok(noise),
            None => candle_core::bail!(
                "sampling step {} needs noise and was given none",
                self.index
            ),
        }
    }
}

impl SamplerKind {
    /// The sampler that a scheduler file asks for; the nearest one where we do not have its own.
    pub fn of(config: &SchedulerConfig) -> Self {
        let class = config.class_name.as_str();
        if class.starts_with("DDPM") {
            Self::Ddpm
        } else if class.starts_with("DPMSolver") {
            Self::DpmSolverPlusPlus2M
        } else if class.starts_with("Euler") {
            Self::Euler
        } else {
            Self::Ddim
        }
    }
}

impl fmt::Display for SamplerKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Ddpm => "ddpm",
            Self::Ddim => "ddim",
            Self::DpmSolverPlusPlus2M => "dpmpp_2m",
            Self::Euler => "euler",
        })
    }
}

impl Sampler {
    /// `steps` steps of a sampler with nothing else set.
    pub fn new(kind: SamplerKind, steps: usize) -> Self {
        Self {
            kind,
            steps,
            spacing: None,
            eta: 0.0,
            karras: None,
        }
    }

    /// Prepares a run; one is needed for each batch.
    ///
    /// # Errors
    /// A number of steps, an `eta` or an offset out of range, a setting that this sampler does not have, or a scheduler file that relies
    /// on a variance which the network does not put out.
    pub fn build(&self, process: &Process) -> Result<Box<dyn Scheduler>, Error> {
        let timesteps = process.num_train_timesteps();
        if self.steps == 0 || self.steps > timesteps {
            return Err(Error::Steps {
                steps: self.steps,
                timesteps,
            });
        }
        self.check_settings()?;
        Ok(match self.kind {
            SamplerKind::Ddpm => Box::new(Ddpm::new(process, self)?),
            SamplerKind::Ddim => Box::new(Ddim::new(process, self)?),
            SamplerKind::DpmSolverPlusPlus2M => Box::new(DpmSolver::new(process, self)?),
            SamplerKind::Euler => Box::new(Euler::new(process, self)?),
        })
    }

    /// Prepares a run over these timesteps in place of `steps` and `spacing` (and of Karras' noise levels): any that fall strictly, a
    /// single one too. Between training timesteps the noise to signal ratio is interpolated. The last step goes to the end.
    ///
    /// # Errors
    /// Timesteps that are none, out of range or do not fall, and as for [`Sampler::build`].
    pub fn build_along(
        &self,
        process: &Process,
        timesteps: &[f32],
    ) -> Result<Box<dyn Scheduler>, Error> {
        let last = (process.num_train_timesteps() - 1) as f32;
        let within = timesteps
            .iter()
            .all(|timestep| (0.0..=last).contains(timestep));
        if timesteps.is_empty() || !within || timesteps.windows(2).any(|pair| pair[0] <= pair[1]) {
            return Err(Error::Timesteps {
                last: process.num_train_timesteps() - 1,
            });
        }
        self.check_settings()?;
        let timesteps = timesteps.to_vec();
        Ok(match self.kind {
            SamplerKind::Ddpm => Box::new(Ddpm::along(process, timesteps)?),
            SamplerKind::Ddim => Box::new(Ddim::along(process, self, timesteps)),
            SamplerKind::DpmSolverPlusPlus2M => Box::new(DpmSolver::along(process, timesteps)),
            SamplerKind::Euler => Box::new(Euler::along(process, self, timesteps)),
        })
    }

    /// Refuses what no process could make right.
    fn check_settings(&self) -> Result<(), Error> {
        if !(0.0..=1.0).contains(&self.eta) {
            return Err(Error::Eta(self.eta));
        }
        let has_karras = matches!(
            self.kind,
            SamplerKind::DpmSolverPlusPlus2M | SamplerKind::Euler
        );
        for (setting, misplaced) in [
            ("eta", self.eta != 0.0 && self.kind != SamplerKind::Ddim),
            ("karras", self.karras == Some(true) && !has_karras),
        ] {
            if misplaced {
                return Err(Error::Setting {
                    kind: self.kind,
                    setting,
                });
            }
        }
        Ok(())
    }

    /// Settings of the scheduler file that would change this sampler's steps in diffusers and have no effect here.
    pub fn ignored_settings(&self, config: &SchedulerConfig) -> Vec<String> {
        let plain: Vec<(&str, Value)> = match self.kind {
            SamplerKind::Ddpm | SamplerKind::Ddim => Vec::new(),
            SamplerKind::DpmSolverPlusPlus2M => vec![
                ("algorithm_type", "dpmsolver++".into()),
                ("solver_order", 2.into()),
                ("solver_type", "midpoint".into()),
                ("use_exponential_sigmas", false.into()),
                ("use_beta_sigmas", false.into()),
                ("use_lu_lambdas", false.into()),
                ("use_flow_sigmas", false.into()),
            ],
            SamplerKind::Euler => vec![
                ("interpolation_type", "linear".into()),
                ("timestep_type", "discrete".into()),
                ("use_exponential_sigmas", false.into()),
                ("use_beta_sigmas", false.into()),
            ],
        };
        plain
            .iter()
            .filter_map(|(key, expected)| {
                let value = config.other.get(*key)?;
                (value != expected && !value.is_null()).then(|| format!("{key} = {value}"))
            })
            .collect()
    }

    /// The spacing: this sampler's, or the file's, or `default`.
    pub(super) fn spacing(&self, process: &Process, default: Spacing) -> Spacing {
        self.spacing
            .or(process.config().timestep_spacing)
            .unwrap_or(default)
    }

    /// Whether to space noise levels as Karras et al. do: as this sampler says, or the file.
    pub(super) fn karras(&self, process: &Process) -> bool {
        self.karras
            .or(process.config().use_karras_sigmas)
            .unwrap_or(false)
    }
}

/// The level at a timestep in range; between two training timesteps at the interpolated noise to signal ratio.
pub(crate) fn level_at(process: &Process, timestep: f32) -> Level {
    match process.levels().get(timestep as usize) {
        Some(&level) if timestep.fract() == 0.0 => level,
        _ => process.level_at_ratio(sigmas::at(&process.ratios(), f64::from(timestep))),
    }
}

/// Timesteps as indices into the training timesteps.
///
/// # Errors
/// One lies outside.
pub(super) fn indices(timesteps: &[i64], process: &Process) -> Result<Vec<usize>, Error> {
    let count = process.num_train_timesteps();
    timesteps
        .iter()
        .map(|&timestep| match usize::try_from(timestep) {
            Ok(index) if index < count => Ok(index),
            _ => Err(Error::Offset {
                offset: process.config().steps_offset,
                timestep,
                last: count - 1,
            }),
        })
        .collect()
}
