//! Measures training: real steps of a real run on fixed inputs, without data, files or samples around them.

mod inputs;

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

use plugin_api::Phase;
use serde::Serialize;

use super::run::{device, rates, selections};
use super::{Error, Facts, Feed, Parameters, Session, Trainer};
use crate::cancel::Cancel;
use crate::config::{RunFile, Trainable};
use crate::encode::Encoder;
use crate::ops::profile;
use crate::plugin::resolve as plugins;
use crate::plugin::stack::Stack;
use crate::pretrained::{self, EMBEDDED, Pretrained};
use crate::random::Streams;
use crate::report::{Process, Progress};
use inputs::Frame;
pub use inputs::Inputs;

/// What to measure. Everything in it has been checked without loading a weight or executing a plugin.
#[derive(Clone, Debug)]
pub struct Job {
    /// The configuration; its `train.steps` are the steps after the first.
    pub config: RunFile,
    /// The plugins.
    pub plan: plugins::Resolved,
    /// What the steps work on.
    pub inputs: Inputs,
}

/// What was measured. The keys up to `losses` are those of the PyTorch script beside which this is run, `tests/bench/peer.py`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Measured {
    /// The backbone's folder.
    pub model: String,
    /// `full`, what else trains of the backbone, and the plugins.
    pub mode: String,
    /// Samples a pass.
    pub batch: usize,
    /// Height of the latents.
    pub size: usize,
    /// Threads of computation.
    pub threads: usize,
    /// How many numbers train.
    pub trainable: usize,
    /// Seconds from the start of the process to the first byte of the backbone; settings are resolved and plugin files checked in it.
    pub import_s: Option<f64>,
    /// Seconds from there to the first step, without the making of the inputs.
    pub build_s: f64,
    /// Seconds of the first step, which fills caches and makes what later steps reuse.
    pub first_step_s: f64,
    /// Milliseconds of the middle one of the later steps.
    pub step_ms_median: f64,
    /// Milliseconds of the shortest of them.
    pub step_ms_min: f64,
    /// Milliseconds of processor time of an average later step, all threads together: on a shared machine it says more than the clock does.
    pub step_cpu_ms: Option<f64>,
    /// The most memory that the process ever held, in MiB.
    pub peak_rss_mb: Option<u64>,
    /// The loss of every step, the first included.
    pub losses: Vec<f64>,
    /// Seconds of each part of the building.
    pub build: Build,
    /// Milliseconds of an average step after the first, by part: the host's phases by name, plugins' hooks as `plugin.slot`. They add up to the step.
    pub parts_ms: BTreeMap<String, f64>,
    /// Milliseconds of an average step that calls into plugins took beside the host's work for them: messages, handles, the plugins' own code. The
    /// hooks' parts include it.
    pub boundary_ms: f64,
    /// The same as the parts, by plugin.
    pub plugins_ms: BTreeMap<String, f64>,
    /// The host's operations in an average step after the first, longest first. What candle computes itself is not among them.
    pub ops: Vec<OpFamily>,
    /// Threads of the process, waiting ones included.
    pub process_threads: Option<u64>,
    /// The host's version.
    pub version: &'static str,
}

/// Where the time before the first step goes, in seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Build {
    /// Reading the backbone.
    pub backbone_s: f64,
    /// Loading the plugins.
    pub plugins_s: f64,
    /// Preparing them, and making what trains and its optimizer.
    pub trainer_s: f64,
}

/// One kind of operation in an average step.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct OpFamily {
    /// The operation, such as `linear`.
    pub name: &'static str,
    /// How often it runs forward.
    pub calls: f64,
    /// Milliseconds forward.
    pub forward_ms: f64,
    /// Milliseconds backward.
    pub backward_ms: f64,
}

/// Takes one step, then as many as the configuration says, and tells how long they took.
///
/// # Errors
/// A backbone, plugins or inputs that cannot be used, or a step that fails.
pub fn bench(job: &Job, progress: &Progress) -> Result<Measured, Error> {
    let config = &job.config;
    let mut settings = config.train.clone();
    let later = settings.steps.max(1);
    settings.steps = later + 1;
    let mut watch = Watch::default();

    let device = device(config)?;
    let import = Process::now().age;
    let model = watch.time(|| {
        pretrained::open(
            config.backbone.path.as_deref(),
            &config.adapter,
            &device,
            config.backbone.dtype.into(),
        )
    })?;
    let backbone_s = watch.lap();
    let made = job.inputs.make(Frame {
        backbone: model.backbone.info(),
        encoder: &model.encoder,
        num_train_timesteps: model.process.num_train_timesteps(),
        passes: settings.steps as usize * settings.accumulation,
    })?;
    // Latents come encoded, and nothing but the network is at work on them.
    let model = match made.pictures {
        true => model,
        false => Pretrained {
            encoder: Encoder::Pixels,
            text: None,
            ..model
        },
    };
    let shape = made.starts.first().and_then(|start| start.noise.as_ref());
    let (batch, _, size, _) = shape.ok_or(Error::NoImages)?.dims4()?;
    settings.batch_size = batch;

    let session = Rc::new(Session::new(
        model,
        Facts {
            seed: settings.seed,
            steps: settings.steps,
            batch_size: batch,
            accumulation: settings.accumulation,
            plugins: names(&job.plan),
            rates: rates(config, &job.plan),
            ..Facts::default()
        },
        Parameters::default(),
        Streams::new(settings.seed),
        progress.clone(),
        Cancel::default(),
    ));
    let stack = watch.time(|| Stack::load(&job.plan, &session.scene(0, Phase::BUILD)))?;
    let plugins_s = watch.lap();
    let selections = selections(&settings.trainable);
    let mut trainer = watch.time(|| {
        Trainer::new(
            session.clone(),
            stack,
            settings,
            selections.as_deref(),
            Feed::fixed(made.starts),
            None,
        )
    })?;
    let trainer_s = watch.lap();

    let first = trainer.measured_step()?;
    let mut losses = vec![first.loss];
    let mut times = Vec::new();
    let mut parts_ms: BTreeMap<String, f64> = BTreeMap::new();
    let mut boundary_ms = 0.0;
    profile::enable();
    let before = Process::now();
    for _ in 0..later {
        let step = trainer.measured_step()?;
        losses.push(step.loss);
        times.push(step.step_ms);
        for (name, time) in &step.named {
            let part = name.strip_prefix("time/");
            let sum = match part {
                // It lies inside the hooks' parts.
                Some("boundary") => &mut boundary_ms,
                Some(part) => parts_ms.entry(part.to_owned()).or_default(),
                None => continue,
            };
            *sum += time / later as f64;
        }
    }
    times.sort_by(f64::total_cmp);
    let process = Process::now();
    let trainable = session.parameters.borrow().count();
    Ok(Measured {
        model: name(config),
        mode: mode(&config.train.trainable, &job.plan),
        batch,
        size,
        threads: rayon::current_num_threads(),
        trainable,
        import_s: import.map(|time| time.as_secs_f64()),
        build_s: backbone_s + plugins_s + trainer_s,
        first_step_s: first.step_ms / 1e3,
        step_ms_median: times[times.len() / 2],
        step_ms_min: times[0],
        step_cpu_ms: worked(before, process, later),
        peak_rss_mb: process.peak_memory_bytes.map(|bytes| bytes >> 20),
        losses,
        build: Build {
            backbone_s,
            plugins_s,
            trainer_s,
        },
        plugins_ms: by_plugin(&parts_ms, &job.plan),
        parts_ms,
        boundary_ms,
        ops: families(later),
        process_threads: process.threads,
        version: env!("CARGO_PKG_VERSION"),
    })
}

/// Adds up what is timed between two looks.
#[derive(Default)]
struct Watch(f64);

impl Watch {
    fn time<T>(&mut self, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = work();
        self.0 += start.elapsed().as_secs_f64();
        result
    }

    /// Seconds since the last call.
    fn lap(&mut self) -> f64 {
        std::mem::take(&mut self.0)
    }
}

/// Milliseconds of processor time a step between two looks.
fn worked(before: Process, after: Process, steps: u64) -> Option<f64> {
    let time = after.processor_time?.checked_sub(before.processor_time?)?;
    Some(time.as_secs_f64() * 1e3 / steps as f64)
}

/// The times of the operations since they are counted, by step.
fn families(steps: u64) -> Vec<OpFamily> {
    let each = |total: f64| total / steps as f64;
    let ms = |time: Duration| each(time.as_secs_f64() * 1e3);
    let times = profile::take().into_iter();
    times
        .map(|op| OpFamily {
            name: op.name,
            calls: each(op.calls as f64),
            forward_ms: ms(op.forward),
            backward_ms: ms(op.backward),
        })
        .collect()
}

fn names(plan: &plugins::Resolved) -> Vec<String> {
    let members = plan.composition.plugins.iter();
    members.map(|member| member.id.clone()).collect()
}

/// The backbone's folder without the path to it, which differs between machines.
fn name(config: &RunFile) -> String {
    let path = config.backbone.path.as_deref();
    let folder = path.and_then(|path| path.file_name());
    folder.map_or_else(
        || EMBEDDED.to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

/// What trains, in one word as long as it is one thing.
fn mode(trainable: &Trainable, plan: &plugins::Resolved) -> String {
    let plugins = names(plan);
    let own = match trainable {
        Trainable::Auto if plugins.is_empty() => Some("full"),
        Trainable::Auto | Trainable::None => None,
        Trainable::All => Some("full"),
        Trainable::Bias => Some("bias"),
        Trainable::Diffit => Some("diffit"),
        Trainable::Globs(_) => Some("part"),
    };
    let parts = own.into_iter().map(str::to_owned).chain(plugins);
    parts.collect::<Vec<_>>().join("+")
}

fn by_plugin(parts: &BTreeMap<String, f64>, plan: &plugins::Resolved) -> BTreeMap<String, f64> {
    let members = plan.composition.plugins.iter();
    let time = |name: &str| -> f64 {
        let own = parts.iter().filter(|(part, _)| {
            part.split_once('.')
                .is_some_and(|(plugin, _)| plugin == name)
        });
        own.map(|(_, time)| time).sum()
    };
    members
        .map(|member| (member.name.clone(), time(&member.name)))
        .collect()
}
