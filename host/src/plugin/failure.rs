//! How a plugin can fail while it runs, each told with the plugin's name, the slot and the moment.

use std::fmt;

use plugin_api::Phase;

use super::slots::Slot;

/// The moment of a call, for a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The hook; `None` while the plugin is built.
    pub slot: Option<Slot>,
    /// The training step, from 0.
    pub step: u64,
    /// What the host was doing.
    pub phase: Phase,
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.slot {
            None => return f.write_str("while it was built"),
            Some(slot) => write!(f, "in `{slot}` ")?,
        }
        match self.phase {
            // People count steps from 1, as metrics and checkpoints do.
            Phase::TRAIN => write!(f, "at step {}", self.step + 1),
            Phase::PREPARE => f.write_str("before the first step"),
            Phase::SAMPLE => f.write_str("while sampling"),
            Phase::EVALUATE => f.write_str("while measuring a loss"),
            Phase::CHECKPOINT => f.write_str("while saving or restoring a checkpoint"),
            _ => write!(f, "after step {}", self.step),
        }
    }
}

/// Why a call into a plugin gave no answer that the host can use.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PluginError {
    /// The plugin's code panicked. It is not called again.
    #[error("plugin `{plugin}` panicked {moment}: {message} ({location})")]
    Panicked {
        /// The plugin's name in this run.
        plugin: String,
        /// When.
        moment: Moment,
        /// The panic's message.
        message: String,
        /// `file:line` in the plugin's source.
        location: String,
    },
    /// The plugin returned an error. It is not called again.
    #[error("plugin `{plugin}` failed {moment}: {message}")]
    Failed {
        /// The plugin's name in this run.
        plugin: String,
        /// When.
        moment: Moment,
        /// The plugin's sentence.
        message: String,
    },
    /// The plugin has failed before.
    #[error("plugin `{plugin}` is not called {moment}, because it failed earlier: {reason}")]
    Poisoned {
        /// The plugin's name in this run.
        plugin: String,
        /// When it would have been called.
        moment: Moment,
        /// How it failed.
        reason: String,
    },
    /// The plugin asked the host for something that would call the same plugin.
    #[error(
        "plugin `{plugin}` would be called {moment} from inside one of its own hooks: it should ask for the frozen model there"
    )]
    Reentrant {
        /// The plugin's name in this run.
        plugin: String,
        /// When.
        moment: Moment,
    },
    /// The plugin gave up because the run is being stopped.
    #[error("plugin `{plugin}` stopped {moment} as asked")]
    Cancelled {
        /// The plugin's name in this run.
        plugin: String,
        /// When.
        moment: Moment,
    },
    /// What the plugin returned does not fit.
    #[error("plugin `{plugin}` returned {what} of shape {got:?} {moment}, expected {expected}")]
    Shape {
        /// The plugin's name in this run.
        plugin: String,
        /// When.
        moment: Moment,
        /// What it returned.
        what: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape it should have.
        expected: String,
    },
    /// What the plugin returned has values that cannot be used.
    #[error("plugin `{plugin}` returned {what} {moment}: {reason}")]
    Value {
        /// The plugin's name in this run.
        plugin: String,
        /// When.
        moment: Moment,
        /// What it returned.
        what: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The state in a checkpoint is not for the plugins of this run.
    #[error("{0}")]
    State(String),
}

impl PluginError {
    /// Whether this is the plugin's doing, rather than a request to stop.
    pub fn is_failure(&self) -> bool {
        !matches!(self, PluginError::Cancelled { .. })
    }
}

/// For a session that runs a plugin's hooks while it answers another plugin.
impl From<PluginError> for plugin_api::Error {
    fn from(error: PluginError) -> Self {
        match error {
            PluginError::Reentrant { .. } => plugin_api::Error::Reentrant,
            PluginError::Cancelled { .. } => plugin_api::Error::Cancelled,
            other => plugin_api::Error::msg(other),
        }
    }
}
