//! Samples of a run that stands in its folder, or of a backbone alone: what `host sample` does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use plugin_api::Phase;

use crate::backbone::Overlay;
use crate::cancel::Cancel;
use crate::config::{Resolved, RunFile};
use crate::data::{self, Batch, Dataset};
use crate::plugin::resolve as plugins;
use crate::plugin::slots::Slot;
use crate::plugin::stack::{OutputPicture, Stack};
use crate::pretrained::{self, Pretrained};
use crate::random::Streams;
use crate::report::Progress;
use crate::report::summary::Report;

use super::checkpoint::{self, Checkpoint};
use super::run::{device, open_data, selections};
use super::{
    Drawing, Error, Facts, Parameters, Session, Subjects, Weights, draw_pictures, inputs, trainer,
};

/// Which plugins and which of a run's saved weights to draw with, and from what.
#[derive(Clone)]
pub struct Saved {
    /// The run folder, which may have been moved; none for plugins as they begin, before any training.
    pub folder: Option<PathBuf>,
    /// The plugins of its configuration.
    pub plan: plugins::Resolved,
    /// Steps done in the checkpoint to take; none is the newest.
    pub step: Option<u64>,
    /// Take the averaged weights where the run keeps them.
    pub averaged: bool,
    /// What plugins find at the start of sampling; none is the run's own data.
    pub inputs: Option<Arc<dyn Dataset>>,
}

/// What to draw.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// The pictures to keep, one entry a kind, each of all images.
    pub pictures: Vec<OutputPicture>,
    /// The class that each image was asked for; the null class for none.
    pub classes: Vec<u32>,
    /// Steps of training behind them; none for a backbone alone.
    pub step: Option<u64>,
    /// What plugins drew them from, one row an image: pictures and columns of the data, and their `names`.
    pub inputs: Batch,
    /// How long drawing took, loading left aside, in seconds.
    pub seconds: f64,
}

impl Drawn {
    /// What each was drawn from, by its name in the data; nothing where it was not.
    pub fn names(&self) -> Vec<String> {
        let names = self.inputs.meta.get("names");
        names
            .and_then(|names| serde_json::from_str(names).ok())
            .unwrap_or_default()
    }
}

/// Draws what the configuration's `[sample]` asks for: with a run's saved weights, with plugins as they begin, or with the configuration's backbone alone.
/// `classes` are drawn in turn where the section names none, and captions of the run's data where it names no prompts.
///
/// # Errors
/// A checkpoint that is not there or does not fit, a backbone that cannot be used, a plugin that fails, or an interruption.
pub fn draw_saved(
    resolved: &Resolved,
    saved: Option<&Saved>,
    classes: &[u32],
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Drawn, Error> {
    let config = &resolved.config;
    let device = device(config)?;
    let facts = pretrained::inspect(config.backbone.path.as_deref())?;
    facts.check_conditioning()?;
    // Looked for before the backbone loads, which takes longest.
    let place = saved.map(place_of).transpose()?.flatten();
    let model = pretrained::open(
        config.backbone.path.as_deref(),
        &config.adapter,
        &device,
        config.backbone.dtype.into(),
    )?
    .placing(config.backbone.positions.into());
    let joined =
        saved.is_some_and(|saved| !saved.plan.composition.at(Slot::DenoiserInput).is_empty());
    let latents = model.encoder.latent_channels();
    pretrained::check_input(model.backbone.info(), latents, joined)?;
    let mut subjects = Subjects {
        classes: classes.to_vec(),
        captions: Vec::new(),
    };
    let Some(saved) = saved else {
        let session = session(
            resolved,
            None,
            model,
            Parameters::default(),
            progress,
            cancel,
        );
        if session.text.is_some() && config.sample.prompts.is_none() {
            tracing::warn!(
                "nothing was asked for by --prompt, so the images are drawn without text"
            );
        }
        let drawing = Drawing::new(&config.sample, &subjects, "samples", &session);
        return drawn(&session, &Weights::Frozen, drawing, None);
    };

    let Restored {
        session,
        overlay,
        step,
    } = restored(resolved, saved, place.as_deref(), model, progress, cancel)?;
    let data = match &saved.inputs {
        Some(inputs) => Some(inputs.clone()),
        // Most plugins need none, and the data may be gone.
        None => match open_data(config, &facts) {
            Ok(data) => Some(data),
            Err(error) => {
                tracing::warn!("the run's data are not at hand: {error}");
                None
            }
        },
    };
    if let Some(data) = &data {
        subjects.captions = inputs::captions(&**data, &config.sample, &session)?;
    }
    let mut drawing = Drawing::new(&config.sample, &subjects, "samples", &session);
    if let Some(data) = &data {
        inputs::give(&mut drawing, &**data, &config.sample, &session)?;
    }
    let step = place.map(|_| step);
    drawn(&session, &Weights::Current(overlay), drawing, step)
}

fn drawn(
    session: &Session,
    weights: &Weights,
    drawing: Drawing,
    step: Option<u64>,
) -> Result<Drawn, Error> {
    let start = Instant::now();
    Ok(Drawn {
        pictures: draw_pictures(session, weights, &drawing)?,
        seconds: start.elapsed().as_secs_f64(),
        classes: drawing.classes,
        inputs: drawing.inputs,
        step,
    })
}

/// A run as it stood at a checkpoint.
pub(super) struct Restored {
    /// The run, its plugins prepared and its parameters at their saved values.
    pub(super) session: Rc<Session>,
    /// What stands in for backbone tensors.
    pub(super) overlay: Overlay,
    /// Steps of training behind it.
    pub(super) step: u64,
}

/// Brings back a run from its folder.
///
/// # Errors
/// As [`draw_saved`].
pub(super) fn restore(
    resolved: &Resolved,
    saved: &Saved,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Restored, Error> {
    // Looked for before the backbone loads, which takes longest.
    let place = place_of(saved)?;
    let backbone = &resolved.config.backbone;
    let model = pretrained::open(
        backbone.path.as_deref(),
        &resolved.config.adapter,
        &device(&resolved.config)?,
        backbone.dtype.into(),
    )?
    .placing(backbone.positions.into());
    restored(resolved, saved, place.as_deref(), model, progress, cancel)
}

fn restored(
    resolved: &Resolved,
    saved: &Saved,
    place: Option<&Path>,
    model: Pretrained,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Restored, Error> {
    let checkpoint = place
        .map(|place| Checkpoint::load(place, model.backbone.device()))
        .transpose()?;
    let (mut step, mut values, mut states) = (0, BTreeMap::new(), Vec::new());
    // Before training nothing of the backbone has anything in its place.
    let mut trainable = Some(Vec::new());
    if let Some(checkpoint) = checkpoint {
        step = checkpoint.state.step;
        values = checkpoint.parameters;
        if saved.averaged {
            values.extend(checkpoint.ema);
        }
        states = checkpoint.plugins;
        trainable = selections(&resolved.config.train.trainable);
    }
    let session = session(
        resolved,
        Some(saved),
        model,
        Parameters::saved(values, false),
        progress,
        cancel,
    );
    let mut stack = Stack::load(&saved.plan, &session.scene(step, Phase::BUILD))?;
    trainer::prepare(&session, &mut stack, trainable.as_deref(), step)?;
    if place.is_some() {
        stack.load_state(&session.scene(step, Phase::CHECKPOINT), &states, false)?;
    }
    let overlay = session.overlay();
    session.backbone.check_overlay(&overlay)?;
    session.begin(stack);
    session.step.set(step);
    Ok(Restored {
        session,
        overlay,
        step,
    })
}

/// Opens the data that a run is to draw from, as the run opens its own: pictures of its size, under the names of its columns. Data that lack those have their
/// own: what a run learned from, its plugins may do without when they draw, and those that cannot say so.
///
/// # Errors
/// What is wrong with the data, or classes that the run does not know.
pub fn open_inputs(
    config: &RunFile,
    source: &str,
    classes: &[String],
) -> Result<Arc<dyn Dataset>, Error> {
    let mut config = config.clone();
    config.data.source = source.to_owned();
    config.data.count = None;
    let facts = pretrained::inspect(config.backbone.path.as_deref())?;
    let inputs = match open_data(&config, &facts) {
        Err(Error::Data(data::Error::NoMetadata { .. } | data::Error::NoColumn { .. })) => {
            config.data.columns = None;
            open_data(&config, &facts)?
        }
        opened => opened?,
    };
    data::check_readable(&*inputs)?;
    data::relabelled(inputs, classes).map_err(Error::from)
}

/// Names of the classes that a run was trained on, from its report; empty where it has none.
pub fn classes_of(folder: &Path) -> Vec<String> {
    Report::read(folder)
        .map(|report| report.data.classes)
        .unwrap_or_default()
}

/// The folder of the checkpoint asked for; none before any training.
fn place_of(saved: &Saved) -> Result<Option<PathBuf>, Error> {
    let find = |folder: &PathBuf| find(folder, saved.step);
    saved.folder.as_ref().map(find).transpose()
}

/// The folder of a run's checkpoint.
fn find(folder: &Path, step: Option<u64>) -> Result<PathBuf, Error> {
    let steps = checkpoint::steps(folder);
    let Some(&newest) = steps.last() else {
        return Err(Error::NothingSaved {
            path: folder.to_path_buf(),
        });
    };
    match step {
        None => Ok(checkpoint::folder(folder, newest)),
        Some(step) if steps.contains(&step) => Ok(checkpoint::folder(folder, step)),
        Some(step) => Err(Error::NoSuchCheckpoint {
            path: folder.to_path_buf(),
            step,
            saved: steps,
        }),
    }
}

/// A session that draws and never trains, which `steps: 0` tells the plugins.
fn session(
    resolved: &Resolved,
    saved: Option<&Saved>,
    model: Pretrained,
    parameters: Parameters,
    progress: &Progress,
    cancel: &Cancel,
) -> Rc<Session> {
    let train = &resolved.config.train;
    let members = saved
        .map(|saved| saved.plan.composition.plugins.as_slice())
        .unwrap_or_default();
    let facts = Facts {
        seed: train.seed,
        batch_size: train.batch_size,
        accumulation: train.accumulation,
        classes: saved
            .and_then(|saved| saved.folder.as_deref())
            .map(classes_of)
            .unwrap_or_default(),
        plugins: members.iter().map(|member| member.id.clone()).collect(),
        ..Facts::default()
    };
    Rc::new(Session::new(
        model,
        facts,
        parameters,
        Streams::new(train.seed),
        progress.clone(),
        cancel.clone(),
    ))
}
