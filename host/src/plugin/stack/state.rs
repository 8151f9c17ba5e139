//! Slot `state`: what plugins remember themselves, saved with checkpoints under the plugin's name, id and version.

use plugin_api::hooks::{SavedState, StateLoad, StateSave};
use plugin_api::services::NoIn;
use serde::{Deserialize, Serialize};

use super::Stack;
use crate::plugin::failure::PluginError;
use crate::plugin::foreign::Scene;
use crate::plugin::slots::Slot;

/// A plugin's state in a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PluginState {
    /// Whose it is and how it is laid out.
    pub header: Header,
    /// The plugin's own bytes.
    pub bytes: Vec<u8>,
}

/// Whose a saved state is and how it is laid out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The plugin's name in the run.
    pub name: String,
    /// The plugin's id.
    pub id: String,
    /// The plugin's version.
    pub version: String,
    /// The layout's revision, the plugin's own count.
    pub revision: u32,
    /// Number of bytes that follow.
    pub length: usize,
}

impl PluginState {
    /// The state as the bytes of a file: one line of JSON about it, then the plugin's bytes.
    pub fn to_file(&self) -> Vec<u8> {
        let mut file = serde_json::json!(self.header).to_string().into_bytes();
        file.push(b'\n');
        file.extend_from_slice(&self.bytes);
        file
    }

    /// Reads what [`PluginState::to_file`] wrote.
    ///
    /// # Errors
    /// The bytes are something else, or cut short.
    pub fn from_file(file: &[u8]) -> Result<Self, PluginError> {
        let damaged = |reason: &str| {
            PluginError::State(format!(
                "a plugin's state in the checkpoint is damaged: {reason}"
            ))
        };
        let end = file
            .iter()
            .position(|&byte| byte == b'\n')
            .ok_or_else(|| damaged("it has no header"))?;
        let header: Header =
            serde_json::from_slice(&file[..end]).map_err(|error| damaged(&error.to_string()))?;
        let bytes = file[end + 1..].to_vec();
        if bytes.len() != header.length {
            return Err(damaged(&format!(
                "{} bytes of {}",
                bytes.len(),
                header.length
            )));
        }
        Ok(Self { header, bytes })
    }
}

impl Stack {
    /// The state of every plugin that keeps one.
    ///
    /// # Errors
    /// A plugin fails.
    pub fn save_state(&self, scene: &Scene<'_>) -> Result<Vec<PluginState>, PluginError> {
        self.at(Slot::State)
            .map(|plugin| {
                let SavedState { bytes, revision } = plugin.call::<StateSave>(scene, NoIn {})?;
                let header = Header {
                    name: plugin.name().to_owned(),
                    id: plugin.id().to_owned(),
                    version: plugin.version().to_owned(),
                    revision,
                    length: bytes.len(),
                };
                Ok(PluginState { header, bytes })
            })
            .collect()
    }

    /// Gives every plugin its state back; after [`Stack::prepare`]. Where `lenient`, a state that no plugin takes is left out with a warning, and
    /// a plugin without one stays as it is.
    ///
    /// # Errors
    /// A plugin refuses its state; a state is of a plugin that this run lacks; a plugin that keeps state has none in the checkpoint.
    pub fn load_state(
        &self,
        scene: &Scene<'_>,
        saved: &[PluginState],
        lenient: bool,
    ) -> Result<(), PluginError> {
        let mut fitting = Vec::new();
        for state in saved {
            match (self.refuse_foreign(&state.header), lenient) {
                (Ok(()), _) => fitting.push(state),
                (Err(error), true) => tracing::warn!("{error}; it is left out"),
                (Err(error), false) => return Err(error),
            }
        }
        for plugin in self.at(Slot::State) {
            let state = fitting
                .iter()
                .find(|state| state.header.name == plugin.name());
            let Some(state) = state else {
                if lenient {
                    continue;
                }
                return Err(PluginError::State(format!(
                    "plugin `{}` keeps state, and the checkpoint has none of it",
                    plugin.name()
                )));
            };
            let message = SavedState {
                bytes: state.bytes.clone(),
                revision: state.header.revision,
            };
            plugin.call::<StateLoad>(scene, message)?;
        }
        Ok(())
    }

    /// Whether a saved state is of a plugin of this run that keeps one.
    fn refuse_foreign(&self, header: &Header) -> Result<(), PluginError> {
        let Header {
            name, id, version, ..
        } = header;
        let theirs = self.at(Slot::State).find(|plugin| plugin.name() == name);
        let plugin = theirs.ok_or_else(|| {
            PluginError::State(format!(
                "the checkpoint holds state of plugin `{name}`, which this run does not have"
            ))
        })?;
        if plugin.id() != id {
            return Err(PluginError::State(format!(
                "the checkpoint's state of `{name}` is of plugin `{id}` {version}, and in this run `{name}` is `{}`",
                plugin.id()
            )));
        }
        Ok(())
    }
}
