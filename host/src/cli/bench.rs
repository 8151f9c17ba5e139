//! `host bench`: how long training steps take, and where the time goes.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;
use toml::Value;

use super::arguments::{AdapterChoice, Flags, PluginChoice, whole};
use super::failure::Failure;
use super::prepare::plugins_of;
use super::text::{Listing, grouped, table};
use super::threads;
use crate::config::{Overrides, resolve};
use crate::report::Progress;
use crate::train::bench::{Inputs, Job, Measured, bench};

/// Where the settings come from that a benchmark has in place of a run's defaults.
const ORIGIN: &str = "host bench";

/// Measure training steps on fixed inputs: time, memory, losses, and the time of each part
///
/// The steps are those of `host run`, without data, files and samples around them. Without settings they are plain: AdamW at learning rate 1e-4
/// with neither decay, warm-up, clipping nor averages, and the squared error of the noise as the loss.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    plugins: PluginChoice,
    /// Set any key of a run file or any setting of a plugin; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// The pretrained backbone: a diffusers folder or a DiT checkpoint file [default: the embedded one]
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    #[command(flatten)]
    adapters: AdapterChoice,
    /// Inputs of the steps: step0.latents or step0.images, step0.noise, step0.timesteps, the conditioning and columns, step1.latents and so on [default: drawn]
    #[arg(long, value_name = "FILE.safetensors", conflicts_with_all = ["batch_size", "size"])]
    inputs: Option<PathBuf>,
    /// Samples in one forward pass [default: 8]
    #[arg(long, value_name = "B", value_parser = clap::value_parser!(i64).range(1..))]
    batch_size: Option<i64>,
    /// Height and width of the latents [default: the backbone's]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..))]
    size: Option<u64>,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Steps to measure, after a first one that is told apart [default: 5]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(i64).range(1..))]
    steps: Option<i64>,
    /// Train all of the backbone also beside plugins that bring parameters of their own
    #[arg(long)]
    full: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    /// What was said, over what a benchmark has in place of a run's defaults.
    fn overrides(&self) -> Overrides {
        let mut flags = Flags::default();
        let plain = [
            ("lr", Value::Float(1e-4)),
            ("weight_decay", Value::Float(0.0)),
            ("warmup_steps", Value::Integer(0)),
            ("clip", Value::Float(0.0)),
            ("ema_decay", Value::Float(0.0)),
            ("label_dropout", Value::Float(0.0)),
            ("variational_bound", Value::Boolean(false)),
        ];
        for (key, value) in plain {
            flags.push("train", key, ORIGIN, Some(value));
        }
        flags.path("backbone", "path", "--backbone", self.backbone.as_deref());
        let batch_size = self.batch_size.unwrap_or(8);
        flags.whole("train", "batch_size", "--batch-size", Some(batch_size));
        flags.whole("train", "steps", "--steps", Some(self.steps.unwrap_or(5)));
        flags.whole("train", "threads", "--threads", self.threads);
        flags.text("train", "trainable", "--full", self.full.then_some("all"));
        Overrides {
            flags: flags.0,
            sets: self.sets.clone(),
            adapters: self.adapters.adapters.clone(),
            ..self.plugins.overrides()
        }
    }
}

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    let mut resolved = resolve(&arguments.overrides())?;
    let plan = plugins_of(&mut resolved)?;
    for note in &plan.notes {
        tracing::warn!("{note}");
    }
    let config = resolved.config;
    threads::set(config.train.threads);
    let inputs = match &arguments.inputs {
        Some(file) => Inputs::File(file.clone()),
        None => Inputs::Drawn {
            batch_size: config.train.batch_size,
            size: arguments.size.map(|size| size as usize),
            seed: config.train.seed,
        },
    };
    let job = Job {
        config,
        plan,
        inputs,
    };
    let measured = bench(&job, progress)?;
    Ok(Listing::new(
        arguments.json,
        || describe(&measured),
        || json!(measured),
    ))
}

fn describe(measured: &Measured) -> String {
    let seconds = |time: f64| format!("{time:.3} s");
    let told = |text: Option<String>| text.unwrap_or_else(|| "unknown".to_owned());
    let build = &measured.build;
    let rows = [
        ("backbone", measured.model.clone()),
        (
            "what trains",
            format!("{}, {} numbers", measured.mode, grouped(measured.trainable)),
        ),
        (
            "inputs",
            format!("batch {}, size {}", measured.batch, measured.size),
        ),
        ("threads", measured.threads.to_string()),
        ("to the first weight", told(measured.import_s.map(seconds))),
        (
            "to the first step",
            format!(
                "{} (backbone {}, plugins {}, training {})",
                seconds(measured.build_s),
                seconds(build.backbone_s),
                seconds(build.plugins_s),
                seconds(build.trainer_s)
            ),
        ),
        ("first step", seconds(measured.first_step_s)),
        (
            "later steps",
            format!(
                "{:.1} ms in the middle, {:.1} ms at least",
                measured.step_ms_median, measured.step_ms_min
            ),
        ),
        (
            "processor time",
            told(
                measured
                    .step_cpu_ms
                    .map(|time| format!("{time:.0} ms a step, all threads together")),
            ),
        ),
        (
            "peak memory",
            told(measured.peak_rss_mb.map(|peak| format!("{peak} MiB"))),
        ),
        (
            "losses",
            measured
                .losses
                .iter()
                .map(|loss| format!("{loss:.6}"))
                .collect::<Vec<_>>()
                .join(" "),
        ),
    ];
    let rows = rows.map(|(name, value)| [name.to_owned(), value]);
    let total: f64 = measured.parts_ms.values().sum();
    let mut parts: Vec<(&String, f64)> = measured
        .parts_ms
        .iter()
        .map(|(name, time)| (name, *time))
        .collect();
    parts.sort_by(|a, b| b.1.total_cmp(&a.1));
    let mut lines = vec![["part of a step", "ms", "share"].map(str::to_owned)];
    lines.extend(parts.iter().map(|(name, time)| {
        let share = 100.0 * time / total.max(f64::MIN_POSITIVE);
        [
            (*name).clone(),
            format!("{time:.2}"),
            format!("{share:.1}%"),
        ]
    }));
    lines.push([
        "(of which the boundary)".to_owned(),
        format!("{:.2}", measured.boundary_ms),
        format!(
            "{:.2}%",
            100.0 * measured.boundary_ms / total.max(f64::MIN_POSITIVE)
        ),
    ]);
    let mut ops = vec![["operation", "calls", "forward ms", "backward ms"].map(str::to_owned)];
    ops.extend(measured.ops.iter().map(|op| {
        [
            op.name.to_owned(),
            format!("{:.0}", op.calls),
            format!("{:.2}", op.forward_ms),
            format!("{:.2}", op.backward_ms),
        ]
    }));
    format!("{}\n{}\n{}", table(&rows), table(&lines), table(&ops))
}
