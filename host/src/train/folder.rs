//! The run folder: made, continued or replaced, and never by accident.

use std::fs;
use std::path::{Path, PathBuf};

use crate::fs::{Error as FileError, is_temporary};

use super::{Error, checkpoint};

/// What to do with a folder that is there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// Refuse it.
    #[default]
    Refuse,
    /// Continue its run from the newest checkpoint, or from the beginning where it was stopped before its first one.
    Resume,
    /// Delete its run and start anew.
    Overwrite,
}

/// The resolved configuration of a run, inside its folder.
pub const RUN_FILE: &str = "run.toml";

/// What a run writes; [`Existing::Overwrite`] deletes this and nothing else.
const CONTENTS: [&str; 9] = [
    RUN_FILE,
    "metrics.jsonl",
    "report.json",
    "report.html",
    "eval.json",
    "samples",
    "checkpoints",
    "adapter",
    "plugins",
];

/// Checks a run folder without changing anything, so that a refusal comes before any work.
///
/// # Errors
/// A folder that exists where none may, or holds something else than a run.
pub fn check(run: &Path, existing: Existing) -> Result<(), Error> {
    // What a session killed at its very start had begun to write is nothing.
    let empty = match fs::read_dir(run) {
        Ok(mut entries) => {
            entries.all(|entry| entry.is_ok_and(|entry| is_temporary(&entry.file_name())))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
        Err(error) => return Err(FileError::io("open", run, error).into()),
    };
    let path = run.to_path_buf();
    let holds_run = run.join(RUN_FILE).is_file();
    match existing {
        Existing::Resume if holds_run || !checkpoint::steps(run).is_empty() => Ok(()),
        Existing::Resume => Err(Error::NothingToResume { path }),
        _ if empty => Ok(()),
        Existing::Refuse => Err(Error::FolderExists { path }),
        Existing::Overwrite if holds_run => Ok(()),
        Existing::Overwrite => Err(Error::NotARun { path }),
    }
}

/// Makes the folder, without an earlier run in it unless that is resumed.
///
/// # Errors
/// As [`check`], and what the disk refuses.
pub fn prepare(run: &Path, existing: Existing) -> Result<(), Error> {
    check(run, existing)?;
    if existing == Existing::Overwrite {
        clear(run)?;
    }
    fs::create_dir_all(run).map_err(|error| FileError::io("create", run, error))?;
    // What a killed session had begun to write.
    crate::fs::recover(run)?;
    crate::fs::recover(&run.join("checkpoints"))?;
    Ok(())
}

fn clear(run: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(run) else {
        return Ok(());
    };
    let written = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        CONTENTS.contains(&&*name) || name.starts_with("events.out.tfevents.")
    };
    let mut paths: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(written)
        .collect();
    // Last what says that this is a run: killed half-way, the rest can still be overwritten.
    paths.sort_by_key(|path| path.ends_with(RUN_FILE));
    for path in paths {
        let removed = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|error| FileError::io("remove", &path, error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_folder_with_anything_in_it_is_refused_unless_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("run");
        check(&run, Existing::Refuse).unwrap();
        prepare(&run, Existing::Refuse).unwrap();
        fs::write(run.join(".tmp-run.toml-1-0"), "killed here").unwrap();
        check(&run, Existing::Refuse).unwrap();
        fs::write(run.join("metrics.jsonl"), "old").unwrap();
        let error = check(&run, Existing::Refuse).unwrap_err().to_string();
        assert!(
            error.contains("--resume") && error.contains("--overwrite"),
            "{error}"
        );
        assert!(matches!(
            check(&run, Existing::Resume),
            Err(Error::NothingToResume { .. })
        ));
    }

    #[test]
    fn overwriting_deletes_a_run_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "years of work").unwrap();
        assert!(matches!(
            prepare(dir.path(), Existing::Overwrite),
            Err(Error::NotARun { .. })
        ));
        for name in [RUN_FILE, "metrics.jsonl", "events.out.tfevents.1.host"] {
            fs::write(dir.path().join(name), "old").unwrap();
        }
        prepare(dir.path(), Existing::Overwrite).unwrap();
        assert!(!dir.path().join("metrics.jsonl").exists());
        assert!(!dir.path().join("events.out.tfevents.1.host").exists());
        assert_eq!(
            fs::read_to_string(dir.path().join("thesis.tex")).unwrap(),
            "years of work"
        );
    }
}
