//! Slot `loss_term`: a loss beside the objective.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Adds a term to the step's loss: a regulariser, a distillation loss, a penalty on parameters. Several plugins' terms are summed.
pub trait LossTermHook {
    /// Returns a scalar f32, already scaled; gradients flow back from it. It is reported as `plugin/<id>/loss_term`.
    ///
    /// # Errors
    /// The host refuses what is no scalar, and stops at a value that is not finite.
    fn loss_term(&mut self, at: &LossTermIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// One training step up to the loss.
    pub struct LossTermIn {
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
        /// The samples' losses before weighing, `[B]` f32, with gradients.
        pub loss: Tensor,
    }
}

hook!(LossTerm, LossTermHook, LossTermIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.loss_term(&message, host)? })
});
