//! Layers of values, each with its origin: what is written later wins, and every mistake is found in the layer that made it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use toml::{Table, Value};

use super::error::Error;
use super::suggest::{instead, nearest};

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody gave one.
    Default,
    /// The run file.
    File(PathBuf),
    /// A flag, with its dashes.
    Flag(&'static str),
    /// `--set`.
    Set,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("the default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Flag(flag) => f.write_str(flag),
            Self::Set => f.write_str("--set"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Default => "default",
            Self::File(_) => "file",
            Self::Flag(_) => "flag",
            Self::Set => "set",
        })
    }
}

/// Origins by key (`train.lr`, `diff_tuning.ratio`); a key without an entry has its default.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Origins(pub(super) BTreeMap<String, Origin>);

impl Origins {
    /// Where the value of `key` comes from.
    pub fn of(&self, key: &str) -> &Origin {
        self.0.get(key).unwrap_or(&Origin::Default)
    }
}

/// One value given by a flag.
#[derive(Debug, Clone, PartialEq)]
pub struct Assignment {
    /// Section of the run file.
    pub section: &'static str,
    /// Key in that section.
    pub key: &'static str,
    /// The value.
    pub value: Value,
    /// The flag, with its dashes.
    pub flag: &'static str,
}

/// Values of the sections of `T`, laid over each other and over `T`'s defaults.
#[derive(Debug)]
pub(super) struct Layers<T> {
    known: Vec<(String, Vec<String>)>,
    values: Table,
    origins: BTreeMap<String, Origin>,
    file_type: PhantomData<T>,
}

impl<T: Default + Serialize + DeserializeOwned> Layers<T> {
    pub(super) fn new() -> Self {
        Self {
            known: known_keys::<T>(),
            values: Table::new(),
            origins: BTreeMap::new(),
            file_type: PhantomData,
        }
    }

    /// Names of the sections.
    pub(super) fn sections(&self) -> Vec<String> {
        self.known
            .iter()
            .map(|(section, _)| section.clone())
            .collect()
    }

    pub(super) fn is_section(&self, name: &str) -> bool {
        self.known.iter().any(|(section, _)| section == name)
    }

    /// Lays every section of a parsed file over what is there.
    pub(super) fn lay_file(&mut self, file: Table, path: &Path) -> Result<(), Error> {
        let origin = Origin::File(path.to_owned());
        for (section, value) in file {
            if !self.is_section(&section) {
                let instead = instead(&section, &self.sections());
                return Err(Error::UnknownSection {
                    section,
                    origin,
                    instead,
                });
            }
            let Value::Table(keys) = value else {
                return Err(Error::Value {
                    must: format!("a section, written [{section}]"),
                    key: section,
                    value: shown(&value),
                    origin,
                    instead: String::new(),
                });
            };
            for (key, value) in keys {
                self.lay(&section, &key, value, origin.clone())?;
            }
        }
        Ok(())
    }

    /// Lays what flags of the command line say.
    pub(super) fn lay_flags(&mut self, flags: &[Assignment]) -> Result<(), Error> {
        for flag in flags {
            let origin = Origin::Flag(flag.flag);
            self.lay(flag.section, flag.key, flag.value.clone(), origin)?;
        }
        Ok(())
    }

    /// Lays one value over what is there, after checking that the key exists and takes such a value.
    pub(super) fn lay(
        &mut self,
        section: &str,
        key: &str,
        value: Value,
        origin: Origin,
    ) -> Result<(), Error> {
        self.check_key(section, key, &origin)?;
        check_type::<T>(section, key, &value, &origin)?;
        let keys = self
            .values
            .entry(section)
            .or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(keys) = keys {
            keys.insert(key.to_owned(), value);
        }
        self.origins.insert(format!("{section}.{key}"), origin);
        Ok(())
    }

    /// Lays a value written on the command line: TOML if it reads as TOML and fits, else the text itself. Nothing after the
    /// equals sign returns the key to its default.
    pub(super) fn lay_text(
        &mut self,
        section: &str,
        key: &str,
        text: &str,
        origin: Origin,
    ) -> Result<(), Error> {
        if text.is_empty() {
            self.check_key(section, key, &origin)?;
            if let Some(Value::Table(keys)) = self.values.get_mut(section) {
                keys.remove(key);
            }
            self.origins.remove(&format!("{section}.{key}"));
            return Ok(());
        }
        let bare = Value::String(text.to_owned());
        match toml_value(text) {
            Some(value) if check_type::<T>(section, key, &value, &origin).is_ok() => {
                self.lay(section, key, value, origin)
            }
            // `--set run.name=2024` means the text; a value that fits neither way is reported as written.
            Some(value) if check_type::<T>(section, key, &bare, &origin).is_err() => {
                self.lay(section, key, value, origin)
            }
            _ => self.lay(section, key, bare, origin),
        }
    }

    /// The value of a key, where some layer gives one.
    pub(super) fn get_mut(&mut self, section: &str, key: &str) -> Option<&mut Value> {
        self.values.get_mut(section)?.get_mut(key)
    }

    /// All layers as one `T`, with the origin of each key that is not a default.
    pub(super) fn finish(self) -> Result<(T, Origins), Error> {
        // Every value was checked alone when it was laid, so that only a defect of `T` itself can fail here.
        let file = Value::Table(self.values)
            .try_into()
            .map_err(|error: toml::de::Error| Error::Refused {
                key: "the run file".to_owned(),
                origin: Origin::Default,
                reason: error.message().trim().to_owned(),
            })?;
        Ok((file, Origins(self.origins)))
    }

    fn check_key(&self, section: &str, key: &str, origin: &Origin) -> Result<(), Error> {
        let keys = self
            .known
            .iter()
            .find(|(name, _)| name == section)
            .map(|(_, keys)| keys.as_slice())
            .unwrap_or_default();
        if keys.iter().any(|known| known == key) {
            return Ok(());
        }
        Err(Error::UnknownKey {
            section: section.to_owned(),
            key: key.to_owned(),
            origin: origin.clone(),
            instead: instead(key, keys),
        })
    }
}

/// Reads text as a TOML value.
pub(super) fn toml_value(text: &str) -> Option<Value> {
    // A line break would let the text write further keys.
    if text.contains(['\n', '\r']) {
        return None;
    }
    format!("value = {text}")
        .parse::<Table>()
        .ok()?
        .remove("value")
}

/// A value on one line, as TOML writes it.
pub(super) fn shown(value: &Value) -> String {
    value.to_string()
}

/// Every section of `T` and its keys, in the order of declaration; keys without a default are among them.
pub(super) fn known_keys<T: Default + Serialize>() -> Vec<(String, Vec<String>)> {
    super::listing::ordered(&T::default())
        .into_iter()
        .map(|(section, keys)| (section, keys.into_iter().map(|(key, _)| key).collect()))
        .collect()
}

/// Reads a `T` that holds this one value, and turns the reason why not into a sentence.
fn check_type<T: DeserializeOwned>(
    section: &str,
    key: &str,
    value: &Value,
    origin: &Origin,
) -> Result<(), Error> {
    let mut keys = Table::new();
    keys.insert(key.to_owned(), value.clone());
    let mut sections = Table::new();
    sections.insert(section.to_owned(), Value::Table(keys));
    let Err(error) = Value::Table(sections).try_into::<T>() else {
        return Ok(());
    };
    let (key, origin) = (format!("{section}.{key}"), origin.clone());
    let reason = error.message().lines().next().unwrap_or_default().trim();
    let wrong_kind = [
        "invalid type: ",
        "invalid value: ",
        "invalid length ",
        "unknown variant ",
    ];
    let Some((_, expected)) = reason
        .split_once(", expected ")
        .filter(|_| wrong_kind.iter().any(|kind| reason.starts_with(kind)))
    else {
        return Err(Error::Refused {
            key,
            origin,
            reason: reason.to_owned(),
        });
    };
    let instead = match value {
        Value::String(word) if reason.starts_with("unknown variant ") => {
            let near = nearest(word, expected.split('`').skip(1).step_by(2));
            near.map(|near| format!(", did you mean `{near}`?"))
                .unwrap_or_default()
        }
        _ => String::new(),
    };
    Err(Error::Value {
        key,
        must: in_words(expected),
        origin,
        value: shown(value),
        instead,
    })
}

/// What serde expects, in the words of a run file.
fn in_words(expected: &str) -> String {
    match expected {
        "f32" | "f64" => "a number".to_owned(),
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number of 0 or more".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "path string" => "text".to_owned(),
        "a sequence" => "a list".to_owned(),
        "a map" => "a table, as in { source = \"edges\" }".to_owned(),
        "an array of length 2" => "a list of 2 numbers".to_owned(),
        other => other.replace('`', ""),
    }
}
