//! What moves during training: parameters, optimizer, averages, random streams and the data order; and how it is saved and restored.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::Var;

use crate::backbone::{Backbone, Overlay};
use crate::config::TrainSection;
use crate::data::{Dataset, Loader, LoaderState};
use crate::diffusion::{Process, Weighting};
use crate::encode::Encoder;
use crate::ops::optim::{AdamW, AdamWConfig};
use crate::random::Streams;
use crate::report::Profiler;

use super::checkpoint::{Checkpoint, State};
use super::parameters::{Ema, Parameters};
use super::schedule::LearningRate;
use super::{Error, Owner, selection};

/// What stays as it is while a run trains.
pub struct Session {
    /// The frozen pretrained network.
    pub backbone: Backbone,
    /// Its diffusion process.
    pub process: Process,
    /// Between images and its latents.
    pub encoder: Encoder,
    /// Where the time goes.
    pub profiler: Profiler,
}

/// A run between two steps.
pub struct Trainer {
    pub(super) session: Arc<Session>,
    pub(super) settings: TrainSection,
    pub(super) weighting: Option<Weighting>,
    pub(super) rate: LearningRate,
    pub(super) parameters: Parameters,
    /// The parameters that stand in for backbone tensors; shares their storage.
    pub(super) overlay: Overlay,
    pub(super) optimizer: AdamW,
    pub(super) optimizer_vars: Vec<(String, Var)>,
    pub(super) ema: Option<Ema>,
    pub(super) streams: Streams,
    pub(super) loader: Loader,
    /// Optimizer steps done.
    pub(super) done: u64,
    /// Streams and data order after the last whole step: a step that fails half-way has moved the live ones.
    position: State,
}

impl Trainer {
    /// Stands before the first step, or after the last step of `resumed`.
    ///
    /// # Errors
    /// A selection without a match, nothing to train, or a checkpoint that does not fit the settings.
    pub fn new(
        session: Arc<Session>,
        settings: TrainSection,
        trainable: &[String],
        dataset: Arc<dyn Dataset>,
        workers: usize,
        resumed: Option<Checkpoint>,
    ) -> Result<Self, Error> {
        let (saved_values, saved_moments, saved_ema, state) = match resumed {
            Some(checkpoint) => (checkpoint.parameters, checkpoint.moments, checkpoint.ema, Some(checkpoint.state)),
            None => Default::default(),
        };
        let mut parameters = Parameters::new(saved_values);
        let frozen: std::collections::HashMap<&str, _> = session.backbone.parameters().collect();
        let names: Vec<&str> = session.backbone.parameters().map(|(name, _)| name).collect();
        for name in selection::select(trainable, &names)? {
            parameters.add(name.to_owned(), Owner::Backbone, frozen[name])?;
        }
        if parameters.is_empty() {
            return Err(Error::NothingTrains);
        }
        parameters.refuse_unclaimed()?;

        let optimizer_vars: Vec<(String, Var)> =
            parameters.iter().map(|parameter| (parameter.name.clone(), parameter.var.clone())).collect();
        let mut optimizer = AdamW::new(
            optimizer_vars.clone(),
            AdamWConfig {
                lr: settings.lr,
                betas: (settings.betas[0], settings.betas[1]),
                eps: settings.eps,
                weight_decay: settings.weight_decay,
            },
        )?;
        if state.is_some() {
            optimizer.load_state(&saved_moments)?;
        }
        let ema = match settings.ema_decay {
            0.0 => None,
            decay => Some(Ema::new(decay, &parameters, saved_ema)?),
        };
        let streams = match &state {
            Some(state) => Streams::restore(settings.seed, &state.streams),
            None => Streams::new(settings.seed),
        };
        let place = state.as_ref().map_or_else(LoaderState::default, |state| state.loader);
        let loader = Loader::new(dataset, place, settings.seed, settings.batch_size, workers)?;
        let done = state.as_ref().map_or(0, |state| state.step);
        let position = state.unwrap_or_else(|| State::new(0, place));
        Ok(Self {
            weighting: weighting(&settings),
            rate: LearningRate {
                base: settings.lr,
                shape: settings.schedule,
                warmup_steps: settings.warmup_steps as usize,
                total_steps: settings.steps as usize,
                final_ratio: settings.final_ratio,
            },
            overlay: parameters.overlay(),
            session,
            settings,
            parameters,
            optimizer,
            optimizer_vars,
            ema,
            streams,
            loader,
            done,
            position,
        })
    }

    /// Optimizer steps done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The trained stand-ins for backbone tensors: their averages where the run keeps them.
    pub fn best_overlay(&self) -> Overlay {
        match &self.ema {
            Some(ema) => {
                let averages = ema.values();
                self.overlay.iter().map(|(name, value)| (name.clone(), averages.get(name).unwrap_or(value).clone())).collect()
            }
            None => self.overlay.clone(),
        }
    }

    /// Remembers this place as the end of a whole step.
    pub(super) fn mark(&mut self) {
        self.position = State::new(self.done, self.loader.state());
        self.position.streams = self.streams.state();
    }

    /// Saves the last whole step in the run folder and gives the checkpoint's folder.
    ///
    /// # Errors
    /// Anything the disk refuses.
    pub fn checkpoint(&self, run: &Path) -> Result<PathBuf, Error> {
        let checkpoint = Checkpoint {
            state: self.position.clone(),
            parameters: self.parameters.values(),
            moments: self.optimizer.state()?,
            ema: self.ema.as_ref().map(|ema| ema.values().clone()).unwrap_or_default(),
        };
        checkpoint.save(run)
    }
}

fn weighting(settings: &TrainSection) -> Option<Weighting> {
    use crate::config::Weighting as Chosen;
    let gamma = settings.weighting_gamma.unwrap_or(settings.weighting.default_gamma());
    match settings.weighting {
        Chosen::None => None,
        Chosen::MinSnr => Some(Weighting::MinSnr { gamma }),
        Chosen::P2 => Some(Weighting::P2 { k: 1.0, gamma }),
    }
}
