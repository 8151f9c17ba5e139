//! `host export`: what a run trained, for other programs.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde_json::json;

use super::arguments::whole;
use super::failure::Failure;
use super::interruption::watch;
use super::prepare::plugins_of;
use super::text::Listing;
use super::threads;
use crate::adapter::write::Format;
use crate::config::{Overrides, Precision, Resolved, resolve};
use crate::report::Progress;
use crate::train::folder::RUN_FILE;
use crate::train::from_run::Saved;
use crate::train::pipeline::{Target, export_run};

/// Write what a run trained for other programs: merged into a diffusers pipeline folder, or its adapter in another format
///
/// A pipeline has everything merged into the network's weights: trained parameters, adapters of plugins, and the --adapter files of the run. It loads as
/// --backbone here and with from_pretrained in diffusers.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of the run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// The folder to write
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = "pipeline")]
    format: What,
    /// Number format of a pipeline's weights
    #[arg(long, value_name = "FORMAT", default_value = "f32")]
    dtype: Precision,
    /// Use the checkpoint after this many steps [default: the newest]
    #[arg(long, value_name = "N")]
    checkpoint: Option<u64>,
    /// Use the averaged weights where the run keeps them; this is the default
    #[arg(long, overrides_with = "no_ema")]
    ema: bool,
    /// Use the weights as they stand, not their average
    #[arg(long, overrides_with = "ema")]
    no_ema: bool,
    /// Replace the folder if it exists
    #[arg(long)]
    overwrite: bool,
    /// Look for the run's plugins in this folder first; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What to write.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum What {
    /// A diffusers pipeline folder, everything merged
    Pipeline,
    /// The LoRA as diffusers has it: pytorch_lora_weights.safetensors
    Diffusers,
    /// The adapter as PEFT has it: adapter_model.safetensors and adapter_config.json
    Peft,
    /// The adapter as kohya and LyCORIS have it
    Kohya,
    /// A ControlNet as diffusers has it: config.json and diffusion_pytorch_model.safetensors
    Controlnet,
}

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    let file = arguments.run.join(RUN_FILE);
    if !file.is_file() {
        return Err(Failure::input(format!(
            "{} is no run folder: there is no {RUN_FILE} in it",
            arguments.run.display()
        )));
    }
    threads::set(arguments.threads.unwrap_or(0) as usize);
    let mut resolved = resolve(&Overrides {
        config: Some(file),
        plugin_dirs: arguments.plugin_dirs.clone(),
        ..Overrides::default()
    })?;
    arguments.check_place(&resolved)?;
    let saved = Saved {
        inputs: None,
        folder: Some(arguments.run.clone()),
        plan: plugins_of(&mut resolved)?,
        step: arguments.checkpoint,
        averaged: !arguments.no_ema,
    };
    let target = match arguments.format {
        What::Pipeline => Target::Pipeline {
            dtype: arguments.dtype.into(),
        },
        What::Diffusers => Target::Adapter(Format::Diffusers),
        What::Peft => Target::Adapter(Format::Peft),
        What::Kohya => Target::Adapter(Format::Kohya),
        What::Controlnet => Target::Networks,
    };
    let exported = export_run(
        &resolved,
        &saved,
        target,
        &arguments.out,
        progress,
        &watch()?,
    )?;
    let out = arguments.out.display();
    Ok(Listing::new(
        arguments.json,
        || {
            format!(
                "wrote {} after {} steps into {out}",
                exported.merged.join(" and "),
                exported.step
            )
        },
        || json!({ "out": arguments.out, "exported": exported }),
    ))
}

impl Arguments {
    /// Refuses a folder that must not be replaced: without `--overwrite` any, with it one that holds what the run is made from, or that is no earlier export.
    fn check_place(&self, resolved: &Resolved) -> Result<(), Failure> {
        let out = &self.out;
        let shown = out.display();
        if !out.exists() {
            return Ok(());
        }
        if !self.overwrite {
            return Err(Failure::input(format!(
                "{shown} exists already; replace it with --overwrite, or choose another folder"
            )));
        }
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let inside = |path: &Path| real(path).starts_with(real(out));
        if inside(&self.run) {
            return Err(Failure::input(format!(
                "{shown} holds the run itself; choose another folder to write"
            )));
        }
        let config = &resolved.config;
        let adapters = config.adapter.iter().map(|entry| &entry.path);
        if let Some(source) = config
            .backbone
            .path
            .iter()
            .chain(adapters)
            .find(|path| inside(path))
        {
            return Err(Failure::input(format!(
                "{shown} holds {}, which the run is made from; choose another folder to write",
                source.display()
            )));
        }
        match is_export(out) {
            true => Ok(()),
            false => Err(Failure::input(format!(
                "{shown} is no export, so --overwrite leaves it alone; choose another folder"
            ))),
        }
    }
}

/// Whether a folder is empty or one that this command writes: of several plugins, each has a folder in it.
fn is_export(folder: &Path) -> bool {
    let written = |folder: &Path| {
        let formats = [Format::Diffusers, Format::Peft, Format::Kohya].map(Format::file);
        let mut names = formats
            .iter()
            .chain(&["model_index.json", "diffusion_pytorch_model.safetensors"]);
        names.any(|name| folder.join(name).is_file())
    };
    let Ok(entries) = std::fs::read_dir(folder) else {
        return false;
    };
    let below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    written(folder) || below.iter().all(|below| written(below))
}
