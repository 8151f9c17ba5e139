//! Slot `batch`: the loaded batch before anything is computed from it.

use super::hook;
use crate::{Batch, Host, Result, message::message};

/// Changes the loaded batch: mixes in other samples, joins pictures on one canvas, marks samples for later hooks.
///
/// Called at each training step (each micro-batch, when accumulating), before pictures are encoded. Several plugins work one after the
/// other. Tensors carry no gradients.
pub trait BatchHook {
    /// Returns the batch to train on. Every per-sample tensor and text must keep one entry a sample; the number of samples and the
    /// size of pictures may change. A batch with `latents`, `[B, C, h, w]`, is trained on these, and its `images` are not encoded.
    ///
    /// # Errors
    /// For data the method cannot use.
    fn batch(&mut self, batch: Batch, host: &Host) -> Result<Batch>;
}

message! {
    /// A batch, on its way in and on its way out.
    pub struct BatchMessage {
        /// The batch.
        pub batch: Batch,
    }
}

hook!(Batch, BatchHook, BatchMessage => BatchMessage, |plugin, message, host| {
    Ok(BatchMessage { batch: plugin.batch(message.batch, host)? })
});
