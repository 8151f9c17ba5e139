//! From defaults, run file, flags and `--set` to one checked configuration, and back to a file.

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::hub;
use crate::plugin::discover::parse_choice;

use super::adapter_list::{self, AdapterArgument};
use super::check::check_ranges;
use super::error::Error;
use super::layers::{Assignment, Layers, Origin, Origins, shown};
use super::listing::ordered;
use super::plugin_list::Plugins;
use super::run_file::{PluginEntry, RunFile, TrainSection};
use super::suggest::instead;

/// What the command line says about a run; each part is empty when nothing was said.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`: the run file.
    pub config: Option<PathBuf>,
    /// `--plugin`, in order.
    pub plugins: Vec<PluginArgument>,
    /// `--plugin-dir`, in order.
    pub plugin_dirs: Vec<PathBuf>,
    /// `--adapter`, in order.
    pub adapters: Vec<AdapterArgument>,
    /// Flags that stand for a key.
    pub flags: Vec<Assignment>,
    /// `--set`, in order, each SECTION.KEY=VALUE or PLUGIN.KEY=VALUE.
    pub sets: Vec<String>,
}

/// One `--plugin`: NAME, PATH, or either with `:OTHER` or ` as OTHER` after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginArgument {
    /// The plugin's name or path.
    pub name: String,
    /// The name given to this use of it.
    pub alias: Option<String>,
}

impl std::str::FromStr for PluginArgument {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, alias) = parse_choice(text);
        Ok(Self {
            name: name.to_owned(),
            alias: alias.map(str::to_owned),
        })
    }
}

/// A checked configuration, and where each of its values comes from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// Every value, decided: paths are absolute, `run.name` and `run.out` are filled in.
    pub config: RunFile,
    /// Where each value comes from.
    pub origins: Origins,
}

impl Resolved {
    /// The run folder.
    pub fn out(&self) -> &Path {
        &self.config.run.out
    }

    /// Every key of every section with its value and origin, in the order of the run file.
    pub fn listing(&self) -> Vec<(String, serde_json::Value, Origin)> {
        let key = |section: &str, (key, value): (String, serde_json::Value)| {
            let key = format!("{section}.{key}");
            let origin = self.origins.of(&key).clone();
            (key, value, origin)
        };
        let sections = ordered(&self.config).into_iter();
        sections
            .flat_map(|(section, keys)| {
                keys.into_iter()
                    .map(move |entry| key(&section, entry))
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// The configuration as a run file that resolves to this configuration again.
    pub fn to_toml(&self) -> String {
        // Serialising plain structs of numbers, words and tables has no way to fail.
        let body = toml::to_string_pretty(&self.config).unwrap_or_default();
        format!(
            "# Every setting of this run, as resolved. `host run --config` with this file repeats it.\n\n{body}"
        )
    }

    /// Writes the configuration to `path`, whole or not at all.
    ///
    /// # Errors
    /// When the folder cannot be written to or the disk is full.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        Ok(crate::fs::write_atomic(path, self.to_toml().as_bytes())?)
    }
}

/// Decides every value: defaults, under the run file, under flags, under `--set`.
///
/// # Errors
/// The first mistake found, as a sentence with its place; see [`Error`].
pub fn resolve(overrides: &Overrides) -> Result<Resolved, Error> {
    let mut layers = Layers::<RunFile>::new();
    let mut plugins = Plugins::default();
    let mut adapters = Vec::new();
    let mut plugin_dirs = overrides.plugin_dirs.clone();
    if let Some(path) = &overrides.config {
        let mut file = read_table(path)?;
        plugins.lay_file(file.remove("plugin"), path)?;
        adapters = adapter_list::of_file(file.remove("adapter"), path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        plugin_dirs.extend(
            plugin_dir_list(file.remove("plugin_dir"), path)?
                .iter()
                .map(|dir| base.join(dir)),
        );
        layers.lay_file(file, path)?;
        anchor_paths(&mut layers, base);
    }
    layers.lay_flags(&overrides.flags)?;
    adapter_list::lay(&mut adapters, &overrides.adapters)?;
    for argument in &overrides.plugins {
        plugins.add(argument)?;
    }
    plugins.check_names(&layers)?;
    for text in &overrides.sets {
        let Setting { target, key, value } = Setting::parse(text)?;
        if layers.is_section(target) {
            layers.lay_text(target, key, value, Origin::Set)?;
        } else if !plugins.set(target, key, value)? {
            let known: Vec<String> = plugins
                .handles()
                .into_iter()
                .chain(layers.sections())
                .collect();
            return Err(unknown_target(text, target, &known));
        }
    }

    let (mut config, mut origins) = layers.finish()?;
    origins.0.extend(plugins.origins);
    config.plugin = plugins.entries;
    config.adapter = adapters;
    config.plugin_dir = plugin_dirs;
    shorten_warmup(&mut config.train, &origins);
    check_ranges(&config.data, &config.train, &config.sample, &origins)?;
    fill_in(&mut config)?;
    Ok(Resolved { config, origins })
}

/// Decides every value of another file of sections, such as a pretraining recipe: defaults, under the file, under flags, under
/// `--set`. Ranges are checked by [`check_ranges`], which sees the sections that a run file has too.
///
/// # Errors
/// The first mistake found, as a sentence with its place; see [`Error`].
pub fn resolve_sections<T>(overrides: &Overrides) -> Result<(T, Origins), Error>
where
    T: Default + Serialize + DeserializeOwned,
{
    let mut layers = Layers::<T>::new();
    if let Some(path) = &overrides.config {
        layers.lay_file(read_table(path)?, path)?;
        anchor_paths(&mut layers, path.parent().unwrap_or(Path::new("")));
    }
    layers.lay_flags(&overrides.flags)?;
    for text in &overrides.sets {
        let Setting { target, key, value } = Setting::parse(text)?;
        if !layers.is_section(target) {
            return Err(unknown_target(text, target, &layers.sections()));
        }
        layers.lay_text(target, key, value, Origin::Set)?;
    }
    layers.finish()
}

/// A default warm-up suits the default number of steps; a short run gets a tenth of its steps at most.
pub fn shorten_warmup(train: &mut TrainSection, origins: &Origins) {
    if *origins.of("train.warmup_steps") == Origin::Default {
        train.warmup_steps = train.warmup_steps.min(train.steps / 10);
    }
}

/// The parts of a `--set`.
struct Setting<'a> {
    target: &'a str,
    key: &'a str,
    value: &'a str,
}

impl<'a> Setting<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let form = || Error::SetForm {
            text: text.to_owned(),
        };
        let (path, value) = text.split_once('=').ok_or_else(form)?;
        let (target, key) = path.trim().split_once('.').ok_or_else(form)?;
        if target.is_empty() || key.is_empty() {
            return Err(form());
        }
        Ok(Self {
            target,
            key,
            value: value.trim(),
        })
    }
}

fn unknown_target(text: &str, target: &str, known: &[String]) -> Error {
    Error::SetTarget {
        text: text.to_owned(),
        target: target.to_owned(),
        instead: instead(target, known),
    }
}

/// Makes the paths that a file gives relative to it.
fn anchor_paths<T: Default + Serialize + DeserializeOwned>(layers: &mut Layers<T>, base: &Path) {
    for (section, key) in [("run", "out"), ("backbone", "path"), ("data", "source")] {
        if let Some(Value::String(text)) = layers.get_mut(section, key)
            && !is_scenes(text)
            && !hub::is_name(text)
            && !text.is_empty()
        {
            *text = base.join(&*text).to_string_lossy().into_owned();
        }
    }
}

/// Names the run and its folder, and makes every path absolute, so that the written file means the same from anywhere.
fn fill_in(config: &mut RunFile) -> Result<(), Error> {
    if config.run.name.is_empty() {
        let handles: Vec<_> = config.plugin.iter().map(PluginEntry::handle).collect();
        config.run.name = if handles.is_empty() {
            "finetune".to_owned()
        } else {
            handles.join("+")
        };
    }
    if config.run.out.as_os_str().is_empty() {
        let folder: String = config
            .run
            .name
            .chars()
            .map(|c| {
                if c.is_alphanumeric() || "+-_.".contains(c) {
                    c
                } else {
                    '_'
                }
            })
            .collect();
        // A name of dots would step out of the folder.
        let folder = if folder.chars().all(|c| c == '.') {
            "finetune".to_owned()
        } else {
            folder
        };
        config.run.out = Path::new("runs").join(folder);
    }
    config.run.out = absolute(&config.run.out);
    if let Some(path) = &config.backbone.path {
        config.backbone.path = Some(absolute(&hub::located(path)?));
    }
    if !is_scenes(&config.data.source) {
        config.data.source = absolute(Path::new(&config.data.source))
            .to_string_lossy()
            .into_owned();
    }
    for dir in &mut config.plugin_dir {
        *dir = absolute(dir);
    }
    for plugin in config.plugin.iter_mut().filter(|plugin| plugin.is_path()) {
        plugin.name = absolute(Path::new(&plugin.name))
            .to_string_lossy()
            .into_owned();
    }
    Ok(())
}

pub(super) fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path or a lost working directory; then the path as written says most.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_scenes(source: &str) -> bool {
    source.starts_with("scenes:")
}

/// Whether `text` can name a plugin.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_alphanumeric() || c == '_' || c == '-')
}

/// Parses a run file, and places a syntax error by line and column.
///
/// # Errors
/// [`Error::Read`] and [`Error::Syntax`].
pub fn read_table(path: &Path) -> Result<Table, Error> {
    let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
        path: path.to_owned(),
        source,
    })?;
    text.parse().map_err(|error: toml::de::Error| {
        let before = &text[..error.span().map_or(0, |span| span.start.min(text.len()))];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        Error::Syntax {
            path: path.to_owned(),
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            message: error
                .message()
                .lines()
                .next()
                .unwrap_or_default()
                .to_owned(),
        }
    })
}

fn plugin_dir_list(value: Option<Value>, path: &Path) -> Result<Vec<PathBuf>, Error> {
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let written = shown(&value);
    value.try_into().map_err(|_| Error::Value {
        key: "plugin_dir".to_owned(),
        must: "a list of folders".to_owned(),
        origin: Origin::File(path.to_owned()),
        value: written,
        instead: String::new(),
    })
}
