//! Cache folders keyed by content: what is costly to make is made once, and kept across runs.

use std::path::{Path, PathBuf};

use super::{CacheCommit, CacheOpen};
use crate::{Error, Host, Result, message::message};

message! {
    /// Names a cache folder.
    pub struct CacheIn {
        /// Everything the content depends on, as text; the host adds the plugin's id and the backbone's fingerprint.
        pub key: String,
        /// The staging folder, when committing.
        pub path: Option<String>,
    }
}

message! {
    /// A cache folder.
    pub struct CacheOut {
        /// Where it is.
        pub path: String,
        /// Whether its content is complete.
        pub complete: bool,
    }
}

/// A cache folder: filled, or empty and waiting to be; from [`Host::cache`].
#[derive(Debug)]
pub struct CacheEntry {
    key: String,
    path: PathBuf,
    complete: bool,
}

impl Host {
    /// The cache folder for `key`, which must spell out everything the content depends on (settings, seed, count; the host adds the
    /// plugin's id and the backbone's fingerprint).
    ///
    /// If [`CacheEntry::is_complete`], read it. If not, fill the folder and [`CacheEntry::commit`] it: only then can a later run see it,
    /// so a killed run leaves nothing half made.
    ///
    /// # Errors
    /// When the folder cannot be made.
    pub fn cache(&self, key: impl Into<String>) -> Result<CacheEntry> {
        let key = key.into();
        let out = self.call::<CacheOpen>(CacheIn {
            key: key.clone(),
            path: None,
        })?;
        Ok(CacheEntry {
            key,
            path: out.path.into(),
            complete: out.complete,
        })
    }
}

impl CacheEntry {
    /// Where the files are, or go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the content is complete, from this run or an earlier one.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Makes a filled folder permanent, and moves [`CacheEntry::path`] to where it is from now on.
    ///
    /// # Errors
    /// When the folder cannot be moved into place.
    pub fn commit(&mut self, host: &Host) -> Result<()> {
        if self.complete {
            return Ok(());
        }
        let path = self
            .path
            .to_str()
            .ok_or_else(|| Error::msg("the cache folder's path is not UTF-8"))?
            .to_owned();
        let out = host.call::<CacheCommit>(CacheIn {
            key: self.key.clone(),
            path: Some(path),
        })?;
        self.path = out.path.into();
        self.complete = out.complete;
        Ok(())
    }
}
