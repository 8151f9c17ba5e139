//! The arguments of `run` and `plan`, and how flags become assignments to keys of the run file.

use std::path::{Path, PathBuf};

use clap::Args;
use toml::Value;

use crate::config::{
    AdapterArgument, AdapterEntry, Assignment, Error, Overrides, PluginArgument, Resolved, resolve,
};
use crate::train::folder::RUN_FILE;

/// Which plugins, and where they come from: the same for all that use plugins.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PluginChoice {
    /// A plugin to use: a name, the path of its file, or either with `:OTHER` after it to go by that name; may be repeated
    #[arg(long = "plugin", value_name = "NAME|PATH", value_parser = plugin_argument)]
    plugins: Vec<PluginArgument>,
    /// Look for plugins in this folder first; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
}

impl PluginChoice {
    /// What was said about the plugins.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            plugins: self.plugins.clone(),
            plugin_dirs: self.plugin_dirs.clone(),
            ..Overrides::default()
        }
    }
}

/// Adapters to merge into the backbone: the same for all that open one.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct AdapterChoice {
    /// Merge this adapter (a LoRA or a relative, of diffusers, PEFT, kohya or a run) into the backbone as it loads; may be repeated
    #[arg(long = "adapter", value_name = "PATH[=SCALE]", value_parser = adapter_argument)]
    pub(super) adapters: Vec<AdapterArgument>,
}

impl AdapterChoice {
    /// The adapters alone, where there is no run file.
    ///
    /// # Errors
    /// A scale that is no finite number.
    pub(super) fn entries(&self) -> Result<Vec<AdapterEntry>, Error> {
        let overrides = Overrides {
            adapters: self.adapters.clone(),
            ..Overrides::default()
        };
        Ok(resolve(&overrides)?.config.adapter)
    }
}

/// Plugins, and the run file that may name more of them.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct PluginArguments {
    #[command(flatten)]
    choice: PluginChoice,
    /// The run file; flags and --set win over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

impl PluginArguments {
    /// What was said about the plugins, and where the rest is.
    pub(super) fn overrides(&self) -> Overrides {
        Overrides {
            config: self.config.clone(),
            ..self.choice.overrides()
        }
    }
}

/// What a run is made of: the same for `run` and `plan`.
#[derive(Debug, Clone, Default, Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    plugins: PluginArguments,
    /// Set any key of the run file or any setting of a plugin; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// The pretrained backbone: a diffusers folder or a DiT checkpoint file [default: the embedded one]
    #[arg(long, value_name = "DIR")]
    backbone: Option<PathBuf>,
    #[command(flatten)]
    adapters: AdapterChoice,
    /// The images: a folder (class = subfolder, or flat), or rendered scenes
    #[arg(long, value_name = "DIR|scenes:DOMAIN")]
    data: Option<String>,
    /// Optimizer steps
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    steps: Option<i64>,
    /// Images in one forward pass
    #[arg(long, value_name = "B", value_parser = whole(), allow_negative_numbers = true)]
    batch_size: Option<i64>,
    /// Peak learning rate
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    lr: Option<f64>,
    /// Seed of everything random in training
    #[arg(long, value_name = "S", value_parser = whole(), allow_negative_numbers = true)]
    seed: Option<i64>,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Steps between checkpoints; 0 for one at the end
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    checkpoint_every: Option<i64>,
    /// The run folder [default: runs/NAMES-OF-PLUGINS]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Refuse plugins other than those in this file, which `host plugin lock` wrote
    #[arg(long, value_name = "FILE")]
    pub(super) locked: Option<PathBuf>,
    /// Continue the run in the run folder, bit for bit; settings not given are those of that run
    #[arg(long, conflicts_with = "overwrite")]
    pub(super) resume: bool,
    /// With --resume: go on also where settings differ that the saved state depends on; what does not fit starts anew
    #[arg(long, requires = "resume")]
    pub(super) force: bool,
    /// Replace the run in the run folder
    #[arg(long)]
    pub(super) overwrite: bool,
}

impl RunArguments {
    /// Everything decided. On `--resume` without `--config` the run folder's own run file comes under the flags.
    pub(super) fn resolve(&self) -> Result<Resolved, Error> {
        let overrides = self.overrides();
        if !self.resume || self.plugins.config.is_some() {
            return resolve(&overrides);
        }
        // Without --out the folder follows from the plugins, which only resolving tells.
        let out = match &self.out {
            Some(out) => out.clone(),
            None => resolve(&overrides)?.config.run.out,
        };
        let stored = Some(out.join(RUN_FILE)).filter(|file| file.is_file());
        let mut resolved = resolve(&Overrides {
            config: stored,
            ..overrides
        })?;
        // The folder may have been moved since.
        resolved.config.run.out = std::path::absolute(&out).unwrap_or(out);
        Ok(resolved)
    }

    /// What was said about the run.
    fn overrides(&self) -> Overrides {
        let mut flags = Flags::default();
        flags.path("backbone", "path", "--backbone", self.backbone.as_deref());
        flags.text("data", "source", "--data", self.data.as_deref());
        flags.whole("train", "steps", "--steps", self.steps);
        flags.whole("train", "batch_size", "--batch-size", self.batch_size);
        flags.number("train", "lr", "--lr", self.lr);
        flags.whole("train", "seed", "--seed", self.seed);
        flags.whole("train", "threads", "--threads", self.threads);
        flags.whole(
            "train",
            "checkpoint_every",
            "--checkpoint-every",
            self.checkpoint_every,
        );
        flags.path("run", "out", "--out", self.out.as_deref());
        Overrides {
            flags: flags.0,
            sets: self.sets.clone(),
            adapters: self.adapters.adapters.clone(),
            ..self.plugins.overrides()
        }
    }
}

/// Gathers the flags that were given.
#[derive(Debug, Default)]
pub(super) struct Flags(pub(super) Vec<Assignment>);

impl Flags {
    pub(super) fn push(
        &mut self,
        section: &'static str,
        key: &'static str,
        flag: &'static str,
        value: Option<Value>,
    ) {
        self.0.extend(value.map(|value| Assignment {
            section,
            key,
            value,
            flag,
        }));
    }

    pub(super) fn whole(
        &mut self,
        section: &'static str,
        key: &'static str,
        flag: &'static str,
        value: Option<i64>,
    ) {
        self.push(section, key, flag, value.map(Value::Integer));
    }

    pub(super) fn number(
        &mut self,
        section: &'static str,
        key: &'static str,
        flag: &'static str,
        value: Option<f64>,
    ) {
        self.push(section, key, flag, value.map(Value::Float));
    }

    pub(super) fn yes(
        &mut self,
        section: &'static str,
        key: &'static str,
        flag: &'static str,
        given: bool,
    ) {
        self.push(section, key, flag, given.then_some(Value::Boolean(true)));
    }

    pub(super) fn text(
        &mut self,
        section: &'static str,
        key: &'static str,
        flag: &'static str,
        value: Option<&str>,
    ) {
        self.push(
            section,
            key,
            flag,
            value.map(|text| Value::String(text.to_owned())),
        );
    }

    pub(super) fn path(
        &mut self,
        section: &'static str,
        key: &'static str,
        flag: &'static str,
        value: Option<&Path>,
    ) {
        self.push(
            section,
            key,
            flag,
            value.map(|path| Value::String(path.to_string_lossy().into_owned())),
        );
    }
}

/// A whole number of 0 or more, in the range of a run file's numbers.
pub(super) fn whole() -> clap::builder::RangedI64ValueParser<i64> {
    clap::value_parser!(i64).range(0..)
}

fn adapter_argument(text: &str) -> Result<AdapterArgument, std::convert::Infallible> {
    text.parse()
}

pub(super) fn plugin_argument(text: &str) -> Result<PluginArgument, std::convert::Infallible> {
    text.parse()
}
