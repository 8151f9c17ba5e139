//! `host sample`: images of a run or of a backbone alone, as one PNG.

use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};
use serde_json::json;

use super::arguments::{AdapterChoice, Flags, whole};
use super::failure::Failure;
use super::interruption::watch;
use super::prepare::plugins_of;
use super::text::Listing;
use super::threads;
use crate::cancel::Cancel;
use crate::config::{Overrides, Resolved, Sampler, Spacing, resolve};
use crate::pretrained;
use crate::report::Progress;
use crate::train::folder::RUN_FILE;
use crate::train::from_run::{Saved, classes_of, draw_saved, open_inputs};
use crate::train::save_pictures;

/// Draw images with a run's trained weights, or with a backbone alone, into one PNG
///
/// Without --run and --backbone the embedded backbone draws. What is not given is as in the run's [sample] section. Image i of a
/// grid depends on the seed and on i alone.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("model").args(["run", "backbone"]))]
pub(super) struct Arguments {
    /// The folder of a run
    #[arg(long, value_name = "DIR")]
    run: Option<PathBuf>,
    /// A diffusers folder or a DiT checkpoint file
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    #[command(flatten)]
    adapters: AdapterChoice,
    /// How many images
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    count: Option<i64>,
    /// The classes to draw in turn, numbers or names, separated by commas [default: all]
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    class: Vec<String>,
    /// Seed of the first image
    #[arg(long, value_name = "S", value_parser = whole(), allow_negative_numbers = true)]
    seed: Option<i64>,
    /// The way from noise to image
    #[arg(long, value_name = "SAMPLER")]
    sampler: Option<Sampler>,
    /// Denoising steps
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    steps: Option<i64>,
    /// How the steps are spread over the training timesteps
    #[arg(long, value_name = "SPACING")]
    spacing: Option<Spacing>,
    /// Share of fresh noise in each DDIM step, 0 to 1
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    eta: Option<f64>,
    /// Guidance scale; 1 is no guidance
    #[arg(long, value_name = "W", allow_negative_numbers = true)]
    guidance: Option<f64>,
    /// Guide with the pretrained backbone's unconditional prediction
    #[arg(long)]
    domain_guidance: bool,
    /// Images denoised together; changes speed and memory only
    #[arg(long, value_name = "B", value_parser = whole(), allow_negative_numbers = true)]
    batch_size: Option<i64>,
    /// Use the averaged weights where the run keeps them; this is the default
    #[arg(long, overrides_with = "no_ema")]
    ema: bool,
    /// Use the weights as they stand, not their average
    #[arg(long, overrides_with = "ema")]
    no_ema: bool,
    /// Use the checkpoint after this many steps [default: the newest]
    #[arg(long, value_name = "N", requires = "run")]
    checkpoint: Option<u64>,
    /// What to draw from, for plugins that begin with pictures (sources, masks, references): a folder or table of images, or scenes:DOMAIN
    /// [default: the run's data]
    #[arg(long, value_name = "DATA", requires = "run")]
    input: Option<String>,
    /// The PNG to write
    #[arg(long, value_name = "FILE.png", default_value = "samples.png")]
    out: PathBuf,
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

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    threads::set(arguments.threads.unwrap_or(0) as usize);
    draw(arguments, progress, &watch()?)
}

/// The command, once the process is set up for it.
pub(super) fn draw(
    arguments: &Arguments,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Listing, Failure> {
    let mut resolved = resolve(&arguments.overrides()?)?;
    if resolved.config.sample.count == 0 {
        return Err(Failure::input("there is nothing to draw: --count is 0"));
    }
    let inputs = match (&arguments.run, &arguments.input) {
        (Some(run), Some(input)) => {
            let inputs = open_inputs(&resolved.config, input, &classes_of(run))?;
            if arguments.count.is_none() {
                resolved.config.sample.count = inputs.len();
            }
            Some(inputs)
        }
        _ => None,
    };
    let saved = match &arguments.run {
        Some(folder) => Some(Saved {
            folder: folder.clone(),
            plan: plugins_of(&mut resolved)?,
            step: arguments.checkpoint,
            averaged: !arguments.no_ema,
            inputs,
        }),
        None => None,
    };
    let classes = arguments.classes(&mut resolved)?;
    let drawn = draw_saved(&resolved, saved.as_ref(), &classes, progress, cancel)?;
    let files = save_pictures(&drawn.pictures, &arguments.out)?;

    let sample = &resolved.config.sample;
    let text = || {
        let after = drawn
            .step
            .map(|step| format!(" after {step} steps"))
            .unwrap_or_default();
        let out: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let out = out.join(", ");
        format!(
            "drew {} images{after} with {}, {} steps, into {out}",
            sample.count, sample.sampler, sample.steps
        )
    };
    Ok(Listing::new(
        arguments.json,
        text,
        || json!({ "out": arguments.out, "files": files, "step": drawn.step, "sample": sample }),
    ))
}

impl Arguments {
    /// The run's own run file, under what was given here.
    fn overrides(&self) -> Result<Overrides, Failure> {
        let config = match &self.run {
            None => None,
            Some(folder) => {
                let file = folder.join(RUN_FILE);
                if !file.is_file() {
                    let message = format!(
                        "{} is no run folder: there is no {RUN_FILE} in it",
                        folder.display()
                    );
                    return Err(Failure::input(message));
                }
                Some(file)
            }
        };
        let mut flags = Flags::default();
        flags.path("backbone", "path", "--backbone", self.backbone.as_deref());
        flags.whole("sample", "count", "--count", self.count);
        flags.whole("sample", "seed", "--seed", self.seed);
        flags.text(
            "sample",
            "sampler",
            "--sampler",
            self.sampler.and_then(word).as_deref(),
        );
        flags.whole("sample", "steps", "--steps", self.steps);
        flags.text(
            "sample",
            "spacing",
            "--spacing",
            self.spacing.and_then(word).as_deref(),
        );
        flags.number("sample", "eta", "--eta", self.eta);
        flags.number("sample", "guidance", "--guidance", self.guidance);
        flags.yes(
            "sample",
            "domain_guidance",
            "--domain-guidance",
            self.domain_guidance,
        );
        flags.whole("sample", "batch_size", "--batch-size", self.batch_size);
        Ok(Overrides {
            config,
            flags: flags.0,
            plugin_dirs: self.plugin_dirs.clone(),
            adapters: self.adapters.adapters.clone(),
            ..Overrides::default()
        })
    }

    /// Writes the classes asked for into the configuration, and gives those to draw if none are asked for.
    fn classes(&self, resolved: &mut Resolved) -> Result<Vec<u32>, Failure> {
        let known = pretrained::inspect(resolved.config.backbone.path.as_deref())?
            .info
            .num_classes as u32;
        let names = match (&self.run, &resolved.config.backbone.path) {
            (Some(folder), _) => classes_of(folder),
            (None, None) => pretrained::embedded_classes(),
            (None, Some(_)) => Vec::new(),
        };
        if !self.class.is_empty() {
            let asked = self
                .class
                .iter()
                .map(|class| class_number(class, &names, known))
                .collect::<Result<_, _>>()?;
            resolved.config.sample.classes = Some(asked);
        }
        Ok(match names.len() {
            0 => (0..known).collect(),
            named => (0..named as u32).collect(),
        })
    }
}

/// A choice as the run file writes it, which is as the command line does.
fn word(choice: impl ValueEnum) -> Option<String> {
    Some(choice.to_possible_value()?.get_name().to_owned())
}

/// A class by its number or its name.
fn class_number(class: &str, names: &[String], known: u32) -> Result<u32, Failure> {
    if let Some(number) = names.iter().position(|name| name == class) {
        return Ok(number as u32);
    }
    match class.parse() {
        Ok(number) if number <= known => Ok(number),
        _ => {
            let near = crate::config::suggest::nearest(class, names)
                .map(|near| format!(", did you mean `{near}`?"));
            let named = if names.is_empty() {
                String::new()
            } else {
                format!(" ({})", names.join(", "))
            };
            Err(Failure::input(format!(
                "there is no class `{class}`: the model has 0 to {}{named}, and {known} for no class{}",
                known.saturating_sub(1),
                near.unwrap_or_default()
            )))
        }
    }
}
