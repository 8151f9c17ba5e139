//! What a plugin's file says about itself, read from its manifest section without executing anything.
//!
//! Unknown fields are ignored, so that a plugin built against a newer `plugin-api` can still be inspected.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The name of the section that holds the manifest.
pub const SECTION: &str = if cfg!(target_vendor = "apple") {
    "__plugin_manif"
} else if cfg!(windows) {
    ".plugman"
} else {
    ".plugin_manifest"
};

/// The ABI this host offers.
pub const HOST_ABI: AbiVersion = AbiVersion { major: 1, minor: 0 };

/// An ABI version, written `major.minor`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AbiVersion {
    /// Never moves, by promise.
    pub major: u32,
    /// Moves with every addition.
    pub minor: u32,
}

impl AbiVersion {
    /// Whether a host of this version can run a plugin that needs `needed`.
    pub fn offers(self, needed: AbiVersion) -> bool {
        self.major == needed.major && self.minor >= needed.minor
    }
}

impl fmt::Display for AbiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl std::str::FromStr for AbiVersion {
    type Err = Error;

    /// Reads `1.2`, or `1.2.3` of which the last part means nothing here.
    fn from_str(text: &str) -> Result<Self, Error> {
        let mut parts = text.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(major)), Some(Ok(minor))) => Ok(Self { major, minor }),
            _ => Err(Error::Version {
                text: text.to_owned(),
            }),
        }
    }
}

impl Serialize for AbiVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for AbiVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// How the plugin was built to treat a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PanicStrategy {
    /// Panics unwind and can be contained.
    #[default]
    Unwind,
    /// Panics end the process: such a plugin is refused.
    Abort,
}

/// A plugin's manifest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// The plugin's id, e.g. `diff_tuning`.
    pub id: String,
    /// The plugin's own version.
    pub version: String,
    /// One line about what it does.
    #[serde(default)]
    pub description: String,
    /// The lowest host ABI it runs on.
    pub abi: AbiVersion,
    /// How it treats a panic.
    #[serde(default)]
    pub panic: PanicStrategy,
    /// The names of the slots it takes.
    pub slots: Vec<String>,
    /// Plugins that must be chosen too.
    #[serde(default)]
    pub requires: Vec<String>,
    /// Plugins it cannot run beside.
    #[serde(default)]
    pub conflicts: Vec<String>,
    /// Plugins that it must come before, if they are there.
    #[serde(default)]
    pub before: Vec<String>,
    /// Plugins that it must come after, if they are there.
    #[serde(default)]
    pub after: Vec<String>,
    /// The JSON Schema of its settings.
    #[serde(default)]
    pub settings: serde_json::Value,
}

/// What is wrong with a manifest, or between it and this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The section is not a manifest.
    #[error("the plugin's manifest does not parse: {reason}")]
    Parse {
        /// Where parsing failed.
        reason: String,
    },
    /// A version that is no version.
    #[error("`{text}` is not an ABI version of the form MAJOR.MINOR")]
    Version {
        /// The text.
        text: String,
    },
    /// The plugin needs a newer host.
    #[error(
        "plugin `{id}` needs host ABI {needs}, this host offers {offers}: update the host or use an older build of the plugin"
    )]
    TooNew {
        /// The plugin's id.
        id: String,
        /// The ABI it needs.
        needs: AbiVersion,
        /// The ABI of this host.
        offers: AbiVersion,
    },
    /// The plugin was built so that a panic would end the whole run.
    #[error(
        "plugin `{id}` was built with `panic = \"abort\"`, so one panic would end the run: build it with `panic = \"unwind\"`"
    )]
    Aborts {
        /// The plugin's id.
        id: String,
    },
}

impl Manifest {
    /// Reads a manifest from its section's bytes; zero bytes after the JSON are padding.
    ///
    /// # Errors
    /// The bytes are no manifest.
    pub fn parse(section: &[u8]) -> Result<Self, Error> {
        let end = section
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |last| last + 1);
        serde_json::from_slice(&section[..end]).map_err(|error| Error::Parse {
            reason: error.to_string(),
        })
    }

    /// Checks that this host can run the plugin.
    ///
    /// # Errors
    /// It needs a newer host, or was built to abort on a panic.
    pub fn suits_this_host(&self) -> Result<(), Error> {
        if !HOST_ABI.offers(self.abi) {
            return Err(Error::TooNew {
                id: self.id.clone(),
                needs: self.abi,
                offers: HOST_ABI,
            });
        }
        if self.panic == PanicStrategy::Abort {
            return Err(Error::Aborts {
                id: self.id.clone(),
            });
        }
        Ok(())
    }
}
