//! From noise to images.
//!
//! [`generate`] runs the loop; a [`Scheduler`] takes one step of it. Every scheduler keeps its data at the scale of the process
//! (`alpha * x0 + sigma * noise`), Euler too, so whoever hooks into the loop need not know which one runs.

mod ddim;
mod ddpm;
mod dpm_solver;
mod error;
mod euler;
mod generate;
mod guidance;
mod limit;
mod scheduler;
mod sigmas;
mod spacing;

#[cfg(test)]
mod tests;

pub use error::Error;
pub use generate::{
    Begin, Denoise, Half, Moment, NetworkPass, NoHooks, Progress, Request, Rows, SampleHooks,
    generate,
};
pub use guidance::Guidance;
pub(crate) use scheduler::level_at;
pub use scheduler::{Sampler, SamplerKind, Scheduler, Step};
