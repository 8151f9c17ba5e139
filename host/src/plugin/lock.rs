//! `plugins.lock`: which plugin files a run was made with, by SHA-256, so that `--locked` runs exactly these again.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::preflight::Checked;
use crate::fs;

/// One locked plugin file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Locked {
    /// The plugin's id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The SHA-256 of its file, in lower-case hexadecimal.
    pub sha256: String,
}

/// The contents of a `plugins.lock`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The plugins, sorted by id.
    #[serde(default, rename = "plugin")]
    pub plugins: Vec<Locked>,
}

/// Why the plugins of a run are not those of its lock file.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The lock file cannot be read.
    #[error("cannot read the lock file {}: {source}", .path.display())]
    Unreadable {
        /// The lock file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The lock file cannot be written.
    #[error(transparent)]
    Unwritable(#[from] fs::Error),
    /// The lock file is not in its format.
    #[error("{} is no lock file: {reason}", .path.display())]
    Format {
        /// The lock file.
        path: PathBuf,
        /// Where it fails to parse.
        reason: String,
    },
    /// A plugin that the lock file does not name.
    #[error("`{id}` is not in the lock file; write it anew with `host plugin lock`")]
    NotLocked {
        /// The plugin's id.
        id: String,
    },
    /// The file has changed since.
    #[error("{} is not the locked `{id}`: its SHA-256 is {found}, locked is {locked} (version {version})", .path.display())]
    Changed {
        /// The plugin's id.
        id: String,
        /// The file found.
        path: PathBuf,
        /// The SHA-256 of that file.
        found: String,
        /// The SHA-256 in the lock file.
        locked: String,
        /// The version in the lock file.
        version: String,
    },
}

impl Lock {
    /// Locks these plugin files.
    pub fn of<'a>(plugins: impl IntoIterator<Item = &'a Checked>) -> Self {
        let mut plugins: Vec<Locked> = plugins
            .into_iter()
            .map(|checked| Locked {
                id: checked.manifest.id.clone(),
                version: checked.manifest.version.clone(),
                sha256: checked.sha256.clone(),
            })
            .collect();
        plugins.sort_by(|a, b| a.id.cmp(&b.id));
        plugins.dedup();
        Self { plugins }
    }

    /// Reads a lock file.
    ///
    /// # Errors
    /// It is missing, unreadable, or not a lock file.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|error| Error::Format {
            path: path.to_owned(),
            reason: error.message().to_owned(),
        })
    }

    /// Writes the lock file, in place of one that is there.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let body = toml::to_string(self).map_err(|error| Error::Format {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        let text = format!(
            "# Written by `host plugin lock`; `host run --locked` runs exactly these files.\n{body}"
        );
        Ok(fs::write_atomic(path, text.as_bytes())?)
    }

    /// Locked mode: every file must be the one locked.
    ///
    /// # Errors
    /// The first plugin that is not locked, or whose file has changed.
    pub fn verify<'a>(&self, plugins: impl IntoIterator<Item = &'a Checked>) -> Result<(), Error> {
        for checked in plugins {
            let id = &checked.manifest.id;
            let locked = self
                .plugins
                .iter()
                .find(|locked| locked.id == *id)
                .ok_or_else(|| Error::NotLocked { id: id.clone() })?;
            if locked.sha256 != checked.sha256 {
                return Err(Error::Changed {
                    id: id.clone(),
                    path: checked.path.clone(),
                    found: checked.sha256.clone(),
                    locked: locked.sha256.clone(),
                    version: locked.version.clone(),
                });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::plugin::manifest::tests::manifest;

    fn checked(id: &str, sha256: &str) -> Checked {
        Checked {
            path: PathBuf::from(format!("lib{id}.so")),
            size: 1,
            sha256: sha256.into(),
            manifest: manifest(id, &[]),
        }
    }

    #[test]
    fn a_lock_file_accepts_its_own_plugins_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins.lock");
        Lock::of(&[checked("b", "22"), checked("a", "11")])
            .write(&path)
            .unwrap();
        let lock = Lock::read(&path).unwrap();
        assert_eq!(lock.plugins[0].id, "a");
        lock.verify(&[checked("a", "11")]).unwrap();
        let changed = lock.verify(&[checked("a", "12")]).unwrap_err();
        assert!(
            changed
                .to_string()
                .contains("its SHA-256 is 12, locked is 11"),
            "{changed}"
        );
        let unknown = lock.verify(&[checked("c", "33")]).unwrap_err();
        assert!(matches!(unknown, Error::NotLocked { .. }));
    }

    #[test]
    fn another_file_is_no_lock_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plugins.lock");
        std::fs::write(&path, "steps = 3\n").unwrap();
        assert!(matches!(Lock::read(&path), Err(Error::Format { .. })));
    }
}
