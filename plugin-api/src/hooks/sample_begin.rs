//! Slot `sample_begin`: the start of sampling.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message};

/// Sets sampling up: the first latents, the timesteps, the conditioning. Called once a batch of pictures, before the first pass of the
/// network; several plugins work one after the other. No gradients.
pub trait SampleBeginHook {
    /// Returns the setup to sample with.
    ///
    /// # Errors
    /// For inputs the method lacks, or a backbone it cannot use.
    fn sample_begin(&mut self, begin: SampleBegin, host: &Host) -> Result<SampleBegin>;
}

message! {
    /// How a batch of pictures begins; every field may be changed, except where it says otherwise.
    pub struct SampleBegin {
        /// Inputs and conditioning by name: `class_labels`, `encoder_hidden_states`, `captions`, and whatever input pictures the user
        /// gave (`images`, `sources`, `mask`, ...). Plugins add their own for the later hooks.
        pub batch: Batch,
        /// First latents: noise of the scheduler's first sigma, `[N, C, h, w]`. Height and width may be changed.
        pub latents: Tensor,
        /// Timesteps to visit, from noise to data.
        pub timesteps: Vec<f64>,
        /// Scale of classifier-free guidance; 1 is none.
        pub guidance: f64,
        /// Number of the first picture within the whole request; changes have no effect.
        pub first: u64,
        /// The request's seed; changes have no effect.
        pub seed: u64,
    }
}

hook!(SampleBegin, SampleBeginHook, SampleBegin => SampleBegin, |plugin, message, host| {
    plugin.sample_begin(message, host)
});
