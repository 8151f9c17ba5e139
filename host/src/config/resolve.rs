//! From defaults, run file, flags and `--set` to one checked configuration, and back to a file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use super::check::check_ranges;
use super::error::Error;
use super::layers::{Assignment, Layers, Origin, Origins, shown, toml_value};
use super::listing::ordered;
use super::run_file::{PluginEntry, RunFile, is_path};
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
    /// Flags that stand for a key.
    pub flags: Vec<Assignment>,
    /// `--set`, in order, each SECTION.KEY=VALUE or PLUGIN.KEY=VALUE.
    pub sets: Vec<String>,
}

/// One `--plugin`: NAME, PATH, or either with ` as OTHER` after it.
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
        Ok(match text.split_once(" as ") {
            Some((name, alias)) => Self {
                name: name.trim().to_owned(),
                alias: Some(alias.trim().to_owned()),
            },
            None => Self {
                name: text.trim().to_owned(),
                alias: None,
            },
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

    /// Every key with its value and origin, in the order of the run file, plugins' given settings last.
    pub fn listing(&self) -> Vec<(String, serde_json::Value, Origin)> {
        let mut rows = Vec::new();
        for (section, keys) in ordered(&self.config) {
            for (key, value) in keys {
                let key = format!("{section}.{key}");
                let origin = self.origins.of(&key).clone();
                rows.push((key, value, origin));
            }
        }
        for plugin in &self.config.plugin {
            for (key, value) in &plugin.settings {
                let key = format!("{}.{key}", plugin.handle());
                let origin = self.origins.of(&key).clone();
                rows.push((key, serde_json::to_value(value).unwrap_or_default(), origin));
            }
        }
        rows
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
    let mut plugin_dirs = overrides.plugin_dirs.clone();

    if let Some(path) = &overrides.config {
        let mut file = read_table(path)?;
        let base = path.parent().unwrap_or(Path::new(""));
        plugins.lay_file(file.remove("plugin"), path)?;
        plugin_dirs.extend(
            plugin_dir_list(file.remove("plugin_dir"), path)?
                .iter()
                .map(|dir| base.join(dir)),
        );
        layers.lay_file(file, path)?;
        for (section, key) in [("run", "out"), ("backbone", "path"), ("data", "source")] {
            if let Some(Value::String(text)) = layers.get_mut(section, key)
                && !is_scenes(text)
                && !text.is_empty()
            {
                *text = base.join(&*text).to_string_lossy().into_owned();
            }
        }
    }
    for flag in &overrides.flags {
        layers.lay(
            flag.section,
            flag.key,
            flag.value.clone(),
            Origin::Flag(flag.flag),
        )?;
    }
    for argument in &overrides.plugins {
        plugins.add(argument)?;
    }
    plugins.check_names(&layers)?;
    for text in &overrides.sets {
        let form = || Error::SetForm { text: text.clone() };
        let (path, value) = text.split_once('=').ok_or_else(form)?;
        let (target, key) = path.trim().split_once('.').ok_or_else(form)?;
        if target.is_empty() || key.is_empty() {
            return Err(form());
        }
        if layers.is_section(target) {
            layers.lay_text(target, key, value.trim(), Origin::Set)?;
        } else if !plugins.set(target, key, value.trim())? {
            let known: Vec<String> = plugins
                .handles()
                .into_iter()
                .chain(layers.sections())
                .collect();
            return Err(Error::SetTarget {
                text: text.clone(),
                target: target.to_owned(),
                instead: instead(target, &known),
            });
        }
    }

    let (mut config, mut origins) = layers.finish()?;
    origins.0.extend(plugins.origins);
    config.plugin = plugins.entries;
    config.plugin_dir = plugin_dirs;
    if *origins.of("train.warmup_steps") == Origin::Default {
        config.train.warmup_steps = config.train.warmup_steps.min(config.train.steps / 10);
    }
    check_ranges(&config, &origins)?;
    fill_in(&mut config);
    Ok(Resolved { config, origins })
}

/// Names the run and its folder, and makes every path absolute, so that the written file means the same from anywhere.
fn fill_in(config: &mut RunFile) {
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
    config.backbone.path = config.backbone.path.as_deref().map(absolute);
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
}

fn absolute(path: &Path) -> PathBuf {
    // Fails only for an empty path or a lost working directory; then the path as written says most.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

fn is_scenes(source: &str) -> bool {
    source.starts_with("scenes:")
}

/// Whether `text` can name a plugin.
fn is_name(text: &str) -> bool {
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

/// The plugins of a run as they gather from file and command line.
#[derive(Debug, Default)]
struct Plugins {
    entries: Vec<PluginEntry>,
    /// How many of the entries, from the first, are the file's.
    from_file: usize,
    origins: BTreeMap<String, Origin>,
}

impl Plugins {
    fn lay_file(&mut self, value: Option<Value>, path: &Path) -> Result<(), Error> {
        let origin = Origin::File(path.to_owned());
        let wrong = |key: &str, must: &str, value: String| Error::Value {
            key: key.to_owned(),
            must: must.to_owned(),
            origin: origin.clone(),
            value,
            instead: String::new(),
        };
        let entries = match value {
            None => return Ok(()),
            Some(Value::Array(entries)) => entries,
            Some(other) => {
                return Err(wrong("plugin", "written as [[plugin]]", shown(&other)));
            }
        };
        let base = path.parent().unwrap_or(Path::new(""));
        for entry in entries {
            let Value::Table(mut settings) = entry else {
                return Err(wrong("plugin", "written as [[plugin]]", shown(&entry)));
            };
            let mut name = match settings.remove("name") {
                Some(Value::String(name)) if !name.is_empty() => name,
                Some(other) => {
                    return Err(wrong(
                        "plugin.name",
                        "the name or path of a plugin",
                        shown(&other),
                    ));
                }
                None => {
                    return Err(wrong(
                        "plugin.name",
                        "given in every [[plugin]]",
                        "none".to_owned(),
                    ));
                }
            };
            let alias = match settings.remove("as") {
                Some(Value::String(alias)) => Some(alias),
                Some(other) => return Err(wrong("plugin.as", "a name", shown(&other))),
                None => None,
            };
            let without = match settings.remove("without") {
                Some(value) => slot_names(&value)
                    .ok_or_else(|| wrong("plugin.without", SLOT_NAMES, shown(&value)))?,
                None => Vec::new(),
            };
            if is_path(&name) {
                name = base.join(name).to_string_lossy().into_owned();
            }
            let entry = PluginEntry {
                name,
                alias,
                without,
                settings,
            };
            check_name(&entry, &origin)?;
            let handle = entry.handle();
            self.origins.extend(
                entry
                    .settings
                    .keys()
                    .map(|key| (format!("{handle}.{key}"), origin.clone())),
            );
            self.entries.push(entry);
        }
        self.from_file = self.entries.len();
        Ok(())
    }

    /// Adds a plugin of the command line, unless the file already has it.
    fn add(&mut self, argument: &PluginArgument) -> Result<(), Error> {
        let entry = PluginEntry {
            name: argument.name.clone(),
            alias: argument.alias.clone(),
            without: Vec::new(),
            settings: Table::new(),
        };
        check_name(&entry, &Origin::Flag("--plugin"))?;
        match self.entries[..self.from_file]
            .iter_mut()
            .find(|known| known.handle() == entry.handle())
        {
            // The command line may say which file a plugin of the run file is; its settings stay.
            Some(known) if is_path(&entry.name) => known.name = entry.name,
            Some(_) => {}
            None => self.entries.push(entry),
        }
        Ok(())
    }

    /// Lays one setting over what the file gives; nothing after the equals sign returns it to its default. False if no plugin
    /// of the run answers to `target`.
    fn set(&mut self, target: &str, key: &str, text: &str) -> Result<bool, Error> {
        let target = target.replace('-', "_");
        let Some(entry) = self
            .entries
            .iter_mut()
            .find(|entry| entry.handle() == target)
        else {
            return Ok(false);
        };
        let value = toml_value(text).unwrap_or_else(|| Value::String(text.to_owned()));
        let wrong = |must: &str| Error::Value {
            key: format!("{target}.{key}"),
            must: must.to_owned(),
            origin: Origin::Set,
            value: shown(&value),
            instead: String::new(),
        };
        match key {
            "name" | "as" => return Err(wrong("given by --plugin \"NAME as OTHER\"")),
            "without" if text.is_empty() => entry.without.clear(),
            "without" => entry.without = slot_names(&value).ok_or_else(|| wrong(SLOT_NAMES))?,
            _ => put(
                &mut entry.settings,
                key,
                Some(value).filter(|_| !text.is_empty()),
            ),
        }
        let origin_key = format!("{target}.{}", key.split('.').next().unwrap_or(key));
        if text.is_empty() {
            self.origins.remove(&origin_key);
        } else {
            self.origins.insert(origin_key, Origin::Set);
        }
        Ok(true)
    }

    fn check_names(&self, layers: &Layers<RunFile>) -> Result<(), Error> {
        for (index, entry) in self.entries.iter().enumerate() {
            let handle = entry.handle();
            if layers.is_section(&handle) {
                return Err(Error::PluginIsSection { handle });
            }
            if self.entries[..index]
                .iter()
                .any(|earlier| earlier.handle() == handle)
            {
                return Err(Error::SamePlugin { handle });
            }
        }
        Ok(())
    }

    fn handles(&self) -> Vec<String> {
        self.entries.iter().map(PluginEntry::handle).collect()
    }
}

fn check_name(entry: &PluginEntry, origin: &Origin) -> Result<(), Error> {
    let handle = entry.handle();
    // A path may carry any file name; the loader judges the file.
    if (entry.is_path() && entry.alias.is_none()) || is_name(&handle) {
        return Ok(());
    }
    Err(Error::PluginName {
        handle,
        origin: origin.clone(),
    })
}

/// Writes, or with `None` removes, the value at a dotted key.
fn put(table: &mut Table, key: &str, value: Option<Value>) {
    let Some((first, rest)) = key.split_once('.') else {
        match value {
            Some(value) => table.insert(key.to_owned(), value),
            None => table.remove(key),
        };
        return;
    };
    let mut inner = match table.remove(first) {
        Some(Value::Table(inner)) => inner,
        _ => Table::new(),
    };
    put(&mut inner, rest, value);
    if !inner.is_empty() {
        table.insert(first.to_owned(), Value::Table(inner));
    }
}

const SLOT_NAMES: &str = "a slot's name or a list of them";

/// One name or a list of names.
fn slot_names(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(name) => Some(vec![name.clone()]),
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().map(str::to_owned))
            .collect(),
        _ => None,
    }
}
