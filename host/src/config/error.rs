//! What can be wrong with a run file or the command line; every message is one sentence that names the place and the way out.

use std::path::PathBuf;

use super::layers::Origin;

/// A mistake in a run file, a flag or a `--set`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the run file {}: {source}", path.display())]
    Read {
        /// The file asked for.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A model of the Hugging Face Hub that cannot be had.
    #[error(transparent)]
    Hub(#[from] crate::hub::Error),
    /// The file cannot be written.
    #[error(transparent)]
    Write(#[from] crate::fs::Error),
    /// The file is not TOML.
    #[error("{}, line {line}, column {column}: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line of the mistake, from 1.
        line: usize,
        /// Column of the mistake in characters, from 1.
        column: usize,
        /// What TOML expects there.
        message: String,
    },
    /// No section has this name.
    #[error("unknown section [{section}] in {origin}{instead}")]
    UnknownSection {
        /// The name as written.
        section: String,
        /// Where it was written.
        origin: Origin,
        /// The nearest known name, or all of them.
        instead: String,
    },
    /// No key of the section has this name.
    #[error("unknown key `{section}.{key}` in {origin}{instead}")]
    UnknownKey {
        /// The section.
        section: String,
        /// The key as written.
        key: String,
        /// Where it was written.
        origin: Origin,
        /// The nearest known key, or all of them.
        instead: String,
    },
    /// A value of the wrong type or out of its range.
    #[error("{key} must be {must}, but {origin} gives {value}{instead}")]
    Value {
        /// The key, with its section.
        key: String,
        /// What it must be.
        must: String,
        /// Where the value was written.
        origin: Origin,
        /// The value, as written in TOML.
        value: String,
        /// The nearest value that would do, if there is one.
        instead: String,
    },
    /// A value that its own type refuses, with that type's reason.
    #[error("{key} in {origin}: {reason}")]
    Refused {
        /// The key, with its section.
        key: String,
        /// Where the value was written.
        origin: Origin,
        /// The reason, a clause.
        reason: String,
    },
    /// `--set` without the form SECTION.KEY=VALUE.
    #[error("`--set {text}` is not of the form SECTION.KEY=VALUE")]
    SetForm {
        /// The argument as written.
        text: String,
    },
    /// `--set` names neither a section nor a plugin of this run.
    #[error("`--set {text}`: `{target}` is neither a section nor a plugin of this run{instead}")]
    SetTarget {
        /// The argument as written.
        text: String,
        /// Its part before the first dot.
        target: String,
        /// The nearest target, or all of them.
        instead: String,
    },
    /// Two plugins of one run answer to the same name.
    #[error("two plugins are called `{handle}`")]
    SamePlugin {
        /// The shared name.
        handle: String,
    },
    /// A plugin answers to the name of a section.
    #[error(
        "a plugin cannot be called `{handle}`, because [{handle}] is a section of the run file"
    )]
    PluginIsSection {
        /// The name.
        handle: String,
    },
    /// A plugin's name or `as` is not a name.
    #[error("`{handle}` in {origin} is no name for a plugin: use letters, digits and underscores")]
    PluginName {
        /// The name as written.
        handle: String,
        /// Where it was written.
        origin: Origin,
    },
}

impl Error {
    /// The way out, where the sentence itself does not say it.
    pub fn help(&self) -> Option<String> {
        match self {
            Self::SetForm { .. } => Some(
                "for example `--set train.lr=1e-4` or `--set diff_tuning.ratio=0.2`".to_owned(),
            ),
            Self::SetTarget { target, .. } => Some(format!(
                "if `{target}` is a plugin, add `--plugin {target}`"
            )),
            Self::SamePlugin { handle } | Self::PluginIsSection { handle } => Some(format!(
                "give one another name: `as = \"second\"` in its [[plugin]], or `--plugin \"{handle} as second\"`"
            )),
            _ => None,
        }
    }
}
