//! Slot `denoiser_input`: what the network sees.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message, services::TensorOut};

/// Makes the network's input from the noisy latents: joins others to the channels, or puts others in their place. Exclusive.
///
/// Called before each pass of the network, in training and in sampling ([`Host::phase`] tells which). A network whose first layer must
/// take more channels gets a wider one through [`Host::stand_in`].
pub trait DenoiserInputHook {
    /// Returns `[B, C', h, w]`, with the channels the network takes.
    ///
    /// # Errors
    /// The host refuses shapes the network cannot take.
    fn denoiser_input(&mut self, at: &DenoiserInputIn, host: &Host) -> Result<Tensor>;
}

message! {
    /// What is known before a pass of the network.
    pub struct DenoiserInputIn {
        /// The batch; in sampling the bag that `sample_begin` left, with the conditioning of this pass.
        pub batch: Batch,
        /// Noisy latents, `[B, C, h, w]`.
        pub noisy_latents: Tensor,
        /// `[B]`: u32 in training, f32 in sampling.
        pub timesteps: Tensor,
        /// Clean latents, `[B, C, h, w]`; missing in sampling.
        pub latents: Option<Tensor>,
        /// Whether this is the unconditional pass of guidance: the host's conditioning is none (the null class), all else as it was.
        pub unconditional: bool,
    }
}

hook!(DenoiserInput, DenoiserInputHook, DenoiserInputIn => TensorOut, |plugin, message, host| {
    Ok(TensorOut { tensor: plugin.denoiser_input(&message, host)? })
});
