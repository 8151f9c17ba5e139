//! Trains a network that is no denoiser from nothing: the same optimizer, averages, data order, checkpoints and records as a run, around one function
//! from a batch to a loss.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{DType, Device, Tensor};

use super::super::checkpoint::{self, Checkpoint, State};
use super::super::fit::{Ending, Records};
use super::super::optimizer::Optimizer;
use super::super::step::accumulate;
use super::super::{Ema, Error, Feed, LearningRate, Owner, Parameters};
use crate::backbone::Overlay;
use crate::cancel::Cancel;
use crate::config::TrainSection;
use crate::data::{Batch, Dataset};
use crate::ops::autograd::Recording;
use crate::ops::optim::{clip_scale, grad_norm};
use crate::random::{Stream, Streams};
use crate::report::{Profile, Progress, StepMetrics};

/// What a batch costs.
pub(super) struct Loss {
    /// What is differentiated, a scalar.
    pub(super) total: Tensor,
    /// Its parts by name, for the records.
    pub(super) parts: BTreeMap<String, f64>,
}

/// A network in training.
pub(super) struct Module {
    settings: TrainSection,
    rate: LearningRate,
    parameters: Parameters,
    optimizer: Optimizer,
    ema: Option<Ema>,
    feed: Feed,
    streams: Streams,
    done: u64,
}

impl Module {
    /// Begins with these parameters, or goes on from the newest checkpoint of the run folder.
    ///
    /// # Errors
    /// Data that cannot be read, or a checkpoint of other settings.
    pub(super) fn new<'a>(
        start: impl Iterator<Item = (&'a str, &'a Tensor)>,
        settings: TrainSection,
        (dataset, workers): (Arc<dyn Dataset>, usize),
        resumed: Option<&Checkpoint>,
    ) -> Result<Self, Error> {
        let mut parameters = resumed
            .map(|checkpoint| Parameters::saved(checkpoint.parameters.clone(), false))
            .unwrap_or_default();
        for (name, value) in start {
            // One-dimensional parameters are biases and the scales of norms, which do not decay.
            parameters.add(name.to_owned(), Owner::Backbone, value.rank() > 1, value)?;
        }
        parameters.refuse_unclaimed()?;
        let mut optimizer = Optimizer::new(&parameters, &settings, &BTreeMap::new())?;
        let mut streams = Streams::new(settings.seed);
        let averages = resumed.map(|checkpoint| checkpoint.ema.clone());
        let ema = match settings.ema_decay {
            0.0 => None,
            decay => Some(Ema::new(decay, &parameters, averages.unwrap_or_default())?),
        };
        if let Some(checkpoint) = resumed {
            optimizer.load_state(&checkpoint.moments, false)?;
            streams.continue_from(&checkpoint.state.streams);
        }
        Ok(Self {
            rate: LearningRate::of(&settings),
            feed: Feed::data(dataset, &settings, workers.max(1), resumed)?,
            done: resumed.map_or(0, |checkpoint| checkpoint.state.step),
            parameters,
            optimizer,
            ema,
            streams,
            settings,
        })
    }

    /// Trains up to the last step.
    ///
    /// # Errors
    /// What `loss` fails with, a loss that is no number, or a disk that refuses; the last checkpoint stays.
    pub(super) fn fit(
        &mut self,
        run: &Path,
        progress: &Progress,
        cancel: &Cancel,
        loss: &dyn Fn(&Overlay, &Batch, &mut Stream) -> Result<Loss, Error>,
    ) -> Result<Ending, Error> {
        let steps = self.settings.steps;
        let mut records = Records::open(run, self.done, self.settings.tensorboard)?;
        let mut task = progress.train(self.done, steps);
        let overlay = self.parameters.overlay();
        while self.done < steps {
            let started = Instant::now();
            let mut metrics = self.step(&overlay, loss)?;
            let seconds = started.elapsed().as_secs_f64();
            metrics.step_ms = seconds * 1e3;
            metrics.samples_per_s =
                (self.settings.batch_size * self.settings.accumulation) as f64 / seconds;
            records.append(&metrics)?;
            task.tick(self.done, metrics.loss, metrics.step_ms);

            let every = self.settings.checkpoint_every;
            let interrupted = cancel.requested() && self.done < steps;
            let due = every > 0 && self.done.is_multiple_of(every);
            if due || interrupted || self.done == steps {
                records.sync()?;
                let place = self.checkpoint()?.save(run)?;
                checkpoint::prune(run, self.settings.keep_checkpoints);
                if interrupted {
                    return Ok(Ending::Interrupted(Some(place)));
                }
            }
        }
        task.finish();
        Ok(Ending::Finished)
    }

    fn step(
        &mut self,
        overlay: &Overlay,
        loss: &dyn Fn(&Overlay, &Batch, &mut Stream) -> Result<Loss, Error>,
    ) -> Result<StepMetrics, Error> {
        let accumulation = self.settings.accumulation;
        let step = self.done + 1;
        let (mut gradients, mut named) = (BTreeMap::new(), BTreeMap::new());
        let mut mean = 0.0;
        for _ in 0..accumulation {
            let start = self.feed.next(&Device::Cpu)?;
            let recording = Recording::start();
            let Loss { total, parts } = loss(overlay, &start.batch, self.streams.get("loss"))?;
            let value = f64::from(total.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            Error::refuse_non_finite("loss", step, value)?;
            mean += value / accumulation as f64;
            for (name, part) in parts {
                *named.entry(name).or_insert(0.0) += part / accumulation as f64;
            }
            let mut found = recording.backward(&total)?;
            accumulate(&mut gradients, &mut found, &self.parameters)?;
        }
        let norm = grad_norm(gradients.values())? / accumulation as f64;
        Error::refuse_non_finite("gradient norm", step, norm)?;
        let clip = match self.settings.clip {
            0.0 => 1.0,
            longest => clip_scale(norm, longest),
        };
        let lr = self.rate.at(self.done as usize);
        let averages = self.ema.as_mut().map(|ema| ema.at(step));
        (self.optimizer).step(lr, &gradients, clip / accumulation as f64, averages)?;
        self.done = step;
        Ok(StepMetrics {
            step,
            loss: mean,
            lr,
            grad_norm: norm,
            named,
            ..StepMetrics::default()
        })
    }

    fn checkpoint(&self) -> Result<Checkpoint, Error> {
        let mut state = State::new(self.done, self.feed.state());
        state.streams = self.streams.state();
        Ok(Checkpoint {
            state,
            plugins: Vec::new(),
            parameters: self.parameters.values(),
            moments: self.optimizer.state()?,
            ema: self.averages().cloned().unwrap_or_default(),
            profile: Profile::default(),
            lenient: false,
        })
    }

    fn averages(&self) -> Option<&BTreeMap<String, Tensor>> {
        self.ema.as_ref().map(Ema::values)
    }

    /// The trained values: their averages where the recipe keeps them.
    pub(super) fn best(&self) -> Overlay {
        (self.averages().cloned()).unwrap_or_else(|| self.parameters.values())
    }
}
