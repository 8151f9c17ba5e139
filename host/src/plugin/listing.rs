//! What `host plugin list` and `host plugin inspect` tell, as data. No plugin is executed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::discover::{self, Found, Origin, Place, Search};
use super::manifest::{self, Manifest};
use super::preflight::{self, Checked};
use super::settings;
use super::slots::{Mode, Slot};

/// A plugin file of `host plugin list`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// The name to choose it by.
    pub name: String,
    /// Its file.
    pub path: PathBuf,
    /// Why it was found there.
    pub origin: Origin,
    /// Copies of the same name that are not used.
    pub shadowed: Vec<PathBuf>,
    /// The plugin's version, when its manifest could be read.
    pub version: Option<String>,
    /// One line about it, when its manifest could be read.
    pub summary: Option<String>,
    /// The slots it takes.
    pub slots: Vec<String>,
    /// Why this host would not load it; `None` when it would.
    pub problem: Option<String>,
}

/// `host plugin list`: every plugin in the places searched, and the places.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The plugins, by name.
    pub plugins: Vec<Entry>,
    /// The places searched, in order.
    pub searched: Vec<Place>,
}

/// Lists every plugin in the places searched. Libraries that are no plugins are left out; plugins that this host would refuse
/// are listed with the reason.
pub fn list(search: &Search) -> Listing {
    Listing {
        plugins: search.all().into_iter().filter_map(entry).collect(),
        searched: search.places().to_vec(),
    }
}

fn entry(found: Found) -> Option<Entry> {
    let read = preflight::read(&found.path);
    let problem = match &read {
        Err(preflight::Error::NotAPlugin { .. } | preflight::Error::NotALibrary { .. }) => {
            return None;
        }
        Err(error) => Some(error.to_string()),
        Ok(checked) => manifest::suits_this_host(&checked.manifest)
            .err()
            .map(|error| error.to_string()),
    };
    let manifest = read.ok().map(|checked| checked.manifest);
    Some(Entry {
        name: found.name,
        path: found.path,
        origin: found.origin,
        shadowed: found.shadowed,
        version: manifest.as_ref().map(|manifest| manifest.version.clone()),
        summary: manifest.as_ref().map(|manifest| manifest.summary.clone()),
        slots: manifest.map(|manifest| manifest.slots).unwrap_or_default(),
        problem,
    })
}

/// One slot of `host plugin inspect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SlotLine {
    /// The slot's name.
    pub name: String,
    /// How plugins share it; `None` for a slot this host does not have.
    pub mode: Option<Mode>,
    /// What a plugin decides there.
    pub does: Option<String>,
}

/// One setting of `host plugin inspect`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// The key.
    pub key: String,
    /// Type and range in words.
    pub takes: String,
    /// The choices, where there are only some.
    pub choices: Vec<Value>,
    /// The default; `None` when it must be given.
    pub default: Option<Value>,
    /// What it does.
    pub help: String,
}

/// `host plugin inspect NAME`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// Its file.
    pub path: PathBuf,
    /// Why it was found there.
    pub origin: Origin,
    /// Copies of the same name that are not used.
    pub shadowed: Vec<PathBuf>,
    /// The file's length in bytes.
    pub size: u64,
    /// The SHA-256 of the file.
    pub sha256: String,
    /// The manifest as it is.
    pub manifest: Manifest,
    /// The slots it takes.
    pub slots: Vec<SlotLine>,
    /// Its settings.
    pub settings: Vec<Setting>,
    /// Why this host would not load it; `None` when it would.
    pub problem: Option<String>,
}

/// Why there is nothing to tell about a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no file.
    #[error(transparent)]
    Discover(#[from] discover::Error),
    /// The file is no plugin.
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
}

/// Everything a plugin's file says about itself.
///
/// # Errors
/// There is no such file, or it is no plugin. A plugin for a newer host is no error: it is inspected with its problem.
pub fn inspect(search: &Search, name: &str) -> Result<Inspection, Error> {
    let found = search.find(name)?;
    let checked = preflight::read(&found.path)?;
    Ok(inspection(found, checked))
}

fn inspection(found: Found, checked: Checked) -> Inspection {
    let manifest = checked.manifest;
    let slots = manifest.slots.iter().map(|name| {
        let slot = Slot::from_name(name);
        SlotLine {
            name: name.clone(),
            mode: slot.map(Slot::mode),
            does: slot.map(|slot| slot.does().to_owned()),
        }
    });
    let properties = manifest
        .settings
        .get("properties")
        .and_then(Value::as_object);
    let settings = properties
        .into_iter()
        .flatten()
        .map(|(key, schema)| Setting {
            key: key.clone(),
            takes: settings::in_words(schema),
            choices: schema
                .get("enum")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            default: schema.get("default").cloned(),
            help: schema
                .get("description")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        });
    Inspection {
        path: checked.path,
        origin: found.origin,
        shadowed: found.shadowed,
        size: checked.size,
        sha256: checked.sha256,
        slots: slots.collect(),
        settings: settings.collect(),
        problem: manifest::suits_this_host(&manifest)
            .err()
            .map(|error| error.to_string()),
        manifest,
    }
}
