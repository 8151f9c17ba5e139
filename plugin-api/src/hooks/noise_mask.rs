//! Slot `noise_mask`: where noise goes, and with it what the network has to predict.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Limits noise to a part of the picture: `noisy = mask * noisy + (1 - mask) * latents`. Exclusive.
///
/// The default objective counts only where the mask is 1, unless the batch has a `loss_mask` of its own.
pub trait NoiseMaskHook {
    /// Returns `[B, 1, h, w]` f32 in 0..1, of the latents' height and width: 1 where noise goes.
    ///
    /// # Errors
    /// The host refuses other shapes.
    fn noise_mask(&mut self, at: &NoiseMaskIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// What is known when the mask is made.
    pub struct NoiseMaskIn {
        /// The batch, after every `batch` hook.
        pub batch: Batch,
        /// Clean latents, `[B, C, h, w]`.
        pub latents: Tensor,
        /// `[B]` u32.
        pub timesteps: Tensor,
    }
}

hook!(NoiseMask, NoiseMaskHook, NoiseMaskIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.noise_mask(&message, host)? })
});
