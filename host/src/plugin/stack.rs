//! The composed plugins of a run, as the training step and the sampler see them: one method a slot, which combines what its
//! plugins return by the slot's mode and checks it. Where no plugin takes an exclusive slot the method returns `None`, and the
//! caller does what it does by default.

mod checks;
mod layers;
mod sampling;
mod state;
#[cfg(test)]
mod tests;
mod training;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;

use plugin_api::services::NoIn;
use plugin_api::slots as calls;
use serde_json::{Map, Value};

pub use layers::AdaptedLayers;
pub use sampling::{OutputPicture, SampleBegin, SampleStep};
pub use state::PluginState;
pub use training::{Finished, NetworkInput, Predicted};

use super::compose::{self, Choice, Composition};
use super::failure::PluginError;
use super::foreign::{Foreign, Scene};
use super::load::{self, Loaded};
use super::resolve::Resolved;
use super::slots::Slot;

/// Why the plugins of a run could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file did not become a plugin.
    #[error(transparent)]
    Load(#[from] load::Error),
    /// A plugin refused its settings, or panicked.
    #[error(transparent)]
    Plugin(#[from] PluginError),
    /// The plugins do not compose.
    #[error(transparent)]
    Compose(#[from] compose::Error),
}

/// The plugins of a run, in calling order. Dropping it drops them; their code stays loaded.
#[derive(Debug)]
pub struct Stack {
    composition: Composition,
    plugins: Vec<Foreign>,
    /// Positions in `plugins`, in calling order.
    at: BTreeMap<Slot, Vec<usize>>,
    /// For each adaptable layer of the backbone, the plugins that adapt it; filled by [`Stack::choose_layers`].
    adapters: Vec<Vec<usize>>,
}

impl Stack {
    /// No plugin at all: every slot does what the host does by default.
    ///
    /// # Errors
    /// None in practice.
    pub fn empty() -> Result<Self, Error> {
        Ok(Self::new(compose::compose(&[])?, Vec::new()))
    }

    /// Loads the files and makes an instance of each plugin. Code of the plugins runs from here on.
    ///
    /// # Errors
    /// A file that does not load, or a plugin that refuses its settings.
    pub fn load(resolved: &Resolved, scene: &Scene<'_>) -> Result<Self, Error> {
        let mut loaded: HashMap<PathBuf, Loaded> = HashMap::new();
        let mut plugins = Vec::new();
        for (plugin, member) in resolved.plugins.iter().zip(&resolved.composition.plugins) {
            let path = plugin.checked.path.clone();
            let code = match loaded.get(&path) {
                Some(code) => code.clone(),
                None => load::load(&plugin.checked)?,
            };
            plugins.push(Foreign::create(
                &code,
                &member.name,
                &member.slots,
                &plugin.settings,
                scene,
            )?);
            loaded.insert(path, code);
        }
        Ok(Self::new(resolved.composition.clone(), plugins))
    }

    /// Composes plugins that are code already, each with its settings: for plugins linked into this program.
    ///
    /// # Errors
    /// The plugins do not compose, or one refuses its settings.
    pub fn linked(
        plugins: &[(Loaded, Map<String, Value>)],
        scene: &Scene<'_>,
    ) -> Result<Self, Error> {
        let choices: Vec<Choice> = plugins
            .iter()
            .map(|(code, _)| Choice::new(code.manifest().clone()))
            .collect();
        Self::composed(plugins, &choices, scene)
    }

    /// As [`Stack::linked`], with names and omitted slots of their own.
    ///
    /// # Errors
    /// As [`Stack::linked`].
    pub fn composed(
        plugins: &[(Loaded, Map<String, Value>)],
        choices: &[Choice],
        scene: &Scene<'_>,
    ) -> Result<Self, Error> {
        let composition = compose::compose(choices)?;
        let mut instances = Vec::new();
        for member in &composition.plugins {
            let (code, settings) = &plugins[member.chosen];
            instances.push(Foreign::create(
                code,
                &member.name,
                &member.slots,
                settings,
                scene,
            )?);
        }
        Ok(Self::new(composition, instances))
    }

    fn new(composition: Composition, plugins: Vec<Foreign>) -> Self {
        let mut at: BTreeMap<Slot, Vec<usize>> = BTreeMap::new();
        for (index, plugin) in plugins.iter().enumerate() {
            for &slot in plugin.slots() {
                at.entry(slot).or_default().push(index);
            }
        }
        Self {
            composition,
            plugins,
            at,
            adapters: Vec::new(),
        }
    }

    /// Who acts at which slot.
    pub fn composition(&self) -> &Composition {
        &self.composition
    }

    /// The plugins, in calling order.
    pub fn plugins(&self) -> &[Foreign] {
        &self.plugins
    }

    /// Whether any plugin takes a slot.
    pub fn takes(&self, slot: Slot) -> bool {
        self.at.contains_key(&slot)
    }

    /// The plugins of a slot, in calling order.
    fn at(&self, slot: Slot) -> impl Iterator<Item = &Foreign> {
        self.at
            .get(&slot)
            .into_iter()
            .flatten()
            .map(|&index| &self.plugins[index])
    }

    /// The plugin of an exclusive slot.
    fn only(&self, slot: Slot) -> Option<&Foreign> {
        self.at(slot).next()
    }

    /// Slot `trainable`: for each of its plugins, globs over the backbone's parameter names. Unite them with the run file's.
    ///
    /// # Errors
    /// A plugin fails.
    pub fn trainable(&self, scene: &Scene<'_>) -> Result<Vec<(String, Vec<String>)>, PluginError> {
        self.at(Slot::Trainable)
            .map(|plugin| {
                Ok((
                    plugin.name().to_owned(),
                    plugin.call::<calls::Trainable>(scene, NoIn {})?.globs,
                ))
            })
            .collect()
    }

    /// Slot `prepare`: once before the first step, also when resuming (then before [`Stack::load_state`]).
    ///
    /// # Errors
    /// A plugin fails.
    pub fn prepare(&self, scene: &Scene<'_>) -> Result<(), PluginError> {
        for plugin in self.at(Slot::Prepare) {
            plugin.call::<calls::Prepare>(scene, NoIn {})?;
        }
        Ok(())
    }
}
