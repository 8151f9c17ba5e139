//! A whole run: from a checked configuration to a run folder worth looking at.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use candle_core::{Device, Tensor};
use plugin_api::Phase;

use crate::cancel::Cancel;
use crate::config::{Resolved, RunFile, Trainable};
use crate::data::{self, DataOptions, Dataset};
use crate::plugin::resolve as plugins;
use crate::plugin::slots::Slot;
use crate::plugin::stack::{OutputPicture, Stack};
use crate::pretrained::{self, Pretrained};
use crate::random::Streams;
use crate::report::Progress;
use crate::report::summary::{Role, Status};

use super::checkpoint::{self, Checkpoint};
use super::fit::{Ending, Records};
use super::folder::{self, Existing, RUN_FILE};
use super::sampling::plain;
use super::story::Story;
use super::{
    Drawing, Error, Facts, Feed, Parameters, Session, Subjects, Trainer, Weights, cache,
    draw_pictures, export, inputs, selection,
};

/// What to run. Everything in it has been checked without loading a weight or executing a plugin.
#[derive(Clone, Debug)]
pub struct Job {
    /// The configuration, with every setting of the plugins.
    pub resolved: Resolved,
    /// The plugins.
    pub plan: plugins::Resolved,
    /// What to do with a run folder that exists.
    pub existing: Existing,
    /// Whether a run that is continued may leave out saved state that does not fit.
    pub force: bool,
    /// The command line, for the report.
    pub command: String,
}

/// Trains, and leaves the run folder.
///
/// # Errors
/// Whatever is wrong with the input, before anything is written; later, whatever fails, with everything up to the last good step saved.
pub fn run(job: &Job, progress: &Progress, cancel: &Cancel) -> Result<Ending, Error> {
    let config = &job.resolved.config;
    let folder = job.resolved.out();
    let device = device(config)?;

    folder::check(folder, job.existing)?;
    let facts = pretrained::inspect(config.backbone.path.as_deref())?;
    facts.check_conditioning()?;
    let joined = !job.plan.composition.at(Slot::DenoiserInput).is_empty();
    pretrained::check_input(&facts.info, facts.latent_channels, joined)?;
    let dataset = open_data(config, &facts)?;
    if let Some(classes) = facts.info.num_classes {
        data::check_classes(&*dataset, classes)?;
    }
    // Where a plugin makes what the network sees, a picture says what it is about, and a text may be missing.
    if facts.info.cross_attention.is_some() && !joined {
        data::check_captions(&*dataset)?;
    }
    data::check_readable(&*dataset)?;
    let multiple = facts.image_multiple();
    if !dataset.size().is_multiple_of(multiple) {
        return Err(Error::Mismatch {
            what: "image size",
            expected: match facts.factor {
                1 => format!("multiples of its patch size {multiple}"),
                factor => format!(
                    "multiples of {multiple}, its patch size {} times the autoencoder's {factor}",
                    facts.info.patch_size
                ),
            },
            found: format!("{} pixels a side", dataset.size()),
            way_out: "set data.size",
        });
    }
    let start = Instant::now();
    let model = pretrained::open(
        config.backbone.path.as_deref(),
        &config.adapter,
        &device,
        config.backbone.dtype.into(),
    )?
    .placing(config.backbone.positions.into());
    let model = match config.data.cache_latents {
        true => model.caching(&cache::root())?,
        false => model,
    };
    check_selection(job, &model)?;
    let resumed = match job.existing {
        Existing::Resume => {
            let newest = checkpoint::steps(folder).pop();
            if newest.is_none() {
                tracing::warn!("stopped before its first checkpoint, so the run begins again");
            }
            newest
                .map(|step| Checkpoint::load(&checkpoint::folder(folder, step), &device))
                .transpose()?
                .map(|checkpoint| Checkpoint {
                    lenient: job.force,
                    ..checkpoint
                })
        }
        _ => None,
    };

    folder::prepare(folder, job.existing)?;
    job.resolved.write(&folder.join(RUN_FILE))?;
    let mut story = Story::begin(job, &model, &*dataset, resumed.is_some())?;
    story.wall("load", start.elapsed());
    story.save(Status::Running)?;
    let outcome = match train(job, model, dataset, resumed, &mut story, progress, cancel) {
        // Outside of the steps (a memory bank, a grid of samples) there is nothing more to save than what is.
        Err(error) if error.is_interruption() => {
            let saved = checkpoint::steps(folder).pop();
            Ok(Ending::Interrupted(
                saved.map(|step| checkpoint::folder(folder, step)),
            ))
        }
        outcome => outcome,
    };
    story.finish(&outcome)?;
    outcome
}

/// Everything from the first line of plugin code to the last sample.
fn train(
    job: &Job,
    model: Pretrained,
    dataset: Arc<dyn Dataset>,
    resumed: Option<Checkpoint>,
    story: &mut Story,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Ending, Error> {
    let config = &job.resolved.config;
    let folder = job.resolved.out();
    let start = Instant::now();
    let session = session(job, model, &*dataset, resumed.as_ref(), progress, cancel);
    let done = resumed
        .as_ref()
        .map_or(0, |checkpoint| checkpoint.state.step);
    let stack = Stack::load(&job.plan, &session.scene(done, Phase::BUILD))?;
    let feed = Feed::data(
        dataset.clone(),
        &config.train,
        workers(config),
        resumed.as_ref(),
    )?;
    let mut trainer = Trainer::new(
        session.clone(),
        stack,
        config.train.clone(),
        selections(&config.train.trainable).as_deref(),
        feed,
        resumed.as_ref(),
    )?;
    story.wall("prepare", start.elapsed());
    story.trainable(&session);
    let mut records = Records::open(folder, trainer.done(), config.train.tensorboard)?;

    let subjects = Subjects {
        classes: (0..dataset.classes().len() as u32).collect(),
        captions: inputs::captions(&*dataset, &config.sample, &session)?,
    };
    let drawing = |label: &str| -> Result<Drawing, Error> {
        let mut drawing = Drawing::new(&config.sample, &subjects, label, &session);
        inputs::give(&mut drawing, &*dataset, &config.sample, &session)?;
        Ok(drawing)
    };
    let prompts = Drawing::new(&config.sample, &subjects, "samples", &session).prompts;
    let caption = caption(config, &prompts);
    let grids = config.sample.count > 0;
    if grids && trainer.done() == 0 {
        let start = Instant::now();
        let target = plain(target_images(&*dataset, config.sample.count)?);
        story.grids(
            &[target],
            Role::Target,
            "target",
            "The data",
            &dataset.describe(),
            None,
        )?;
        // A network that takes more than latents draws nothing by itself.
        if session.backbone.info().in_channels == session.encoder.latent_channels() {
            let before = draw_pictures(&session, &Weights::Frozen, &drawing("samples before")?)?;
            let grids = story.grids(
                &before,
                Role::Before,
                "before",
                "Before: the pretrained model",
                &caption,
                Some(0),
            )?;
            records.images(0, &grids)?;
        }
        story.wall("sample", start.elapsed());
    }
    story.save(Status::Running)?;

    let every = config.sample.every;
    let start = Instant::now();
    let ending = trainer.fit(
        folder,
        &mut records,
        progress,
        cancel,
        &mut |trainer, records| {
            let step = trainer.done();
            if grids && every > 0 && step.is_multiple_of(every) && step < config.train.steps {
                let images = current_images(trainer, &drawing(&format!("samples at {step}"))?)?;
                let (name, title) = (format!("step-{step:06}"), format!("After {step} steps"));
                let grids =
                    story.grids(&images, Role::Progress, &name, &title, &caption, Some(step))?;
                records.images(step, &grids)?;
            }
            Ok(())
        },
    );
    story.wall("train", start.elapsed());
    story.progress(&trainer, &session)?;
    let ending = ending?;
    if let Ending::Finished = ending {
        let step = trainer.done();
        let start = Instant::now();
        if grids {
            let after = current_images(&trainer, &drawing("samples after")?)?;
            let title = format!("After {step} steps");
            let grids = story.grids(&after, Role::After, "after", &title, &caption, Some(step))?;
            records.images(step, &grids)?;
        }
        story.wall("sample", start.elapsed());
        trainer.with_averages(|trainer| {
            export::adapter(folder, &trainer.session, config.backbone.dtype.into())
        })?;
    }
    Ok(ending)
}

/// The session of a job, with what a checkpoint saved.
fn session(
    job: &Job,
    model: Pretrained,
    dataset: &dyn Dataset,
    resumed: Option<&Checkpoint>,
    progress: &Progress,
    cancel: &Cancel,
) -> Rc<Session> {
    let config = &job.resolved.config;
    let train = &config.train;
    let facts = Facts {
        seed: train.seed,
        steps: train.steps,
        batch_size: train.batch_size,
        accumulation: train.accumulation,
        dataset_len: dataset.len(),
        classes: dataset.classes().to_vec(),
        image_size: Some(dataset.size()),
        columns: Some(dataset.columns()),
        bucketing: Some(config.data.bucketing),
        plugins: job
            .plan
            .composition
            .plugins
            .iter()
            .map(|member| member.id.clone())
            .collect(),
        rates: rates(config, &job.plan),
        gradient_checkpointing: train.gradient_checkpointing,
        folder: Some(job.resolved.out().to_path_buf()),
    };
    let parameters = match resumed {
        Some(saved) => Parameters::saved(saved.parameters.clone(), saved.lenient),
        None => Parameters::default(),
    };
    let streams = Streams::new(train.seed);
    Rc::new(Session::new(
        model,
        facts,
        parameters,
        streams,
        progress.clone(),
        cancel.clone(),
    ))
}

/// The device that a configuration computes on.
///
/// # Errors
/// There is none, or the host was built without it.
pub(super) fn device(config: &RunFile) -> Result<Device, Error> {
    let device = config.backbone.device;
    device
        .open()
        .map_err(|reason| Error::Device { device, reason })
}

/// The learning rates of the plugins that have one of their own, by their names in the run.
pub(super) fn rates(config: &RunFile, plan: &plugins::Resolved) -> BTreeMap<String, f64> {
    let members = plan.composition.plugins.iter();
    members
        .filter_map(|member| Some((member.name.clone(), config.plugin.get(member.chosen)?.lr?)))
        .collect()
}

/// The dataset that a configuration names, at its size or else the backbone's.
///
/// # Errors
/// What is wrong with the data.
pub(super) fn open_data(
    config: &RunFile,
    model: &pretrained::Facts,
) -> Result<Arc<dyn Dataset>, Error> {
    let size = config.data.size.unwrap_or(model.image_size());
    let options = DataOptions {
        size,
        flip: config.data.flip,
        count: config.data.count,
        seed: config.data.seed,
        columns: config.data.columns.clone(),
        caption: config.data.caption.clone(),
        buckets: (config.data.bucketing).then(|| data::bucket::step(size, model.image_multiple())),
        ..DataOptions::default()
    };
    Ok(Arc::from(data::open(&config.data.source, &options)?))
}

/// Refuses a selection of trainable parameters that cannot be, while there is no run folder yet.
///
/// # Errors
/// A glob without a match, or nothing to train and no plugin that could bring anything.
fn check_selection(job: &Job, model: &Pretrained) -> Result<(), Error> {
    let Some(selections) = selections(&job.resolved.config.train.trainable) else {
        return Ok(());
    };
    let names: Vec<&str> = model.backbone.parameters().map(|(name, _)| name).collect();
    let chosen = selection::select(&selections, &names)?;
    match chosen.is_empty() && job.plan.plugins.is_empty() {
        true => Err(Error::NothingTrains),
        false => Ok(()),
    }
}

/// The run file's selection of trainable parameters; nothing for `auto`.
pub(super) fn selections(trainable: &Trainable) -> Option<Vec<String>> {
    let word = |word: &str| Some(vec![word.to_owned()]);
    match trainable {
        Trainable::Auto => None,
        Trainable::All => word("all"),
        Trainable::None => word("none"),
        Trainable::Bias => word("bias"),
        Trainable::Diffit => word("diffit"),
        Trainable::Globs(globs) => Some(globs.clone()),
    }
}

fn workers(config: &RunFile) -> usize {
    match config.data.workers {
        0 => std::thread::available_parallelism().map_or(1, |cores| cores.get().div_ceil(2)),
        workers => workers,
    }
}

/// The first images of the data, `[N, 3, H, W]`.
fn target_images(dataset: &dyn Dataset, count: usize) -> Result<Tensor, Error> {
    let images = data::first_images(dataset, count)?
        .into_iter()
        .map(|item| {
            let shape = (3, item.size.height, item.size.width);
            Tensor::from_vec(item.image, shape, &Device::Cpu)
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::stack(&images, 0)?)
}

/// Samples of the model as trained so far, averaged where the run keeps averages.
fn current_images(trainer: &Trainer, drawing: &Drawing) -> Result<Vec<OutputPicture>, Error> {
    trainer.with_averages(|trainer| {
        draw_pictures(
            &trainer.session,
            &Weights::Current(trainer.overlay.clone()),
            drawing,
        )
    })
}

/// What a grid's caption says of how it was drawn, and of what.
fn caption(config: &RunFile, prompts: &[String]) -> String {
    let sample = &config.sample;
    let guidance = if sample.domain_guidance {
        "domain guidance"
    } else {
        "guidance"
    };
    format!(
        "{}, {} steps, {guidance} {}, seeds from {}{}",
        sample.sampler,
        sample.steps,
        sample.guidance,
        sample.seed,
        quoted(prompts)
    )
}

/// The first few texts, for a caption.
fn quoted(prompts: &[String]) -> String {
    const SHOWN: usize = 6;
    let mut different: Vec<&String> = Vec::new();
    for prompt in prompts.iter().filter(|prompt| !prompt.is_empty()) {
        if !different.contains(&prompt) {
            different.push(prompt);
        }
    }
    let shown = different.iter().take(SHOWN);
    let mut text: String = shown.map(|prompt| format!("; \"{prompt}\"")).collect();
    if different.len() > SHOWN {
        text.push_str(&format!(" and {} more", different.len() - SHOWN));
    }
    text
}

/// Where a run folder keeps a grid of this name, relative to it.
pub(super) fn grid_file(name: &str) -> PathBuf {
    Path::new("samples").join(format!("{name}.png"))
}
