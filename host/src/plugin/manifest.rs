//! A plugin's manifest against this host: where it is in a file, and whether this host can run what it describes.

use plugin_api::abi::{ABI_MAJOR, ABI_MINOR};
pub use plugin_api::manifest::{AbiVersion, Manifest};

/// The name of the section that holds the manifest, in this system's files.
pub const SECTION: &str = if cfg!(target_vendor = "apple") {
    plugin_api::manifest::SECTION_MACHO
} else if cfg!(windows) {
    plugin_api::manifest::SECTION_COFF
} else {
    plugin_api::manifest::SECTION_ELF
};

/// The ABI this host offers.
pub const HOST_ABI: AbiVersion = AbiVersion {
    major: ABI_MAJOR,
    minor: ABI_MINOR,
};

/// What is wrong with a manifest, or between it and this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The section holds no manifest.
    #[error("the plugin's manifest cannot be read: {reason}")]
    Parse {
        /// Where reading failed.
        reason: String,
    },
    /// The plugin needs another host.
    #[error(
        "plugin `{id}` needs host ABI {}.{}, this host offers {}.{}: update the host or use an older build of the plugin",
        .needs.major, .needs.minor, .offers.major, .offers.minor
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
        "plugin `{id}` was built with `panic = \"{strategy}\"`, so one panic would end the run: build it with `panic = \"unwind\"`"
    )]
    Aborts {
        /// The plugin's id.
        id: String,
        /// How it was built.
        strategy: String,
    },
}

/// Reads a manifest from its section's bytes.
///
/// # Errors
/// The bytes are no manifest.
pub fn parse(section: &[u8]) -> Result<Manifest, Error> {
    Manifest::from_section(section).map_err(|error| Error::Parse {
        reason: error.to_string(),
    })
}

/// Checks that this host can run the plugin.
///
/// # Errors
/// It needs a newer host, or was built to abort on a panic.
pub fn suits_this_host(manifest: &Manifest) -> Result<(), Error> {
    let (needs, offers) = (manifest.needs, HOST_ABI);
    if needs.major != offers.major || needs.minor > offers.minor {
        return Err(Error::TooNew {
            id: manifest.id.clone(),
            needs,
            offers,
        });
    }
    if manifest.panic != "unwind" {
        return Err(Error::Aborts {
            id: manifest.id.clone(),
            strategy: manifest.panic.clone(),
        });
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A manifest with nothing but a name and slots.
    pub(in crate::plugin) fn manifest(id: &str, slots: &[&str]) -> Manifest {
        Manifest {
            id: id.into(),
            version: "1.2.3".into(),
            summary: "Does nothing.".into(),
            slots: slots.iter().map(|&slot| slot.into()).collect(),
            requires: Vec::new(),
            conflicts: Vec::new(),
            before: Vec::new(),
            after: Vec::new(),
            settings: serde_json::json!({"type": "object", "properties": {}}),
            abi: HOST_ABI,
            needs: HOST_ABI,
            api_version: "1.0.0".into(),
            panic: "unwind".into(),
        }
    }

    #[test]
    fn a_plugin_for_a_newer_host_is_refused_with_both_versions() {
        let mut newer = manifest("x", &[]);
        newer.needs = AbiVersion {
            major: 1,
            minor: HOST_ABI.minor + 7,
        };
        let error = suits_this_host(&newer).unwrap_err().to_string();
        let expected = format!(
            "plugin `x` needs host ABI 1.{}, this host offers 1.{}: update the host or use an older build of the plugin",
            HOST_ABI.minor + 7,
            HOST_ABI.minor
        );
        assert_eq!(error, expected);
        newer.needs = AbiVersion { major: 2, minor: 0 };
        assert!(matches!(suits_this_host(&newer), Err(Error::TooNew { .. })));
    }

    #[test]
    fn what_a_plugin_was_built_with_does_not_matter_only_what_it_needs() {
        let mut newer = manifest("x", &[]);
        newer.abi = AbiVersion {
            major: 1,
            minor: HOST_ABI.minor + 7,
        };
        suits_this_host(&newer).unwrap();
    }

    #[test]
    fn a_plugin_that_aborts_is_refused() {
        let mut aborts = manifest("x", &[]);
        aborts.panic = "abort".into();
        let error = suits_this_host(&aborts).unwrap_err().to_string();
        assert!(
            error.contains("build it with `panic = \"unwind\"`"),
            "{error}"
        );
    }

    #[test]
    fn other_bytes_are_no_manifest() {
        assert!(matches!(parse(b"{}"), Err(Error::Parse { .. })));
        assert!(matches!(parse(b""), Err(Error::Parse { .. })));
    }
}
