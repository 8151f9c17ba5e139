//! Slot `sample_begin`: the start of sampling.

use super::hook;
use crate::{Batch, Host, Result, Tensor, message::message};

/// Sets sampling up: the first latents, the timesteps, the conditioning. Called once a batch of pictures, before the first pass of the
/// network; several plugins work one after the other. No gradients.
pub trait SampleBeginHook {
    /// Returns the setup to sample with.
    ///
    /// # Errors
    /// For inputs the method lacks, or a backbone it cannot use. The host refuses timesteps that no sampler can follow, a scale below 0, and
    /// another number of samples.
    fn sample_begin(&mut self, begin: SampleBegin, host: &Host) -> Result<SampleBegin>;
}

message! {
    /// How a batch of pictures begins; every field may be changed, except where it says otherwise.
    pub struct SampleBegin {
        /// Inputs and conditioning by name, one row a sample: `class_labels`, `encoder_hidden_states`, `captions`, and whatever input
        /// pictures there are: those of the data, as in training (`images`, `source`, `mask`, ...). Plugins add their own for the later hooks, which all get this bag. Without
        /// `class_labels` the samples are of no class.
        pub batch: Batch,
        /// First latents: noise of the scheduler's first sigma, `[N, C, h, w]`. Height and width may be changed. They do not follow
        /// changed timesteps: who begins at a cleaner one brings latents of its level.
        pub latents: Tensor,
        /// Timesteps to visit, from noise to data. Changed ones fall strictly, from `num_train_timesteps - 1` at most to 0 at least; a
        /// single one is fine, and so are fractions. The last step goes to clean latents.
        pub timesteps: Vec<f64>,
        /// Scale of guidance, 0 or more; 1 is none.
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
