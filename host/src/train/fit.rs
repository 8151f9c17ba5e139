//! The loop around the step: metrics, progress, checkpoints, and stopping at the right moment.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::cancel::Cancel;
use crate::report::{EventWriter, MetricsLog, Progress, StepMetrics};

use super::{Error, Trainer, checkpoint};

/// How a loop ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// Someone asked to stop; the last whole step is saved in this folder, if there was one.
    Interrupted(Option<PathBuf>),
}

/// A run folder's step-by-step records.
pub struct Records {
    metrics: MetricsLog,
    events: Option<EventWriter>,
}

impl Records {
    /// Opens the records of a run with `done` steps behind it; what they say of later steps is dropped.
    ///
    /// # Errors
    /// Files that cannot be read or written.
    pub fn open(run: &Path, done: u64, tensorboard: bool) -> Result<Self, Error> {
        Ok(Self {
            metrics: MetricsLog::open(&run.join("metrics.jsonl"), done)?,
            events: if tensorboard {
                Some(EventWriter::create(run, done)?)
            } else {
                None
            },
        })
    }

    /// Notes a step.
    ///
    /// # Errors
    /// The files cannot be written.
    pub(super) fn append(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        self.metrics.append(metrics)?;
        if let Some(events) = &mut self.events {
            events.step(metrics)?;
        }
        Ok(())
    }

    /// Puts what was noted on the disk, before a checkpoint that is not to be ahead of it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn sync(&mut self) -> Result<(), Error> {
        Ok(self.metrics.sync()?)
    }

    /// Sample grids for TensorBoard, each a kind (empty for the main one) and its PNG.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn images(&mut self, step: u64, grids: &[(String, Vec<u8>)]) -> Result<(), Error> {
        let Some(events) = &mut self.events else {
            return Ok(());
        };
        for (kind, png) in grids {
            let tag = match kind.as_str() {
                "" => "samples".to_owned(),
                kind => format!("samples/{kind}"),
            };
            events.image(step, &tag, png)?;
        }
        Ok(())
    }
}

impl Trainer {
    /// Trains up to the last step. `between` is called after every step with how many are done.
    ///
    /// # Errors
    /// What a step, a record, a checkpoint or `between` fails with. When a step fails, the last whole one is saved first.
    pub fn fit(
        &mut self,
        run: &Path,
        records: &mut Records,
        progress: &Progress,
        cancel: &Cancel,
        between: &mut dyn FnMut(&mut Self, &mut Records) -> Result<(), Error>,
    ) -> Result<Ending, Error> {
        let steps = self.settings.steps;
        let mut task = progress.train(self.done, steps);
        while self.done < steps {
            let metrics = match self.measured_step() {
                Ok(metrics) => metrics,
                Err(error) => {
                    let place = self.checkpoint(run)?;
                    tracing::error!(
                        "step {} failed; the last good step is saved in `{}`",
                        self.done + 1,
                        place.display()
                    );
                    return Err(error);
                }
            };
            records.append(&metrics)?;
            task.tick(self.done, metrics.loss, metrics.step_ms);

            let every = self.settings.checkpoint_every;
            let ended = self.done == steps || self.session.stop.borrow().is_some();
            let interrupted = cancel.requested() && !ended;
            if ended || interrupted || (every > 0 && self.done.is_multiple_of(every)) {
                records.sync()?;
                let place = self.checkpoint(run)?;
                checkpoint::prune(run, self.settings.keep_checkpoints);
                if interrupted {
                    return Ok(Ending::Interrupted(Some(place)));
                }
            }
            if ended {
                break;
            }
            between(self, records)?;
        }
        task.finish();
        Ok(Ending::Finished)
    }

    /// One step, with how long it and each part of it took.
    ///
    /// # Errors
    /// As [`Trainer::step`].
    pub(super) fn measured_step(&mut self) -> Result<StepMetrics, Error> {
        let start = Instant::now();
        let session = self.session.clone();
        let whole = session.profiler.step();
        let result = session.stack().and_then(|stack| self.step(stack));
        drop(whole);
        let mut metrics = result?;
        let seconds = start.elapsed().as_secs_f64();
        let samples = (self.settings.batch_size * self.settings.accumulation) as f64;
        metrics.step_ms = seconds * 1e3;
        metrics.samples_per_s = samples / seconds;
        let times = session.profiler.finish_step();
        let parts = times.parts.into_iter();
        metrics.named.extend(
            parts
                .chain(times.boundary.map(|time| ("boundary".to_owned(), time)))
                .map(|(name, time)| (format!("time/{name}"), time)),
        );
        Ok(metrics)
    }
}
