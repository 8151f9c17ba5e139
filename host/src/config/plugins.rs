//! The plugins of a run, found and checked without executing them: files, manifests, settings, and the composed step.
//!
//! `host plan` prints a [`Plan`]; a run loads what it names.

use std::path::PathBuf;

use serde_json::Value;

use super::error::Error;
use super::plugin_settings::check_plugin_settings;
use super::resolve::Resolved;
use crate::plugin::compose::{Choice, Composition, compose};
use crate::plugin::discover::{Found, Search};
use crate::plugin::preflight::{self, Checked};

/// One plugin of a run.
#[derive(Debug, Clone)]
pub struct Chosen {
    /// The name it goes by in this run.
    pub handle: String,
    /// Where its file was found, and which other files of the name were not taken.
    pub found: Found,
    /// Its file, checked but not executed, with its manifest.
    pub checked: Checked,
    /// The settings given to it, as a JSON object that fits its schema; what is not given has the plugin's default.
    pub settings: Value,
}

/// The plugins of a run and how they share its step.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The plugins, in the order of the run file and the command line; [`Composition::plugins`] has the calling order.
    pub plugins: Vec<Chosen>,
    /// The composed step.
    pub composition: Composition,
}

/// Finds the plugins of a run, reads what their files say about themselves, checks their settings and composes the step.
///
/// # Errors
/// The first of: a plugin that is not found, a file that is no plugin of this host, a setting that its schema refuses, plugins
/// that do not compose.
pub fn choose(resolved: &Resolved) -> Result<Plan, Error> {
    let dirs: Vec<PathBuf> = resolved.config.plugin_dir.clone();
    let search = Search::new(&dirs);
    let mut plugins = Vec::new();
    let mut choices = Vec::new();
    for entry in &resolved.config.plugin {
        let found = search.find(&entry.name)?;
        let checked = preflight::check(&found.path)?;
        let settings = check_plugin_settings(entry, &checked.manifest.settings, &resolved.origins)?;
        let handle = entry.handle();
        choices.push(Choice {
            // Settings, metrics and checkpoints use one name, also where a file is not named after its plugin.
            alias: Some(handle.clone()).filter(|handle| *handle != checked.manifest.id),
            manifest: checked.manifest.clone(),
            without: entry.without.clone(),
        });
        plugins.push(Chosen {
            handle,
            found,
            checked,
            settings,
        });
    }
    let composition = compose(&choices)?;
    Ok(Plan {
        plugins,
        composition,
    })
}
