//! Noise schedules and the diffusion process.
//!
//! Everything outside this module sees a [`Process`]: how clean data becomes noisy data, what the network predicts about it, and how to
//! get clean data back. Inside, a timestep is a [`Level`], `noisy = alpha * x0 + sigma * noise`, and nothing else: variance-preserving
//! schedules are one way to fill the table of levels, rectified flow would be another.

mod bound;
mod config;
mod error;
mod level;
mod process;
mod schedule;
mod weighting;

pub use config::{BetaSchedule, FinalSigma, SchedulerConfig, Spacing, VarianceType};
pub use error::Error;
pub use level::{Affine, Level, Posterior, Prediction};
pub use process::Process;
pub use schedule::Schedule;
pub use weighting::Weighting;
