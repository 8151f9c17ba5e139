//! The cache folder: what is costly to make and depends on nothing but its key, kept across runs.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::fs::Error;
use crate::user;

/// The folder of all caches: `HOST_CACHE_DIR`, else the user's cache directory, else the system's temporary one.
pub fn root() -> PathBuf {
    match std::env::var_os("HOST_CACHE_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => PathBuf::from(dir),
        None => user::folders().map_or_else(
            || std::env::temp_dir().join(user::NAME),
            |dirs| dirs.cache_dir().to_path_buf(),
        ),
    }
}

/// One entry: its final folder, and the folder to fill while it is not there.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where the content is once complete.
    pub path: PathBuf,
    /// Where it is made.
    pub staging: PathBuf,
}

impl Entry {
    /// The entry of everything in `key`, which is all that its content depends on.
    pub fn of(root: &Path, plugin: &str, key: &str) -> Self {
        let digest: String = Sha256::digest(key.as_bytes())
            .iter()
            .take(16)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let folder = root.join(plugin);
        Self {
            staging: folder.join(format!(".making-{digest}-{}", std::process::id())),
            path: folder.join(digest),
        }
    }

    /// Whether the content is there, whole.
    pub fn is_complete(&self) -> bool {
        self.path.is_dir()
    }

    /// Makes an empty staging folder.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn stage(&self) -> Result<(), Error> {
        if self.staging.exists() {
            std::fs::remove_dir_all(&self.staging)
                .map_err(|error| Error::io("clear", &self.staging, error))?;
        }
        std::fs::create_dir_all(&self.staging)
            .map_err(|error| Error::io("create", &self.staging, error))
    }

    /// Makes the staging folder the entry. One that another run completed meanwhile stays: its content is the same.
    ///
    /// # Errors
    /// What the disk refuses.
    pub fn commit(&self) -> Result<(), Error> {
        match std::fs::rename(&self.staging, &self.path) {
            Ok(()) => Ok(()),
            Err(_) if self.is_complete() => std::fs::remove_dir_all(&self.staging)
                .map_err(|error| Error::io("clear", &self.staging, error)),
            Err(error) => Err(Error::io("publish", &self.path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_entry_is_there_only_once_it_is_committed() {
        let root = tempfile::tempdir().unwrap();
        let entry = Entry::of(root.path(), "diff_tuning", "seed 1");
        entry.stage().unwrap();
        std::fs::write(entry.staging.join("0.png"), "image").unwrap();
        assert!(!entry.is_complete());
        entry.commit().unwrap();
        assert!(Entry::of(root.path(), "diff_tuning", "seed 1").is_complete());
        assert!(!Entry::of(root.path(), "diff_tuning", "seed 2").is_complete());
        assert!(!Entry::of(root.path(), "other", "seed 1").is_complete());
    }

    #[test]
    fn two_runs_that_make_the_same_entry_both_succeed() {
        let root = tempfile::tempdir().unwrap();
        let first = Entry::of(root.path(), "p", "k");
        let second = Entry {
            staging: first.staging.with_extension("other"),
            ..first.clone()
        };
        for entry in [&first, &second] {
            entry.stage().unwrap();
            std::fs::write(entry.staging.join("file"), "same").unwrap();
        }
        first.commit().unwrap();
        second.commit().unwrap();
        assert!(first.path.join("file").is_file() && !second.staging.exists());
    }
}
