//! The plugins of a run and the settings given to them, as they gather from the run file and the command line.

use std::collections::BTreeMap;
use std::path::Path;

use toml::{Table, Value};

use super::error::Error;
use super::layers::{Layers, Origin, shown, toml_value};
use super::resolve::{PluginArgument, is_name};
use super::run_file::{PluginEntry, RunFile, is_path};

/// The plugins of a run as they gather from file and command line.
#[derive(Debug, Default)]
pub(super) struct Plugins {
    pub(super) entries: Vec<PluginEntry>,
    /// How many of the entries, from the first, are the file's.
    from_file: usize,
    pub(super) origins: BTreeMap<String, Origin>,
}

impl Plugins {
    pub(super) fn lay_file(&mut self, value: Option<Value>, path: &Path) -> Result<(), Error> {
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
            let lr = settings
                .remove("lr")
                .map(|value| rate(&value).ok_or_else(|| wrong("plugin.lr", RATE, shown(&value))))
                .transpose()?;
            if is_path(&name) {
                name = base.join(name).to_string_lossy().into_owned();
            }
            let entry = PluginEntry {
                name,
                alias,
                without,
                lr,
                settings,
            };
            check_name(&entry, &origin)?;
            let handle = entry.handle();
            self.origins.extend(
                (entry.settings.keys().map(String::as_str))
                    .chain(entry.lr.map(|_| "lr"))
                    .map(|key| (format!("{handle}.{key}"), origin.clone())),
            );
            self.entries.push(entry);
        }
        self.from_file = self.entries.len();
        Ok(())
    }

    /// Adds a plugin of the command line, unless the file already has it.
    pub(super) fn add(&mut self, argument: &PluginArgument) -> Result<(), Error> {
        let entry = PluginEntry {
            name: argument.name.clone(),
            alias: argument.alias.clone(),
            without: Vec::new(),
            lr: None,
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
    pub(super) fn set(&mut self, target: &str, key: &str, text: &str) -> Result<bool, Error> {
        let target = target.replace('-', "_");
        let Some(entry) = self
            .entries
            .iter_mut()
            .find(|entry| entry.handle() == target)
        else {
            return Ok(false);
        };
        // The plugin's schema decides whether `8` is a number or text; only what TOML alone can say is read as TOML here.
        let value = match toml_value(text) {
            Some(value @ (Value::String(_) | Value::Array(_) | Value::Table(_))) => value,
            _ => Value::String(text.to_owned()),
        };
        let wrong = |must: &str| Error::Value {
            key: format!("{target}.{key}"),
            must: must.to_owned(),
            origin: Origin::Set,
            value: shown(&value),
            instead: String::new(),
        };
        match key {
            "name" | "as" => return Err(wrong("given by --plugin NAME:OTHER")),
            "without" if text.is_empty() => entry.without.clear(),
            "without" => entry.without = slot_names(&value).ok_or_else(|| wrong(SLOT_NAMES))?,
            "lr" if text.is_empty() => entry.lr = None,
            "lr" => {
                let number = text.parse().ok().map(Value::Float);
                entry.lr = Some(
                    number
                        .and_then(|value| rate(&value))
                        .ok_or_else(|| wrong(RATE))?,
                );
            }
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

    pub(super) fn check_names(&self, layers: &Layers<RunFile>) -> Result<(), Error> {
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

    pub(super) fn handles(&self) -> Vec<String> {
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

const RATE: &str = "a number above 0";

/// A learning rate.
fn rate(value: &Value) -> Option<f64> {
    let number = match value {
        Value::Float(number) => *number,
        Value::Integer(number) => *number as f64,
        _ => return None,
    };
    (number > 0.0 && number.is_finite()).then_some(number)
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
