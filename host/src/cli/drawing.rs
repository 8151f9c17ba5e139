//! What `host sample` and `host eval` share: whose weights draw, and how.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgGroup, Args, ValueEnum};
use toml::Value;

use super::arguments::{AdapterChoice, Flags, plugin_argument, whole};
use super::failure::Failure;
use super::prepare::plugins_of;
use super::threads;
use crate::config::{Overrides, PluginArgument, Resolved, Sampler, Spacing, resolve};
use crate::data::Dataset;
use crate::pretrained;
use crate::train::folder::RUN_FILE;
use crate::train::from_run::{Saved, classes_of, open_inputs};

/// Whose weights draw, and how. What is not given is as in the run's `[sample]` section.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("model").args(["run", "backbone"]))]
#[command(group = ArgGroup::new("with_plugins").args(["run", "plugins"]).multiple(true))]
pub(super) struct DrawingArguments {
    /// The folder of a run
    #[arg(long, value_name = "DIR")]
    pub(super) run: Option<PathBuf>,
    /// A diffusers folder or a DiT checkpoint file
    #[arg(long, value_name = "DIR")]
    pub(super) backbone: Option<PathBuf>,
    #[command(flatten)]
    adapters: AdapterChoice,
    /// A plugin to draw with as it begins, before any training, such as a ControlNet that others trained (controlnet.from); may be repeated
    #[arg(long = "plugin", value_name = "NAME|PATH", value_parser = plugin_argument, conflicts_with = "run")]
    plugins: Vec<PluginArgument>,
    /// Set a key of the run file or a setting of a plugin otherwise than the run had it, such as a strength; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// The classes to draw in turn, numbers or names, separated by commas [default: all]
    #[arg(long, value_name = "CLASS", value_delimiter = ',')]
    class: Vec<String>,
    /// A text to draw, for a backbone that is conditioned on text; may be repeated, and is drawn in turn [default: captions of the run's data]
    #[arg(long = "prompt", value_name = "TEXT")]
    prompts: Vec<String>,
    /// What guidance leads away from, in words [default: no text]
    #[arg(long, value_name = "TEXT")]
    negative: Option<String>,
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
    pub(super) no_ema: bool,
    /// Use the checkpoint after this many steps [default: the newest]
    #[arg(long, value_name = "N", requires = "run")]
    checkpoint: Option<u64>,
    /// What to draw from, for plugins that begin with pictures (sources, masks, references): a folder or table of images, or scenes:DOMAIN
    /// [default: the run's data]
    #[arg(long, value_name = "DATA", requires = "with_plugins")]
    input: Option<String>,
    /// Look for the run's plugins in this folder first; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
}

/// What plugins draw from where nothing is said.
#[derive(Debug, Clone, Copy)]
pub(super) enum Inputs {
    /// The data that the run was trained on.
    Own,
    /// Where that are rendered scenes, those of another seed.
    Unseen(u64),
}

/// What is to draw, decided.
pub(super) struct Chosen {
    /// The configuration.
    pub(super) resolved: Resolved,
    /// Which plugins, and which of a run's weights; none for a backbone alone.
    pub(super) saved: Option<Saved>,
    /// Names of the model's classes, where it has some.
    pub(super) names: Vec<String>,
    /// The classes to draw where the configuration names none.
    pub(super) classes: Vec<u32>,
}

impl DrawingArguments {
    /// Lets everything compute with as many threads as asked for. Must come before any computation.
    pub(super) fn set_threads(&self) {
        threads::set(self.threads.unwrap_or(0) as usize);
    }

    /// Decides everything before any weight loads: the run's own run file under what was given here, `count` images. Without a count there are as many as
    /// pictures to draw from, where such are given, and else as many as the run file says.
    pub(super) fn resolve(&self, count: Option<i64>, unsaid: Inputs) -> Result<Chosen, Failure> {
        let mut resolved = resolve(&self.overrides(count)?)?;
        let saved = match self.run.is_some() || !self.plugins.is_empty() {
            true => {
                let inputs = self.inputs(&resolved, unsaid)?;
                if let (Some(inputs), Some(_), None) = (&inputs, &self.input, count) {
                    resolved.config.sample.count = inputs.len();
                }
                Some(Saved {
                    folder: self.run.clone(),
                    plan: plugins_of(&mut resolved)?,
                    step: self.checkpoint,
                    averaged: !self.no_ema,
                    inputs,
                })
            }
            false => None,
        };
        let (names, classes) = self.classes(&mut resolved)?;
        Ok(Chosen {
            resolved,
            saved,
            names,
            classes,
        })
    }

    /// The pictures to draw from; none for the run's own data.
    fn inputs(
        &self,
        resolved: &Resolved,
        unsaid: Inputs,
    ) -> Result<Option<Arc<dyn Dataset>>, Failure> {
        let mut config = resolved.config.clone();
        let source = match (&self.input, unsaid) {
            (Some(input), _) => input.clone(),
            (None, Inputs::Unseen(seed)) if config.data.source.starts_with("scenes:") => {
                config.data.seed = seed;
                config.data.source.clone()
            }
            (None, _) => return Ok(None),
        };
        let classes = match &self.run {
            Some(folder) => classes_of(folder),
            None => Vec::new(),
        };
        Ok(Some(open_inputs(&config, &source, &classes)?))
    }

    /// The run's own run file, under what was given here.
    fn overrides(&self, count: Option<i64>) -> Result<Overrides, Failure> {
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
        flags.whole("sample", "count", "--count", count);
        flags.whole("sample", "seed", "--seed", self.seed);
        flags.text(
            "sample",
            "sampler",
            "--sampler",
            self.sampler.and_then(word).as_deref(),
        );
        let prompts = self.prompts.iter().cloned().map(Value::String).collect();
        let prompts = (!self.prompts.is_empty()).then_some(Value::Array(prompts));
        flags.push("sample", "prompts", "--prompt", prompts);
        flags.text("sample", "negative", "--negative", self.negative.as_deref());
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
            plugins: self.plugins.clone(),
            sets: self.sets.clone(),
            plugin_dirs: self.plugin_dirs.clone(),
            adapters: self.adapters.adapters.clone(),
        })
    }

    /// Writes the classes asked for into the configuration, and gives the names of the model's classes and those to draw if none are asked for.
    fn classes(&self, resolved: &mut Resolved) -> Result<(Vec<String>, Vec<u32>), Failure> {
        let info = pretrained::inspect(resolved.config.backbone.path.as_deref())?.info;
        if info.cross_attention.is_none() && !(self.prompts.is_empty() && self.negative.is_none()) {
            return Err(Failure::input(
                "the backbone is conditioned on classes, not on text; ask by --class",
            ));
        }
        if info.num_classes.is_none() && !self.class.is_empty() {
            return Err(Failure::input(
                "the backbone knows no classes; ask in words, by --prompt",
            ));
        }
        let known = info.null_class();
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
        let all = match names.len() {
            0 => known,
            named => named as u32,
        };
        Ok((names, (0..all).collect()))
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
