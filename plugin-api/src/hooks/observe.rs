//! Slot `observe`: a look at each finished step.

use std::collections::BTreeMap;

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::Nothing};

/// Watches training: records metrics ([`Host::metric`]), adapts a schedule, ends the run early ([`Host::stop`]).
///
/// Called after each optimizer step; when batches are accumulated, with the last one. Tensors are cut from the graph.
pub trait ObserveHook {
    /// Looks at the step.
    ///
    /// # Errors
    /// Ends the run, as any hook's.
    fn observe(&mut self, at: &ObserveIn, host: &Host) -> Result<()>;
}

message! {
    /// One finished step; its number is [`Host::step`].
    pub struct ObserveIn {
        /// The step's loss: weighted, with every term, averaged over accumulated batches.
        pub loss: f64,
        /// The samples' losses before weighing, `[B]` f32.
        pub sample_loss: Tensor,
        /// The samples' weights, `[B]` f32; missing means ones.
        pub loss_weight: Option<Tensor>,
        /// Norm of the gradient before clipping.
        pub grad_norm: f64,
        /// Learning rate of the step.
        pub learning_rate: f64,
        /// Numbers recorded for this step so far, by name.
        pub metrics: BTreeMap<String, f64>,
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
        /// The network's prediction without learned variance, `[B, C, h, w]`.
        pub prediction: Tensor,
        /// What the network should have predicted, `[B, C, h, w]`.
        pub target: Tensor,
    }
}

hook!(Observe, ObserveHook, ObserveIn => Nothing, |plugin, message, host| {
    plugin.observe(&message, host)?;
    Ok(Nothing {})
});
