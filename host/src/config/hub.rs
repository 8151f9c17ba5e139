//! Models by their names on the Hugging Face Hub (`hf:ORG/NAME`), in the cache that its own tools keep on this machine. Nothing is downloaded.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::Error;

/// What a name of the hub begins with where a path would stand.
const PREFIX: &str = "hf:";

/// Whether a text is a name of the hub and no path.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The folder of a model that is named `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`; any other path as it is.
///
/// # Errors
/// A model that is not in the cache.
pub fn located(path: &Path) -> Result<PathBuf, Error> {
    match path.to_str().and_then(|text| text.strip_prefix(PREFIX)) {
        None => Ok(path.to_path_buf()),
        Some(name) => in_cache(&root(&|name| std::env::var_os(name)), name),
    }
}

/// Where the tools of the hub keep what they have downloaded, by the environment variables that they read.
fn root(variable: &dyn Fn(&str) -> Option<OsString>) -> PathBuf {
    let path = |name: &str| {
        variable(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    path("HF_HUB_CACHE")
        .or_else(|| Some(path("HF_HOME")?.join("hub")))
        .or_else(|| Some(path("XDG_CACHE_HOME")?.join("huggingface/hub")))
        .or_else(|| Some(path("HOME")?.join(".cache/huggingface/hub")))
        .unwrap_or_default()
}

fn in_cache(root: &Path, name: &str) -> Result<PathBuf, Error> {
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    let missing = || {
        let more = match revision {
            "main" => String::new(),
            revision => format!(" --revision {revision}"),
        };
        Error::NotCached {
            name: format!("{PREFIX}{name}"),
            cache: root.to_path_buf(),
            command: format!("hf download {repository}{more}"),
        }
    };
    // A name is one or two plain words; anything else could step out of the cache.
    let plain = |word: &str| !word.is_empty() && !word.starts_with('.') && !word.contains('\\');
    if !repository.split('/').chain(revision.split('/')).all(plain) {
        return Err(missing());
    }
    let folder = root.join(format!("models--{}", repository.replace('/', "--")));
    let commit = std::fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    match snapshot.is_dir() {
        true => Ok(snapshot),
        false => Err(missing()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_model_is_the_snapshot_that_its_revision_names() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("models--org--tiny");
        let (old, new) = (folder.join("snapshots/aaa"), folder.join("snapshots/bbb"));
        for place in [&old, &new, &folder.join("refs")] {
            std::fs::create_dir_all(place).unwrap();
        }
        std::fs::write(folder.join("refs/main"), "bbb\n").unwrap();
        assert_eq!(in_cache(dir.path(), "org/tiny").unwrap(), new);
        assert_eq!(in_cache(dir.path(), "org/tiny@aaa").unwrap(), old);
        for (name, command) in [
            ("org/other", "hf download org/other"),
            ("org/tiny@v2", "hf download org/tiny --revision v2"),
            ("../models--org--tiny", "hf download"),
        ] {
            let message = in_cache(dir.path(), name).unwrap_err().to_string();
            let cache = dir.path().display().to_string();
            let parts = [&format!("`hf:{name}`"), &cache, command];
            assert!(
                parts.iter().all(|part| message.contains(*part)),
                "{message}"
            );
        }
        let plain = Path::new("models/org");
        assert_eq!(located(plain).unwrap(), plain);
    }

    #[test]
    fn the_cache_is_where_the_hubs_tools_have_it() {
        let check = |given: &[(&str, &str)], expected: &str| {
            let found = root(&|name| {
                let entry = given.iter().find(|(known, _)| *known == name);
                entry.map(|(_, value)| OsString::from(value))
            });
            assert_eq!(found, Path::new(expected));
        };
        check(&[("HOME", "/u")], "/u/.cache/huggingface/hub");
        check(
            &[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")],
            "/x/huggingface/hub",
        );
        check(&[("HOME", "/u"), ("HF_HOME", "/h")], "/h/hub");
        check(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")], "/c");
        check(
            &[("HF_HUB_CACHE", ""), ("HOME", "/u")],
            "/u/.cache/huggingface/hub",
        );
    }
}
