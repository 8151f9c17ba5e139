//! What each training step begins with: the next batch of a dataset, or inputs that were fixed before.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::Error;
use super::checkpoint::Checkpoint;
use crate::config::TrainSection;
use crate::data::{Batch, Dataset, Loader, LoaderState};

/// The inputs of one forward pass.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// The data.
    pub batch: Batch,
    /// Timesteps `[B]` u32 in place of the default draw; a plugin on the slot still goes first.
    pub timesteps: Option<Tensor>,
    /// Noise `[B, C, H, W]` in place of the default draw, the noise offset included; a plugin on the slot still goes first.
    pub noise: Option<Tensor>,
}

impl Start {
    /// The same on a device.
    fn on(mut self, device: &Device) -> Result<Self, Error> {
        let own = [&mut self.timesteps, &mut self.noise];
        let tensors = own.into_iter().flatten();
        for tensor in tensors.chain(self.batch.tensors.values_mut()) {
            *tensor = tensor.to_device(device)?;
        }
        Ok(self)
    }
}

impl From<Batch> for Start {
    fn from(batch: Batch) -> Self {
        Self {
            batch,
            ..Self::default()
        }
    }
}

/// Where the inputs of the steps come from.
pub enum Feed {
    /// Batches of a dataset; all else is drawn.
    Data(Box<Loader>),
    /// Inputs by step, begun again after the last.
    Fixed {
        /// The inputs, at least one.
        starts: Vec<Start>,
        /// Which of them is next.
        next: usize,
    },
}

impl Feed {
    /// Batches of a dataset, from where `resumed` stands in it, decoded by `workers` threads.
    ///
    /// # Errors
    /// What the loader refuses: no data, a batch of nothing, a place beyond the data.
    pub fn data(
        dataset: Arc<dyn Dataset>,
        settings: &TrainSection,
        workers: usize,
        resumed: Option<&Checkpoint>,
    ) -> Result<Self, Error> {
        let mut place =
            resumed.map_or_else(LoaderState::default, |checkpoint| checkpoint.state.loader);
        let lenient = resumed.is_some_and(|checkpoint| checkpoint.lenient);
        if lenient && place.position > dataset.len() {
            tracing::warn!(
                "the data have fewer items than the checkpoint had seen, so they begin anew"
            );
            place = LoaderState::default();
        }
        let loader = Loader::new(dataset, place, settings.seed, settings.batch_size, workers)?;
        Ok(Self::Data(Box::new(loader)))
    }

    /// The same inputs in every run; `starts` must not be empty.
    pub fn fixed(starts: Vec<Start>) -> Self {
        Self::Fixed { starts, next: 0 }
    }

    /// The next pass's inputs; waits for them where the threads of a loader are behind.
    ///
    /// # Errors
    /// Data that cannot be read at all.
    pub(super) fn next(&mut self, device: &Device) -> Result<Start, Error> {
        let start = match self {
            Self::Data(loader) => loader.next_batch()?.into(),
            Self::Fixed { starts, next } => {
                let start = starts.get(*next).cloned().ok_or(Error::NoImages)?;
                *next = (*next + 1) % starts.len();
                start
            }
        };
        start.on(device)
    }

    /// The place in the data, for a checkpoint.
    pub(super) fn state(&self) -> LoaderState {
        match self {
            Self::Data(loader) => loader.state(),
            Self::Fixed { next, .. } => LoaderState {
                epoch: 0,
                position: *next,
            },
        }
    }

    /// The files that could not be read so far, with the reasons.
    pub(super) fn skipped(&self) -> Vec<(String, String)> {
        match self {
            Self::Data(loader) => loader
                .bad_items()
                .map(|(name, reason)| (name.to_owned(), reason.to_owned()))
                .collect(),
            Self::Fixed { .. } => Vec::new(),
        }
    }
}
