//! Models by their names on the Hugging Face Hub (`hf:ORG/NAME`), in the cache that its own tools keep on this machine. Only [`download()`] touches the network.

mod download;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

pub use download::download;

/// A model of the hub that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not on this machine.
    #[error("`{name}` is not in the cache at {}, and nothing is downloaded unasked: `host model download {name}` fetches it", cache.display())]
    NotCached {
        /// The name as given.
        name: String,
        /// Where it was looked for.
        cache: PathBuf,
    },
    /// What was given is no name.
    #[error(
        "`{0}` is no name of a model on the Hugging Face Hub: write hf:ORG/NAME, or hf:ORG/NAME@REVISION"
    )]
    Name(String),
    /// It is there, and is nothing that the host reads.
    #[error("`{0}` holds neither a pipeline (model_index.json) nor a model (config.json)")]
    NoModel(String),
    /// The hub or the disk refused.
    #[error(
        "cannot download `{name}` from {endpoint}: {reason}; check the name and the connection, and set HF_TOKEN for a model that is not public"
    )]
    Download {
        /// The name as given.
        name: String,
        /// The hub's address.
        endpoint: String,
        /// What went wrong.
        reason: String,
    },
}

/// What a name of the hub begins with where a path would stand.
const PREFIX: &str = "hf:";

/// Whether a text is a name of the hub and no path.
pub(crate) fn is_name(text: &str) -> bool {
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

/// The repository and the revision of a name without its prefix.
fn parts(name: &str) -> Option<(&str, &str)> {
    let (repository, revision) = name.split_once('@').unwrap_or((name, "main"));
    // A name is one or two plain words; anything else could step out of the cache.
    let plain = |word: &str| !word.is_empty() && !word.starts_with('.') && !word.contains('\\');
    let mut words = repository.split('/').chain(revision.split('/'));
    words.all(plain).then_some((repository, revision))
}

fn in_cache(root: &Path, name: &str) -> Result<PathBuf, Error> {
    let given = format!("{PREFIX}{name}");
    let Some((repository, revision)) = parts(name) else {
        return Err(Error::Name(given));
    };
    let folder = root.join(format!("models--{}", repository.replace('/', "--")));
    let commit = std::fs::read_to_string(folder.join("refs").join(revision));
    let commit = commit.map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
    let snapshot = folder.join("snapshots").join(commit);
    match snapshot.is_dir() {
        true => Ok(snapshot),
        false => Err(Error::NotCached {
            name: given,
            cache: root.to_path_buf(),
        }),
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
        for name in ["org/other", "org/tiny@v2"] {
            let message = in_cache(dir.path(), name).unwrap_err().to_string();
            let cache = dir.path().display().to_string();
            for part in [&cache, &format!("host model download hf:{name}")] {
                assert!(message.contains(part), "{message}");
            }
        }
        for name in ["../models--org--tiny", "org/tiny@../aaa", ""] {
            let refused = in_cache(dir.path(), name).unwrap_err();
            assert!(matches!(refused, Error::Name(_)), "{refused}");
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
