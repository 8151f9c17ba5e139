//! Slot `noise`: the noise of a training step.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Makes the training noise. Exclusive.
pub trait NoiseHook {
    /// Returns noise of the latents' shape, `[B, C, h, w]` f32: standard normal, zeros, several resolutions, whatever the method wants.
    ///
    /// # Errors
    /// The host refuses other shapes.
    fn noise(&mut self, at: &NoiseIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// What is known when noise is made.
    pub struct NoiseIn {
        /// The batch, after every `batch` hook.
        pub batch: Batch,
        /// Clean latents, `[B, C, h, w]`.
        pub latents: Tensor,
        /// `[B]` u32.
        pub timesteps: Tensor,
    }
}

hook!(Noise, NoiseHook, NoiseIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.noise(&message, host)? })
});
