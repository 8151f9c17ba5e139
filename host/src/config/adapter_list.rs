//! The adapters of a run: those of the run file, under those of the command line.

use std::path::{Path, PathBuf};

use toml::Value;

use super::error::Error;
use super::layers::{Origin, shown};
use super::run_file::AdapterEntry;

/// One `--adapter`: PATH, or PATH=SCALE.
#[derive(Debug, Clone, PartialEq)]
pub struct AdapterArgument {
    /// The file or folder.
    pub path: PathBuf,
    /// How strongly it counts; absent, 1, or what the run file says.
    pub scale: Option<f64>,
}

impl std::str::FromStr for AdapterArgument {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // An equals sign may be part of a path; only a number behind it is a scale.
        let split = text
            .rsplit_once('=')
            .and_then(|(path, scale)| Some((path, scale.trim().parse().ok()?)));
        Ok(match split {
            Some((path, scale)) => Self {
                path: path.into(),
                scale: Some(scale),
            },
            None => Self {
                path: text.into(),
                scale: None,
            },
        })
    }
}

/// The entries of a run file, their paths relative to it made absolute.
///
/// # Errors
/// When `adapter` is not a list of entries, or one has a scale that is no finite number.
pub(super) fn of_file(value: Option<Value>, file: &Path) -> Result<Vec<AdapterEntry>, Error> {
    let Some(value) = value else {
        return Ok(Vec::new());
    };
    let origin = || Origin::File(file.to_owned());
    let Value::Array(items) = value else {
        return Err(Error::Value {
            key: "adapter".to_owned(),
            must: "a list, each entry written under [[adapter]]".to_owned(),
            origin: origin(),
            value: shown(&value),
            instead: String::new(),
        });
    };
    let base = file.parent().unwrap_or(Path::new(""));
    let entry = |item: Value| -> Result<AdapterEntry, Error> {
        let mut entry: AdapterEntry =
            item.try_into()
                .map_err(|error: toml::de::Error| Error::Refused {
                    key: "adapter".to_owned(),
                    origin: origin(),
                    reason: error
                        .message()
                        .lines()
                        .next()
                        .unwrap_or_default()
                        .to_owned(),
                })?;
        entry.path = super::resolve::absolute(&base.join(&entry.path));
        check(entry, &origin())
    };
    items.into_iter().map(entry).collect()
}

/// Lays the adapters of the command line over those of the run file: one that is there already gets the scale given, others follow.
///
/// # Errors
/// A scale that is no finite number.
pub(super) fn lay(
    entries: &mut Vec<AdapterEntry>,
    arguments: &[AdapterArgument],
) -> Result<(), Error> {
    for argument in arguments {
        let path = super::resolve::absolute(&argument.path);
        let given = AdapterEntry {
            path,
            scale: argument.scale.unwrap_or(1.0),
            sha256: None,
        };
        let given = check(given, &Origin::Flag("--adapter"))?;
        match entries.iter_mut().find(|known| known.path == given.path) {
            Some(known) => known.scale = argument.scale.unwrap_or(known.scale),
            None => entries.push(given),
        }
    }
    Ok(())
}

fn check(entry: AdapterEntry, origin: &Origin) -> Result<AdapterEntry, Error> {
    match entry.scale.is_finite() {
        true => Ok(entry),
        false => Err(Error::Value {
            key: "adapter.scale".to_owned(),
            must: "a finite number".to_owned(),
            origin: origin.clone(),
            value: entry.scale.to_string(),
            instead: String::new(),
        }),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn argument(text: &str) -> (PathBuf, Option<f64>) {
        let argument: AdapterArgument = text.parse().unwrap();
        (argument.path, argument.scale)
    }

    #[test]
    fn only_a_number_behind_the_last_equals_sign_is_a_scale() {
        assert_eq!(argument("a.safetensors"), ("a.safetensors".into(), None));
        assert_eq!(argument("a/b=0.5"), ("a/b".into(), Some(0.5)));
        assert_eq!(argument("rank=8/a"), ("rank=8/a".into(), None));
        assert_eq!(argument("rank=8/a=-1"), ("rank=8/a".into(), Some(-1.0)));
    }

    #[test]
    fn the_command_line_rescales_what_the_file_has_and_adds_what_it_has_not() {
        let file: toml::Table = "[[adapter]]\npath = \"one\"\nscale = 0.5\nsha256 = \"ab\"\n[[adapter]]\npath = \"two\""
            .parse()
            .unwrap();
        let mut entries =
            of_file(file.get("adapter").cloned(), Path::new("/runs/a/run.toml")).unwrap();
        let arguments =
            ["/runs/a/one=2", "/runs/a/two", "/three"].map(|text| text.parse().unwrap());
        lay(&mut entries, &arguments).unwrap();
        let told: Vec<_> = entries
            .iter()
            .map(|entry| {
                (
                    entry.path.to_str().unwrap(),
                    entry.scale,
                    entry.sha256.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("/runs/a/one", 2.0, Some("ab")),
                ("/runs/a/two", 1.0, None),
                ("/three", 1.0, None)
            ]
        );
        assert!(lay(&mut entries, &["/three=inf".parse().unwrap()]).is_err());
        let wrong = |text: &str| {
            let file: toml::Table = text.parse().unwrap();
            of_file(file.get("adapter").cloned(), Path::new("run.toml"))
                .unwrap_err()
                .to_string()
        };
        assert!(wrong("adapter = \"a\"").contains("[[adapter]]"));
        assert!(wrong("[[adapter]]\nscale = 1").contains("path"));
        assert!(wrong("[[adapter]]\npath = \"a\"\nweight = 1").contains("weight"));
    }
}
