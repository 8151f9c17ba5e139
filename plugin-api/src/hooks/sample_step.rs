//! Slot `sample_step`: after each denoising step.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Corrects the latents after each step of the sampler, as inpainting does with the known part. Several plugins work one after the
/// other. No gradients.
pub trait SampleStepHook {
    /// Returns the latents to go on with, of the same shape.
    ///
    /// # Errors
    /// The host refuses another shape.
    fn sample_step(&mut self, at: &SampleStepIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// One step of the sampler.
    pub struct SampleStepIn {
        /// The bag that `sample_begin` left.
        pub batch: Batch,
        /// Latents after the step, `[N, C, h, w]`.
        pub latents: Tensor,
        /// Number of the step, from 0.
        pub index: usize,
        /// Number of steps.
        pub steps: usize,
        /// The timestep the step started from.
        pub timestep: f64,
        /// The timestep it arrived at; missing after the last step, when the latents are clean.
        pub next_timestep: Option<f64>,
        /// The network's prediction, guidance included, `[N, C, h, w]`.
        pub prediction: Tensor,
        /// The clean latents it implies, `[N, C, h, w]`.
        pub x0: Tensor,
    }
}

hook!(SampleStep, SampleStepHook, SampleStepIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.sample_step(&message, host)? })
});
