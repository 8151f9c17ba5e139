//! Settings against the schema in a plugin's manifest: resolved and checked before any of the plugin's code runs.
//!
//! The plugin parses and checks them again; this is where a person learns of a mistake early, with the key and the range.

use serde_json::{Map, Value};

use super::discover::near_names;

/// Why a setting is refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Error {
    /// The plugin has no such setting.
    #[error("unknown setting `{plugin}.{key}`{}", hint(.near, .known))]
    Unknown {
        /// The plugin's name in this run.
        plugin: String,
        /// The key given.
        key: String,
        /// Keys with similar names.
        near: Vec<String>,
        /// Every key the plugin has.
        known: Vec<String>,
    },
    /// The value is of another type.
    #[error("`{plugin}.{key}` must be {expected}, not `{got}`")]
    Type {
        /// The plugin's name in this run.
        plugin: String,
        /// The key.
        key: String,
        /// The type in words.
        expected: String,
        /// The value given.
        got: Value,
    },
    /// The value is outside its range.
    #[error("`{plugin}.{key}` must be {range}, not {got}")]
    Range {
        /// The plugin's name in this run.
        plugin: String,
        /// The key.
        key: String,
        /// The range in words.
        range: String,
        /// The value given.
        got: Value,
    },
    /// The value is none of the choices.
    #[error("`{plugin}.{key}` must be {}, not {got}{}", .choices.join(" or "), hint(.near, &[]))]
    Choice {
        /// The plugin's name in this run.
        plugin: String,
        /// The key.
        key: String,
        /// The choices, quoted.
        choices: Vec<String>,
        /// Choices with similar names.
        near: Vec<String>,
        /// The value given.
        got: Value,
    },
    /// A setting without a default was not given.
    #[error("`{plugin}.{key}` must be given: {expected}")]
    Missing {
        /// The plugin's name in this run.
        plugin: String,
        /// The key.
        key: String,
        /// The type in words.
        expected: String,
    },
}

fn hint(near: &[String], known: &[String]) -> String {
    let quoted = |names: &[String]| names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>();
    match (near, known) {
        ([], []) => String::new(),
        ([], known) => format!("; it has {}", quoted(known).join(", ")),
        (near, _) => format!(", did you mean {}?", quoted(near).join(" or ")),
    }
}

/// Checks the settings given for a plugin against its schema and fills in every default.
///
/// Text is read as the type the schema asks for, so that `--set lora.rank=8` and `rank = 8` in a run file mean the same.
///
/// # Errors
/// The first key that is unknown, of the wrong type, out of range, or missing.
pub fn resolve(plugin: &str, schema: &Value, given: &Map<String, Value>) -> Result<Map<String, Value>, Error> {
    let empty = Map::new();
    let properties = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let mut resolved: Map<String, Value> = properties
        .iter()
        .filter_map(|(key, property)| Some((key.clone(), property.get("default")?.clone())))
        .collect();
    for (key, value) in given {
        let property = properties.get(key).ok_or_else(|| Error::Unknown {
            plugin: plugin.to_owned(),
            key: key.clone(),
            near: near_names(key, properties.keys().cloned()),
            known: properties.keys().cloned().collect(),
        })?;
        resolved.insert(key.clone(), Check { plugin, key, schema: property }.value(value)?);
    }
    let required = schema.get("required").and_then(Value::as_array);
    for key in required.into_iter().flatten().filter_map(Value::as_str) {
        if !resolved.contains_key(key) {
            return Err(Error::Missing {
                plugin: plugin.to_owned(),
                key: key.to_owned(),
                expected: properties.get(key).map(in_words).unwrap_or_default(),
            });
        }
    }
    Ok(resolved)
}

struct Check<'a> {
    plugin: &'a str,
    key: &'a str,
    schema: &'a Value,
}

impl Check<'_> {
    fn value(&self, given: &Value) -> Result<Value, Error> {
        let value = self.typed(given)?;
        self.choice(&value)?;
        self.range(&value)?;
        Ok(value)
    }

    /// The value as the schema's type; text and whole numbers are converted where nothing is lost.
    fn typed(&self, given: &Value) -> Result<Value, Error> {
        let types = types(self.schema);
        let as_given = types.is_empty() || types.contains(&type_name(given));
        let converted = as_given.then(|| given.clone()).or_else(|| types.iter().find_map(|&wanted| match (wanted, given) {
            ("number", Value::Number(_)) => Some(given.clone()),
            ("integer", Value::Number(number)) => {
                let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 2f64.powi(53))?;
                Some(Value::from(whole as i64))
            }
            (_, Value::String(text)) => read(wanted, text),
            _ => None,
        }));
        let value = converted.ok_or_else(|| Error::Type {
            plugin: self.plugin.to_owned(),
            key: self.key.to_owned(),
            expected: in_words(self.schema),
            got: given.clone(),
        })?;
        let (Value::Array(items), Some(item)) = (&value, self.schema.get("items")) else {
            return Ok(value);
        };
        let check = Check { schema: item, ..*self };
        let items: Result<Vec<Value>, Error> = items.iter().map(|item| check.value(item)).collect();
        Ok(Value::Array(items?))
    }

    fn choice(&self, value: &Value) -> Result<(), Error> {
        let Some(choices) = self.schema.get("enum").and_then(Value::as_array) else {
            return Ok(());
        };
        if choices.contains(value) {
            return Ok(());
        }
        let names = choices.iter().filter_map(Value::as_str).map(str::to_owned);
        Err(Error::Choice {
            plugin: self.plugin.to_owned(),
            key: self.key.to_owned(),
            choices: choices.iter().map(Value::to_string).collect(),
            near: near_names(value.as_str().unwrap_or_default(), names),
            got: value.clone(),
        })
    }

    fn range(&self, value: &Value) -> Result<(), Error> {
        let Some(number) = value.as_f64() else {
            return Ok(());
        };
        let bound = |name: &str| self.schema.get(name).and_then(Value::as_f64);
        let inside = bound("minimum").is_none_or(|bound| number >= bound)
            && bound("maximum").is_none_or(|bound| number <= bound)
            && bound("exclusiveMinimum").is_none_or(|bound| number > bound)
            && bound("exclusiveMaximum").is_none_or(|bound| number < bound);
        if inside {
            return Ok(());
        }
        Err(Error::Range {
            plugin: self.plugin.to_owned(),
            key: self.key.to_owned(),
            range: range_in_words(self.schema),
            got: value.clone(),
        })
    }
}

/// Text from the command line as a value of the wanted type.
fn read(wanted: &str, text: &str) -> Option<Value> {
    let text = text.trim();
    match wanted {
        "integer" => text.parse::<i64>().ok().map(Value::from),
        "number" => text.parse::<f64>().ok().filter(|n| n.is_finite()).map(Value::from),
        "boolean" => text.parse::<bool>().ok().map(Value::from),
        "null" => (text == "null" || text == "none").then_some(Value::Null),
        "array" if text.starts_with('[') => serde_json::from_str(text).ok(),
        "array" if text.is_empty() => Some(Value::Array(Vec::new())),
        "array" => Some(text.split(',').map(|item| Value::from(item.trim())).collect()),
        "object" => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    }
}

fn types(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_i64() || number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A setting's type and range for a person: `a number from 0 to 1`.
pub fn in_words(schema: &Value) -> String {
    let names: Vec<&str> = types(schema)
        .into_iter()
        .map(|name| match name {
            "integer" => "a whole number",
            "number" => "a number",
            "boolean" => "true or false",
            "string" => "text",
            "array" => "a list",
            "object" => "a table",
            "null" => "nothing",
            other => other,
        })
        .collect();
    let range = range_in_words(schema);
    match (names.join(" or "), range.as_str()) {
        (names, "") => names,
        (names, range) => format!("{names} {range}"),
    }
}

fn range_in_words(schema: &Value) -> String {
    let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number());
    let low = bound("minimum").map(|low| (format!("from {low}"), format!("at least {low}")));
    let low = low.or_else(|| bound("exclusiveMinimum").map(|low| (format!("above {low}"), format!("above {low}"))));
    let high = bound("maximum").map(|high| (format!("to {high}"), format!("at most {high}")));
    let high = high.or_else(|| bound("exclusiveMaximum").map(|high| (format!("and below {high}"), format!("below {high}"))));
    match (low, high) {
        (Some((low, _)), Some((high, _))) => format!("{low} {high}"),
        (Some((_, alone)), None) | (None, Some((_, alone))) => alone,
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "properties": {
                "memory": {"type": "integer", "default": 64, "minimum": 1},
                "ratio": {"type": "number", "default": 0.2, "minimum": 0, "maximum": 1},
                "mode": {"type": "string", "default": "sampling", "enum": ["sampling", "weighting"]},
                "flip": {"type": "boolean", "default": false},
                "targets": {"type": "array", "items": {"type": "string"}, "default": ["*.to_q"]},
                "betas": {"type": "array", "items": {"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "default": [0.9]},
                "cap": {"type": ["number", "null"], "default": null},
            }
        })
    }

    fn check(given: Value) -> Result<Map<String, Value>, String> {
        resolve("p", &schema(), given.as_object().unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_given_is_all_defaults() {
        let resolved = check(json!({})).unwrap();
        assert_eq!(resolved["memory"], 64);
        assert_eq!(resolved["mode"], "sampling");
        assert_eq!(resolved.len(), 7);
    }

    #[test]
    fn text_from_the_command_line_is_read_as_the_schemas_type() {
        let given = json!({"memory": "8", "ratio": "0.5", "flip": "true", "targets": "a, b", "betas": "[0.1, 0]", "cap": "2", "mode": "weighting"});
        let resolved = check(given).unwrap();
        let expected = json!({"memory": 8, "ratio": 0.5, "flip": true, "targets": ["a", "b"], "betas": [0.1, 0], "cap": 2.0, "mode": "weighting"});
        assert_eq!(Value::Object(resolved), expected);
        assert_eq!(check(json!({"ratio": 1})).unwrap()["ratio"], 1);
        assert_eq!(check(json!({"memory": 8.0})).unwrap()["memory"], 8);
    }

    #[test]
    fn every_refusal_says_what_would_do() {
        for (given, sentence) in [
            (json!({"memmory": 3}), "unknown setting `p.memmory`, did you mean `memory`?"),
            (json!({"memory": "many"}), "`p.memory` must be a whole number at least 1, not `\"many\"`"),
            (json!({"memory": 1.5}), "`p.memory` must be a whole number at least 1, not `1.5`"),
            (json!({"memory": 0}), "`p.memory` must be at least 1, not 0"),
            (json!({"ratio": 1.5}), "`p.ratio` must be from 0 to 1, not 1.5"),
            (json!({"ratio": "nan"}), "`p.ratio` must be a number from 0 to 1, not `\"nan\"`"),
            (json!({"mode": "weigthing"}), "`p.mode` must be \"sampling\" or \"weighting\", not \"weigthing\", did you mean `weighting`?"),
            (json!({"flip": 1}), "`p.flip` must be true or false, not `1`"),
            (json!({"betas": [0.5, 1]}), "`p.betas` must be from 0 and below 1, not 1"),
            (json!({"betas": [true]}), "`p.betas` must be a number from 0 and below 1, not `true`"),
            (json!({"targets": [1]}), "`p.targets` must be text, not `1`"),
        ] {
            assert_eq!(check(given.clone()).unwrap_err(), sentence, "{given}");
        }
        let far = check(json!({"zzz": 1})).unwrap_err();
        assert!(far.contains("; it has `betas`, `cap`"), "{far}");
    }

    #[test]
    fn a_setting_without_default_must_be_given() {
        let schema = json!({"properties": {"path": {"type": "string"}}, "required": ["path"]});
        let error = resolve("p", &schema, &Map::new()).unwrap_err();
        assert_eq!(error.to_string(), "`p.path` must be given: text");
    }
}
