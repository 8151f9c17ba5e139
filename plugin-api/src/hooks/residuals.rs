//! Slot `residuals`: additions between the backbone's blocks.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message};

/// Adds to the backbone's activations at its residual sites, as ControlNet does. Several plugins' additions are summed.
///
/// Called before each pass of the network, in training and in sampling.
pub trait ResidualsHook {
    /// Returns one entry a site ([`BackboneInfo::residual_sites`](crate::BackboneInfo::residual_sites) of them), `None` where nothing is
    /// added. Shapes are the activations': for a DiT `[B, T, D]` after each block.
    ///
    /// # Errors
    /// The host refuses another number of entries or other shapes.
    fn residuals(&mut self, at: &ResidualsIn, host: &Host) -> Result<Vec<Option<Tensor>>>;
}

message! {
    /// What is known before a pass of the network.
    pub struct ResidualsIn {
        /// The batch, or in sampling the bag that `sample_begin` left, with the conditioning of this pass.
        pub batch: Batch,
        /// What the network sees, after `denoiser_input`, `[B, C, h, w]`.
        pub input: Tensor,
        /// `[B]`: u32 in training, f32 in sampling.
        pub timesteps: Tensor,
        /// Whether this is the unconditional pass of guidance: the host's conditioning is none (the null class), all else as it was.
        pub unconditional: bool,
    }
}

message! {
    /// The additions.
    pub struct ResidualsOut {
        /// One entry a site.
        pub residuals: Vec<Option<Tensor>>,
    }
}

hook!(Residuals, ResidualsHook, ResidualsIn => ResidualsOut, |plugin, message, host| {
    Ok(ResidualsOut { residuals: plugin.residuals(&message, host)? })
});
