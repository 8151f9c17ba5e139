//! Slot `objective`: the loss of each sample.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Replaces the loss: the default is the squared error of prediction and target, averaged over each sample where its loss mask is 1
/// (with the variational term for a learned variance). Exclusive.
pub trait ObjectiveHook {
    /// Returns `[B]` f32, one loss a sample, unweighted; gradients flow back from it. A sample without anything to learn from
    /// contributes 0, not NaN.
    ///
    /// # Errors
    /// The host refuses other shapes, and stops at values that are not finite.
    fn objective(&mut self, at: &ObjectiveIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// One training step up to the prediction.
    pub struct ObjectiveIn {
        /// The batch, after every `batch` hook.
        pub batch: Batch,
        /// Clean latents, `[B, C, h, w]`.
        pub latents: Tensor,
        /// Noise, `[B, C, h, w]`.
        pub noise: Tensor,
        /// `[B]` u32.
        pub timesteps: Tensor,
        /// Noisy latents, `[B, C, h, w]`.
        pub noisy_latents: Tensor,
        /// The network's prediction without learned variance, `[B, C, h, w]`, with gradients.
        pub prediction: Tensor,
        /// What the network should have predicted, `[B, C, h, w]`.
        pub target: Tensor,
        /// Where the default objective counts, `[B, 1, h, w]` in 0..1; missing means everywhere.
        pub loss_mask: Option<Tensor>,
    }
}

hook!(Objective, ObjectiveHook, ObjectiveIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.objective(&message, host)? })
});
