//! What can be wrong with a scheduler file or a diffusion process.

use std::path::PathBuf;

/// What can be wrong with a scheduler file or a diffusion process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The scheduler file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The scheduler file is not the JSON that diffusers writes.
    #[error("{}: not a diffusers scheduler configuration: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// The scheduler belongs to a family whose process is not a beta schedule.
    #[error("scheduler class {class} is not supported; supported are {}", supported.join(", "))]
    Class {
        /// The class that the file names.
        class: String,
        /// The classes that would have been read.
        supported: &'static [&'static str],
    },
    /// There must be at least one training timestep.
    #[error("num_train_timesteps is 0; a schedule needs at least 1")]
    NoTimesteps,
    /// `trained_betas` and `num_train_timesteps` disagree.
    #[error("trained_betas has {betas} values, but num_train_timesteps is {timesteps}")]
    BetaCount {
        /// Length of `trained_betas`.
        betas: usize,
        /// The number of training timesteps.
        timesteps: usize,
    },
    /// A beta that is no variance of a forward step.
    #[error(
        "beta of timestep {timestep} is {beta}; every beta must lie above 0 and below 1 (the last one may be 1)"
    )]
    Beta {
        /// The training timestep.
        timestep: usize,
        /// Its beta.
        beta: f64,
    },
    /// At zero signal the noise prediction says nothing about the data.
    #[error(
        "rescale_betas_zero_snr leaves no signal at timestep {timestep}, where a network with prediction_type \"epsilon\" cannot tell \
         the clean data; use \"v_prediction\" or \"sample\", or leave rescale_betas_zero_snr off"
    )]
    EpsilonAtZeroSnr {
        /// The training timestep without signal.
        timestep: usize,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
