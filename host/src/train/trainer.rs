//! What moves during training, beside what the session holds: optimizer, averages, the data order; and how all of it is saved and restored.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use plugin_api::Phase;

use crate::backbone::Overlay;
use crate::config::TrainSection;
use crate::data::LoaderState;
use crate::diffusion::Weighting;
use crate::plugin::stack::{PluginState, Stack};

use super::checkpoint::{Checkpoint, State};
use super::optimizer::Optimizer;
use super::parameters::{Ema, Owner, Parameters, Swapped};
use super::scales::Scales;
use super::schedule::LearningRate;
use super::{Error, Feed, Session, selection};

/// A run between two steps.
pub struct Trainer {
    pub(super) session: Rc<Session>,
    pub(super) settings: TrainSection,
    pub(super) weighting: Option<Weighting>,
    pub(super) rate: LearningRate,
    /// What stands in for backbone tensors; shares the parameters' storage.
    pub(super) overlay: Overlay,
    pub(super) optimizer: Optimizer,
    pub(super) ema: Option<Ema>,
    pub(super) feed: Feed,
    /// Optimizer steps done.
    pub(super) done: u64,
    /// Where everything random, the data and the plugins stood after the last whole step: a step that fails half-way has moved the live ones.
    position: (State, Vec<PluginState>),
}

impl Trainer {
    /// Prepares a run: the plugins' `trainable` and `prepare`, all parameters, and what `resumed` saved of them.
    ///
    /// `trainable` is the run file's selection; none is `auto`: all of the backbone unless a plugin brings parameters. The session must have been
    /// made with the parameters and streams of `resumed`, and `feed` at its place in the data.
    ///
    /// # Errors
    /// A plugin that fails, a selection without a match, nothing to train, or a checkpoint that does not fit the settings.
    pub fn new(
        session: Rc<Session>,
        mut stack: Stack,
        settings: TrainSection,
        trainable: Option<&[String]>,
        feed: Feed,
        resumed: Option<&Checkpoint>,
    ) -> Result<Self, Error> {
        let done = resumed.map_or(0, |checkpoint| checkpoint.state.step);
        prepare(&session, &mut stack, trainable, done)?;

        let mut optimizer;
        let ema;
        {
            let parameters = session.parameters.borrow();
            if parameters.is_empty() {
                return Err(Error::NothingTrains);
            }
            optimizer = Optimizer::new(&parameters, &settings, &session.facts.rates)?;
            let averages = resumed
                .map(|checkpoint| checkpoint.ema.clone())
                .unwrap_or_default();
            ema = match settings.ema_decay {
                0.0 => None,
                decay => Some(Ema::new(decay, &parameters, averages)?),
            };
        }
        let mut position = (State::new(0, LoaderState::default()), Vec::new());
        if let Some(checkpoint) = resumed {
            session.profiler.resume(&checkpoint.profile);
            optimizer.load_state(&checkpoint.moments, checkpoint.lenient)?;
            let scene = session.scene(done, Phase::CHECKPOINT);
            stack.load_state(&scene, &checkpoint.plugins, checkpoint.lenient)?;
            // Preparing may have drawn numbers, as it did in the first session; the checkpoint knows what came after that.
            session
                .streams
                .borrow_mut()
                .continue_from(&checkpoint.state.streams);
            position = (checkpoint.state.clone(), checkpoint.plugins.clone());
        }
        let overlay = session.overlay();
        session.backbone.check_overlay(&overlay)?;
        session.begin(stack);
        session.step.set(done);
        let mut trainer = Self {
            weighting: weighting(&settings),
            rate: LearningRate::of(&settings),
            session,
            settings,
            overlay,
            optimizer,
            ema,
            feed,
            done,
            position,
        };
        if resumed.is_none() {
            trainer.mark()?;
        }
        Ok(trainer)
    }

    /// Optimizer steps done.
    pub fn done(&self) -> u64 {
        self.done
    }

    /// The files that could not be read so far, with the reasons.
    pub fn skipped_files(&self) -> Vec<(String, String)> {
        self.feed.skipped()
    }

    /// The trained stand-ins for backbone tensors: their averages where the run keeps them.
    pub fn best_overlay(&self) -> Overlay {
        let averages = self.ema.as_ref().map(Ema::values);
        let best = |name: &String| averages.and_then(|averages| averages.get(name)).cloned();
        self.overlay
            .iter()
            .map(|(name, value)| (name.clone(), best(name).unwrap_or_else(|| value.clone())))
            .collect()
    }

    /// Does something with the averaged parameters in place, where the run keeps them; plugins see them too.
    ///
    /// # Errors
    /// What `work` fails with; the trained values are back in any case.
    pub fn with_averages<T>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let Some(ema) = &self.ema else {
            return work(self);
        };
        let parameters: Vec<_> = self.session.parameters.borrow().iter().cloned().collect();
        let swapped = Swapped::new(&parameters, ema.values())?;
        let result = work(self);
        swapped.restore()?;
        result
    }

    /// Remembers this place as the end of a whole step.
    pub(super) fn mark(&mut self) -> Result<(), Error> {
        let mut state = State::new(self.done, self.feed.state());
        state.streams = self.session.streams.borrow().state();
        let scene = self.session.scene(self.done, Phase::CHECKPOINT);
        self.position = (state, self.session.stack()?.save_state(&scene)?);
        Ok(())
    }

    /// Saves the last whole step in the run folder and gives the checkpoint's folder.
    ///
    /// # Errors
    /// Anything the disk refuses.
    pub fn checkpoint(&self, run: &Path) -> Result<PathBuf, Error> {
        let (state, plugins) = self.position.clone();
        let checkpoint = Checkpoint {
            state,
            plugins,
            parameters: self.session.parameters.borrow().values(),
            moments: self.optimizer.state()?,
            ema: self
                .ema
                .as_ref()
                .map(|ema| ema.values().clone())
                .unwrap_or_default(),
            profile: self.session.profiler.profile(),
            lenient: false,
        };
        checkpoint.save(run)
    }
}

/// Everything before the first step or the first sample: the plugins' `trainable` and `prepare`, and all parameters, with their saved values.
///
/// # Errors
/// A plugin that fails, a selection without a match, or saved values that no parameter takes.
pub(super) fn prepare(
    session: &Session,
    stack: &mut Stack,
    trainable: Option<&[String]>,
    done: u64,
) -> Result<(), Error> {
    let scene = session.scene(done, Phase::PREPARE);
    let asked = stack.trainable(&scene)?;
    stack.prepare(&scene)?;
    select_parameters(
        session,
        trainable,
        asked.into_iter().flat_map(|(_, globs)| globs).collect(),
    )?;
    let layers = super::services::layers(&session.backbone, &session.overlay());
    stack.choose_layers(&scene, &layers)?;
    session.check_copies()?;
    session.parameters.borrow().refuse_unclaimed()
}

/// Makes stand-ins for the backbone parameters that the run file and the plugins select.
fn select_parameters(
    session: &Session,
    trainable: Option<&[String]>,
    mut asked: Vec<String>,
) -> Result<(), Error> {
    let mut parameters = session.parameters.borrow_mut();
    match trainable {
        Some(selections) => asked.extend(selections.iter().cloned()),
        // What stands in for weights of the backbone is part of it: a widened first layer says nothing about the others.
        None if asked.is_empty() && !brought(&parameters) => asked.push("all".to_owned()),
        None => {}
    }
    let names: Vec<&str> = session
        .backbone
        .parameters()
        .map(|(name, _)| name)
        .collect();
    let chosen = selection::select(&asked, &names)?;
    for (name, frozen) in session.backbone.parameters() {
        if chosen.contains(&name) && parameters.get(name).is_none() {
            parameters.add(name.to_owned(), Owner::Backbone, true, frozen)?;
        }
    }
    if asked.iter().any(|selection| selection == selection::DIFFIT) {
        *session.scales.borrow_mut() = Scales::make(&session.backbone, &mut parameters)?;
    }
    Ok(())
}

/// Whether a plugin brings parameters of its own.
fn brought(parameters: &Parameters) -> bool {
    (parameters.iter()).any(|parameter| matches!(parameter.owner, Owner::Plugin(_)))
}

fn weighting(settings: &TrainSection) -> Option<Weighting> {
    use crate::config::Weighting as Chosen;
    let gamma = settings
        .weighting_gamma
        .unwrap_or(settings.weighting.default_gamma());
    match settings.weighting {
        Chosen::None => None,
        Chosen::MinSnr => Some(Weighting::MinSnr { gamma }),
        Chosen::P2 => Some(Weighting::P2 { k: 1.0, gamma }),
    }
}
