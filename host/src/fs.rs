//! Files that are either wholly there or not there: what a run leaves behind must survive a kill, a power cut or a
//! full disk at any moment, so every file and every checkpoint folder is written under a temporary name in the same
//! folder, forced to disk, and only then renamed over what was there before.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

pub mod tensors;

/// Temporary files and folders begin with this; [`recover`] removes what a killed process left.
const TEMPORARY: &str = ".tmp-";
/// A folder that is being replaced waits under this prefix until its successor is in place.
const REPLACED: &str = ".old-";

/// What can go wrong on disk. Every variant names the path, and says what to do when the disk is the problem.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk or the user's quota is full.
    #[error(
        "cannot {action} {path}: the disk is full. Free some space or choose a folder on another disk; \
         what was saved before is intact, and the run can be resumed from it"
    )]
    DiskFull {
        /// What was being done, as in "write".
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The folder or disk does not let us write.
    #[error("cannot {action} {path}: permission denied. Choose a folder that you may write to")]
    Denied {
        /// What was being done, as in "write".
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Anything else the system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was being done, as in "write".
        action: &'static str,
        /// The file or folder it was done to.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path without a final name (such as `/` or `..`) cannot be written to.
    #[error("{path} does not name a file or folder")]
    NoName {
        /// The path as given.
        path: PathBuf,
    },
}

impl Error {
    /// Wraps what the system said about doing `action` (a verb, as in "write") to `path`.
    pub fn io(action: &'static str, path: impl Into<PathBuf>, source: io::Error) -> Self {
        let path = path.into();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull {
                action,
                path,
                source,
            },
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => Self::Denied {
                action,
                path,
                source,
            },
            _ => Self::Io {
                action,
                path,
                source,
            },
        }
    }

    /// True when making room on the disk would help.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }
}

/// Replaces the file at `path` by `bytes`; missing folders above it are created.
///
/// # Errors
/// On any failure the previous file, if there was one, is left as it was.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    write_atomic_with(path, |writer| writer.write_all(bytes))
}

/// As [`write_atomic`], with the content produced by `fill` through a buffered writer.
///
/// # Errors
/// On any failure, also one that `fill` returns, the previous file is left as it was and the temporary one is removed.
pub fn write_atomic_with(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), Error> {
    let parent = create_parent(path)?;
    let temporary = Temporary {
        path: parent.join(temporary_name(path)?),
        keep: false,
    };
    let io_error = |source| Error::io("write", path, source);

    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&temporary.path)
        .map_err(io_error)?;
    let mut writer = BufWriter::with_capacity(1 << 16, file);
    fill(&mut writer).map_err(io_error)?;
    let file = writer
        .into_inner()
        .map_err(|error| io_error(error.into_error()))?;
    // A rename may reach the disk before the data does; without this a power cut could leave an empty file.
    file.sync_all().map_err(io_error)?;
    drop(file);
    fs::rename(&temporary.path, path).map_err(io_error)?;
    temporary.keep();
    sync_dir(&parent)
}

/// Publishes a folder in one step: `fill` writes into a fresh temporary folder beside `path`, which is then forced to
/// disk and renamed to `path`. A folder that was at `path` is replaced; at no moment does `path` hold a part of one.
///
/// # Errors
/// What `fill` returns, or the host's own file error. In both cases what was at `path` before is left as it was.
pub fn publish_dir<T, E: From<Error>>(
    path: &Path,
    fill: impl FnOnce(&Path) -> Result<T, E>,
) -> Result<T, E> {
    let parent = create_parent(path)?;
    let staging = Temporary {
        path: parent.join(temporary_name(path)?),
        keep: false,
    };
    fs::create_dir(&staging.path).map_err(|e| Error::io("create", &staging.path, e))?;
    let value = fill(&staging.path)?;
    sync_tree(&staging.path)?;

    let io_error = |source| Error::io("publish", path, source);
    if path.symlink_metadata().is_ok() {
        let old = parent.join(prefixed(REPLACED, path)?);
        remove_any(&old)?;
        fs::rename(path, &old).map_err(io_error)?;
        if let Err(error) = fs::rename(&staging.path, path) {
            fs::rename(&old, path).map_err(io_error)?;
            return Err(io_error(error).into());
        }
        staging.keep();
        sync_dir(&parent)?;
        remove_any(&old)?;
    } else {
        fs::rename(&staging.path, path).map_err(io_error)?;
        staging.keep();
        sync_dir(&parent)?;
    }
    Ok(value)
}

/// Whether a name is one that this module gives to what is not complete yet.
pub fn is_temporary(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(TEMPORARY)
}

/// Puts a folder in order after a kill: half-written temporaries directly inside `dir` are removed, and a folder that
/// was moved aside by [`publish_dir`] whose successor never arrived is put back. Call it before anything else writes
/// there; returns what was removed or restored. A missing `dir` is fine.
///
/// # Errors
/// The first entry that cannot be removed or renamed.
pub fn recover(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(Error::io("read", dir, error)),
    };
    let mut touched = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| Error::io("read", dir, e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(TEMPORARY) {
            remove_any(&entry.path())?;
            touched.push(entry.path());
        } else if let Some(original) = name.strip_prefix(REPLACED) {
            let original = dir.join(original);
            if original.symlink_metadata().is_ok() {
                remove_any(&entry.path())?;
            } else {
                fs::rename(entry.path(), &original)
                    .map_err(|e| Error::io("restore", &original, e))?;
            }
            touched.push(original);
        }
    }
    touched.sort();
    Ok(touched)
}

/// Removes its path when dropped, unless told that it has become the real thing.
struct Temporary {
    path: PathBuf,
    keep: bool,
}

impl Temporary {
    fn keep(mut self) {
        self.keep = true;
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.keep {
            // Nothing better can be done while another error is on its way up; `recover` tries again next time.
            let _ = remove_any(&self.path);
        }
    }
}

fn create_parent(path: &Path) -> Result<PathBuf, Error> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent).map_err(|e| Error::io("create", parent, e))?;
    Ok(parent.to_path_buf())
}

fn prefixed(prefix: &str, path: &Path) -> Result<OsString, Error> {
    let name = path.file_name().ok_or_else(|| Error::NoName {
        path: path.to_path_buf(),
    })?;
    let mut result = OsString::from(prefix);
    result.push(name);
    Ok(result)
}

fn temporary_name(path: &Path) -> Result<OsString, Error> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = prefixed(TEMPORARY, path)?;
    name.push(format!(
        "-{}-{}",
        std::process::id(),
        NEXT.fetch_add(1, Ordering::Relaxed)
    ));
    Ok(name)
}

fn remove_any(path: &Path) -> Result<(), Error> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io("remove", path, error))
        }
        _ => Ok(()),
    }
}

fn sync_tree(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(|e| Error::io("read", dir, e))? {
        let entry = entry.map_err(|e| Error::io("read", dir, e))?;
        let path = entry.path();
        let kind = entry.file_type().map_err(|e| Error::io("read", &path, e))?;
        if kind.is_dir() {
            sync_tree(&path)?;
        } else if kind.is_file() {
            // Windows flushes only through a handle that may write.
            let file = OpenOptions::new().read(true).append(true).open(&path);
            file.and_then(|file| file.sync_all())
                .map_err(|e| Error::io("write", &path, e))?;
        }
    }
    sync_dir(dir)
}

/// Forces a folder's entries (a rename, a new file) to disk.
#[cfg(unix)]
fn sync_dir(dir: &Path) -> Result<(), Error> {
    match File::open(dir).and_then(|dir| dir.sync_all()) {
        // Some network and FUSE file systems cannot sync folders; there is nothing more to do for them.
        Err(e)
            if matches!(
                e.kind(),
                io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported
            ) =>
        {
            Ok(())
        }
        Err(error) => Err(Error::io("write", dir, error)),
        Ok(()) => Ok(()),
    }
}

/// Windows has no handle to sync a folder by; its journal orders the renames.
#[cfg(not(unix))]
fn sync_dir(_dir: &Path) -> Result<(), Error> {
    Ok(())
}

#[cfg(test)]
mod tests;
