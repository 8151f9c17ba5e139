//! Slot `timesteps`: how noisy each sample of a training step is.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Draws the training timesteps. Exclusive.
pub trait TimestepsHook {
    /// Returns `[B]` u32 in `0..num_train_timesteps`, small near the data. Draw from [`Host::random`], so that runs resume exactly.
    ///
    /// # Errors
    /// The host refuses other shapes, types and ranges.
    fn timesteps(&mut self, at: &TimestepsIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// What is known when timesteps are drawn.
    pub struct TimestepsIn {
        /// The batch, after every `batch` hook.
        pub batch: Batch,
        /// Clean latents, `[B, C, h, w]`.
        pub latents: Tensor,
        /// Timesteps are below this.
        pub num_train_timesteps: usize,
    }
}

hook!(Timesteps, TimestepsHook, TimestepsIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.timesteps(&message, host)? })
});
