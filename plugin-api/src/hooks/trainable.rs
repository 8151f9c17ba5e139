//! Slot `trainable`: which of the backbone's own parameters train.

use super::hook;
use crate::{Host, Result, message::message, services::NoIn};

/// Chooses backbone parameters to train, as a partial fine-tuning method does (biases, norms, one block).
///
/// Called once, before `prepare`. Several plugins' choices are united, with the run file's. The host trains stand-ins; the frozen
/// originals stay what [`Model::Frozen`](crate::Model::Frozen) uses.
pub trait TrainableHook {
    /// Globs over parameter names, as in `**.bias` or `transformer_blocks.*.norm1.**`; `*` stays within one part between dots,
    /// `**` does not. [`Host::parameters`] lists the names.
    ///
    /// # Errors
    /// The host refuses a glob that matches nothing.
    fn trainable(&mut self, host: &Host) -> Result<Vec<String>>;
}

message! {
    /// The choice.
    pub struct TrainableOut {
        /// Globs over parameter names.
        pub globs: Vec<String>,
    }
}

hook!(Trainable, TrainableHook, NoIn => TrainableOut, |plugin, _message, host| {
    Ok(TrainableOut { globs: plugin.trainable(host)? })
});
