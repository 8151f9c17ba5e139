//! Slot `loss_weight`: how much each sample counts.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Weighs the samples' losses. The step's loss is the mean over the batch of `weight * loss`; several plugins' weights are multiplied.
pub trait LossWeightHook {
    /// Returns `[B]` f32, not negative.
    ///
    /// # Errors
    /// The host refuses other shapes.
    fn loss_weight(&mut self, at: &LossWeightIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// What is known when losses are weighed.
    pub struct LossWeightIn {
        /// The batch, after every `batch` hook.
        pub batch: Batch,
        /// `[B]` u32.
        pub timesteps: Tensor,
        /// The samples' losses, `[B]` f32, cut from the graph.
        pub loss: Tensor,
        /// Timesteps are below this.
        pub num_train_timesteps: usize,
    }
}

hook!(LossWeight, LossWeightHook, LossWeightIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.loss_weight(&message, host)? })
});
