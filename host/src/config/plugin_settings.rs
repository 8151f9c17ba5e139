//! A plugin's settings against the JSON Schema in its manifest: listed with their defaults, and checked before the plugin runs.
//!
//! The schema is the flat kind that `#[derive(Settings)]` writes: an object whose properties are numbers, words, truth values
//! and lists, each with a default, and where they apply with bounds or choices.

use serde_json::Value;

use super::error::Error;
use super::layers::{Origins, shown};
use super::run_file::PluginEntry;
use super::suggest::{instead, nearest};

/// One setting, as its schema describes it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct PluginSetting {
    /// Its key.
    pub key: String,
    /// What it must be, in words: "a number from 0 to 1", "one of sampling, weighting".
    pub must: String,
    /// The value it has when none is given; null for a setting that may be left out.
    pub default: Value,
    /// What it does, one paragraph.
    pub description: String,
    #[serde(skip)]
    schema: Value,
}

/// The settings that a schema describes, in its order.
pub fn plugin_settings(schema: &Value) -> Vec<PluginSetting> {
    let Some(properties) = schema["properties"].as_object() else {
        return Vec::new();
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().trim().to_owned();
    let setting = |(key, schema): (&String, &Value)| PluginSetting {
        key: key.clone(),
        must: in_words(schema),
        default: schema["default"].clone(),
        description: text(&schema["description"]),
        schema: schema.clone(),
    };
    properties.iter().map(setting).collect()
}

/// Checks the settings given to a plugin and gives them as JSON, in the types that its schema asks for. What is not given is
/// left to the plugin's own defaults.
///
/// # Errors
/// An unknown setting, a wrong type, a value out of range: one sentence with the place it was written at.
pub fn check_plugin_settings(
    entry: &PluginEntry,
    schema: &Value,
    origins: &Origins,
) -> Result<Value, Error> {
    let handle = entry.handle();
    let known = plugin_settings(schema);
    let mut given = serde_json::Map::new();
    for (key, value) in &entry.settings {
        let origin = origins.of(&format!("{handle}.{key}"));
        let Some(setting) = known.iter().find(|setting| setting.key == *key) else {
            let keys: Vec<String> = known.iter().map(|setting| setting.key.clone()).collect();
            return Err(Error::UnknownSetting {
                plugin: handle,
                key: key.clone(),
                origin: origin.clone(),
                instead: if keys.is_empty() {
                    "; the plugin has no settings".to_owned()
                } else {
                    instead(key, &keys)
                },
            });
        };
        let value = fitted(value, &setting.schema);
        if !fits(&value, &setting.schema) {
            let word = value.as_str().unwrap_or_default();
            let near = nearest(word, choices(&setting.schema))
                .map(|near| format!(", did you mean `{near}`?"));
            return Err(Error::Value {
                key: format!("{handle}.{key}"),
                must: setting.must.clone(),
                origin: origin.clone(),
                value: shown(&entry.settings[key]),
                instead: near.unwrap_or_default(),
            });
        }
        given.insert(key.clone(), value);
    }
    Ok(Value::Object(given))
}

/// A TOML value as JSON, in the type the schema asks for where the two notations differ: a whole number given for a number,
/// and bare text of the command line that reads as a number or a truth value.
fn fitted(value: &toml::Value, schema: &Value) -> Value {
    let json = serde_json::to_value(value).unwrap_or_default();
    let kinds = kinds(schema);
    let asks_for = |kind: &str| kinds.contains(&kind);
    match (&json, value) {
        (Value::Number(number), toml::Value::Integer(_))
            if asks_for("number") && !asks_for("integer") =>
        {
            number.as_f64().map_or(json.clone(), Value::from)
        }
        (Value::Number(_) | Value::Bool(_), _) if kinds == ["string"] => {
            Value::String(shown(value))
        }
        _ => json,
    }
}

/// The JSON types a schema allows; empty for any.
fn kinds(schema: &Value) -> Vec<&str> {
    match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds
            .iter()
            .filter_map(Value::as_str)
            .filter(|kind| *kind != "null")
            .collect(),
        _ => Vec::new(),
    }
}

fn choices(schema: &Value) -> Vec<&str> {
    schema["enum"]
        .as_array()
        .map(|choices| choices.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

fn fits(value: &Value, schema: &Value) -> bool {
    let kinds = kinds(schema);
    let right_kind = kinds.is_empty()
        || kinds.iter().any(|kind| match *kind {
            "integer" => value.is_i64() || value.is_u64(),
            "number" => value.as_f64().is_some_and(f64::is_finite),
            "boolean" => value.is_boolean(),
            "string" => value.is_string(),
            "array" => value.is_array(),
            "object" => value.is_object(),
            _ => false,
        });
    let bound =
        |name: &str, holds: fn(f64, f64) -> bool| match (value.as_f64(), schema[name].as_f64()) {
            (Some(value), Some(bound)) => holds(value, bound),
            _ => true,
        };
    let chosen = schema["enum"]
        .as_array()
        .is_none_or(|choices| choices.contains(value));
    let items = value.as_array().is_none_or(|items| {
        let length = items.len() as u64;
        items.iter().all(|item| fits(item, &schema["items"]))
            && schema["minItems"]
                .as_u64()
                .is_none_or(|least| length >= least)
            && schema["maxItems"]
                .as_u64()
                .is_none_or(|most| length <= most)
    });
    right_kind
        && chosen
        && items
        && bound("minimum", |value, bound| value >= bound)
        && bound("maximum", |value, bound| value <= bound)
        && bound("exclusiveMinimum", |value, bound| value > bound)
        && bound("exclusiveMaximum", |value, bound| value < bound)
}

/// What a schema allows, as the end of "must be ...".
fn in_words(schema: &Value) -> String {
    let choices = choices(schema);
    if !choices.is_empty() {
        return format!("one of {}", choices.join(", "));
    }
    let kind = match kinds(schema).first().copied() {
        Some("integer") => "a whole number".to_owned(),
        Some("number") => "a number".to_owned(),
        Some("boolean") => "true or false".to_owned(),
        Some("string") => "text".to_owned(),
        Some("array") if schema["items"].is_object() => {
            format!("a list, each item {}", in_words(&schema["items"]))
        }
        Some("array") => "a list".to_owned(),
        Some("object") => "a table".to_owned(),
        _ => "any value".to_owned(),
    };
    let bound = |name: &str| schema[name].as_f64();
    let low = match (bound("minimum"), bound("exclusiveMinimum")) {
        (Some(low), _) => Some(format!("{low}")),
        (_, Some(low)) => Some(format!("above {low}")),
        _ => None,
    };
    let high = match (bound("maximum"), bound("exclusiveMaximum")) {
        (Some(high), _) => Some(format!("{high}")),
        (_, Some(high)) => Some(format!("below {high}")),
        _ => None,
    };
    match (low, high) {
        (Some(low), Some(high)) if low.starts_with("above") || high.starts_with("below") => {
            let low = if low.starts_with("above") {
                low
            } else {
                format!("{low} or more")
            };
            let high = if high.starts_with("below") {
                high
            } else {
                format!("at most {high}")
            };
            format!("{kind} {low} and {high}")
        }
        (Some(low), Some(high)) => format!("{kind} from {low} to {high}"),
        (Some(low), None) if low.starts_with("above") => format!("{kind} {low}"),
        (Some(low), None) => format!("{kind}, {low} or more"),
        (None, Some(high)) if high.starts_with("below") => format!("{kind} {high}"),
        (None, Some(high)) => format!("{kind}, at most {high}"),
        (None, None) => kind,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::super::layers::Origin;
    use super::*;

    fn schema() -> Value {
        json!({ "type": "object", "properties": {
            "bank": { "type": "integer", "minimum": 1, "default": 64 },
            "memory": { "type": "string", "default": "" },
            "mode": { "type": "string", "enum": ["sampling", "weighting"], "default": "sampling" },
            "power": { "type": "number", "exclusiveMinimum": 0, "maximum": 4 },
            "ratio": { "type": "number", "minimum": 0, "maximum": 1, "default": 0.2, "description": " Share. " },
            "sizes": { "type": "array", "items": { "type": "integer", "minimum": 1 } },
            "limit": { "type": ["number", "null"], "minimum": 0 },
        }})
    }

    fn given(text: &str) -> Result<Value, Error> {
        let entry = PluginEntry {
            name: "diff-tuning".to_owned(),
            settings: text.parse().unwrap(),
            ..PluginEntry::default()
        };
        let origins = Origins(
            entry
                .settings
                .keys()
                .map(|key| (format!("diff_tuning.{key}"), Origin::Set))
                .collect(),
        );
        check_plugin_settings(&entry, &schema(), &origins)
    }

    fn check(text: &str, sentence: &str) {
        assert_eq!(given(text).unwrap_err().to_string(), sentence);
    }

    #[test]
    fn settings_that_fit_come_out_in_the_schemas_types() {
        let json = given(
            "ratio = 1\nbank = 8\nmode = \"weighting\"\nsizes = [1, 2]\nmemory = 2024\nlimit = 3",
        )
        .unwrap();
        assert_eq!(
            json,
            json!({ "ratio": 1.0, "bank": 8, "mode": "weighting", "sizes": [1, 2], "memory": "2024", "limit": 3.0 })
        );
        assert!(json["ratio"].is_f64());
    }

    #[test]
    fn settings_that_do_not_fit_are_refused_in_one_sentence() {
        check(
            "memmory = 1",
            "plugin `diff_tuning` has no setting `memmory` (given by --set), did you mean `memory`?",
        );
        check(
            "ratio = 1.5",
            "diff_tuning.ratio must be a number from 0 to 1, but --set gives 1.5",
        );
        check(
            "ratio = \"much\"",
            "diff_tuning.ratio must be a number from 0 to 1, but --set gives \"much\"",
        );
        check(
            "ratio = nan",
            "diff_tuning.ratio must be a number from 0 to 1, but --set gives nan",
        );
        check(
            "power = 0",
            "diff_tuning.power must be a number above 0 and at most 4, but --set gives 0",
        );
        check(
            "bank = 0",
            "diff_tuning.bank must be a whole number, 1 or more, but --set gives 0",
        );
        check(
            "bank = 1.0",
            "diff_tuning.bank must be a whole number, 1 or more, but --set gives 1.0",
        );
        check(
            "sizes = [1, 0]",
            "diff_tuning.sizes must be a list, each item a whole number, 1 or more, but --set gives [1, 0]",
        );
        check(
            "limit = -1",
            "diff_tuning.limit must be a number, 0 or more, but --set gives -1",
        );
        check(
            "mode = \"weigthing\"",
            "diff_tuning.mode must be one of sampling, weighting, but --set gives \"weigthing\", did you mean `weighting`?",
        );
    }

    #[test]
    fn a_schema_is_listed_with_its_defaults() {
        let listed = plugin_settings(&schema());
        let ratio = listed
            .iter()
            .find(|setting| setting.key == "ratio")
            .unwrap();
        assert_eq!(
            (&ratio.default, ratio.description.as_str()),
            (&json!(0.2), "Share.")
        );
        assert!(plugin_settings(&Value::Null).is_empty());
    }
}
