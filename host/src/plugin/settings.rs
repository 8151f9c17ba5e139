//! Settings as the user gave them, against the schema in a plugin's manifest: resolved and checked before any of the plugin's
//! code runs. The check itself is `plugin_api::settings::validate`, the same one the plugin makes; here text from the command
//! line becomes values of the schema's types, and mistakes are told under the plugin's name.

use plugin_api::settings::{SettingsError, validate};
use serde_json::{Map, Value};

/// Why a plugin's settings are refused.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{plugin}: {problems}")]
pub struct Error {
    /// The plugin's name in this run.
    pub plugin: String,
    /// Everything wrong, each with its key and what would do.
    pub problems: SettingsError,
}

/// Checks the settings given for a plugin against its schema and fills in every default.
///
/// A key may be a path (`memory.count`). Text is read as the type the schema asks for, so that `--set lora.rank=8` and
/// `rank = 8` in a run file mean the same.
///
/// # Errors
/// Every key that is unknown, of the wrong type, out of range, or missing.
pub fn resolve(
    plugin: &str,
    schema: &Value,
    given: &Map<String, Value>,
) -> Result<Map<String, Value>, Error> {
    let refused = |problems| Error {
        plugin: plugin.to_owned(),
        problems,
    };
    let given = typed(schema, &nested(given));
    match validate(schema, &given).map_err(refused)? {
        Value::Object(resolved) => Ok(resolved),
        _ => Ok(Map::new()),
    }
}

/// Keys that are paths, unfolded: `{"a.b": 1}` becomes `{"a": {"b": 1}}`.
fn nested(given: &Map<String, Value>) -> Value {
    let mut unfolded = Map::new();
    for (key, value) in given {
        insert(&mut unfolded, key, value.clone());
    }
    Value::Object(unfolded)
}

fn insert(into: &mut Map<String, Value>, key: &str, value: Value) {
    let Some((first, rest)) = key.split_once('.') else {
        into.insert(key.to_owned(), value);
        return;
    };
    let inner = into
        .entry(first)
        .or_insert_with(|| Value::Object(Map::new()));
    match inner {
        Value::Object(inner) => insert(inner, rest, value),
        // The table is hidden behind a plain value; under its whole path the key is unknown, which is what to tell.
        _ => drop(into.insert(key.to_owned(), value)),
    }
}

/// The schema of an optional setting without the `null` that stands for its absence.
fn inner(schema: &Value) -> &Value {
    let options = schema.get("anyOf").and_then(Value::as_array);
    let real = options.and_then(|options| {
        options
            .iter()
            .find(|option| type_of(option) != Some("null"))
    });
    real.unwrap_or(schema)
}

fn type_of(schema: &Value) -> Option<&str> {
    schema.get("type").and_then(Value::as_str)
}

/// Values with text read as what the schema asks for; what cannot be read stays as it is, for the check to name.
fn typed(schema: &Value, given: &Value) -> Value {
    let schema = inner(schema);
    match (type_of(schema), given) {
        (Some("object"), Value::Object(given)) => {
            let property = |key: &str| {
                let own = schema.get("properties").and_then(|all| all.get(key));
                // Of a table whose names the user chooses, every value is of one kind.
                own.or_else(|| {
                    schema
                        .get("additionalProperties")
                        .filter(|any| any.is_object())
                })
            };
            let values = given.iter().map(|(key, value)| {
                let value =
                    property(key).map_or_else(|| value.clone(), |property| read(property, value));
                (key.clone(), value)
            });
            Value::Object(values.collect())
        }
        (Some("array"), Value::Array(items)) => {
            let item = schema.get("items").unwrap_or(&Value::Null);
            items.iter().map(|value| typed(item, value)).collect()
        }
        (Some(wanted), Value::String(text)) if wanted != "string" => from_text(wanted, text)
            .map_or_else(
                || given.clone(),
                |value| {
                    if value.is_string() {
                        value
                    } else {
                        typed(schema, &value)
                    }
                },
            ),
        _ => given.clone(),
    }
}

/// As [`typed`], with `none` for an optional setting.
fn read(property: &Value, value: &Value) -> Value {
    let optional = property.get("anyOf").is_some();
    match value {
        Value::String(text) if optional && matches!(text.trim(), "none" | "null") => Value::Null,
        value => typed(property, value),
    }
}

fn from_text(wanted: &str, text: &str) -> Option<Value> {
    let text = text.trim();
    match wanted {
        "integer" => text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<u64>().map(Value::from))
            .ok(),
        "number" => text
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map(Value::from),
        "boolean" => text.parse::<bool>().ok().map(Value::from),
        "array" if text.starts_with('[') => serde_json::from_str(text).ok().filter(Value::is_array),
        "array" if text.is_empty() => Some(Value::Array(Vec::new())),
        "array" => Some(
            text.split(',')
                .map(|item| Value::from(item.trim()))
                .collect(),
        ),
        "object" => serde_json::from_str(text).ok().filter(Value::is_object),
        _ => None,
    }
}

/// A setting's type and limits for a person: `number, 0 to 1`.
pub fn in_words(schema: &Value) -> String {
    let schema = inner(schema);
    let bound = |name: &str| schema.get(name).filter(|bound| bound.is_number());
    let name = match type_of(schema) {
        Some("integer") => "whole number",
        Some("number") => "number",
        Some("boolean") => "true or false",
        Some("string") => "text",
        Some("array") => "list",
        Some("object") => "table",
        _ => "value",
    };
    let low = bound("minimum")
        .map(|low| format!("at least {low}"))
        .or_else(|| bound("exclusiveMinimum").map(|low| format!("above {low}")));
    let high = bound("maximum")
        .map(|high| format!("at most {high}"))
        .or_else(|| bound("exclusiveMaximum").map(|high| format!("below {high}")));
    let parts: Vec<String> = [Some(name.to_owned()), low, high]
        .into_iter()
        .flatten()
        .collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn schema() -> Value {
        json!({
            "type": "object",
            "additionalProperties": false,
            "properties": {
                "count": {"type": "integer", "default": 64, "minimum": 1},
                "ratio": {"type": "number", "default": 0.2, "minimum": 0, "maximum": 1},
                "mode": {"type": "string", "default": "sampling", "enum": ["sampling", "weighting"]},
                "flip": {"type": "boolean", "default": false},
                "targets": {"type": "array", "items": {"type": "string"}, "default": ["*.to_q"]},
                "betas": {"type": "array", "items": {"type": "number", "minimum": 0, "exclusiveMaximum": 1}, "default": [0.9]},
                "cap": {"anyOf": [{"type": "number"}, {"type": "null"}], "default": null},
                "memory": {"type": "object", "properties": {"rows": {"type": "integer", "default": 2}}, "default": {}},
                "ranks": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}, "default": {}},
            }
        })
    }

    fn check(given: Value) -> Result<Value, String> {
        let resolved = resolve("p", &schema(), given.as_object().unwrap());
        resolved
            .map(Value::Object)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn nothing_given_is_all_defaults() {
        let resolved = check(json!({})).unwrap();
        assert_eq!(resolved["count"], 64);
        assert_eq!(resolved["memory"], json!({"rows": 2}));
        assert_eq!(resolved.as_object().unwrap().len(), 9);
    }

    #[test]
    fn text_from_the_command_line_means_what_the_run_file_means() {
        let text = json!({
            "count": "8", "ratio": "0.5", "flip": "true", "targets": "a, b", "betas": "[0.1, 0]", "cap": "2",
            "mode": "weighting", "memory.rows": "3", "ranks": "{\"**.to_q\": \"4\"}",
        });
        let typed = json!({
            "count": 8, "ratio": 0.5, "flip": true, "targets": ["a", "b"], "betas": [0.1, 0], "cap": 2.0,
            "mode": "weighting", "memory": {"rows": 3}, "ranks": {"**.to_q": 4},
        });
        assert_eq!(check(text).unwrap(), typed);
        assert_eq!(check(typed.clone()).unwrap(), typed);
        assert_eq!(check(json!({"cap": "none"})).unwrap()["cap"], Value::Null);
        assert_eq!(
            check(json!({"betas": "0.1,0.2"})).unwrap()["betas"],
            json!([0.1, 0.2])
        );
    }

    #[test]
    fn every_refusal_names_the_plugin_the_key_and_what_would_do() {
        for (given, parts) in [
            (
                json!({"cuont": 3}),
                ["p: unknown setting `cuont`", "did you mean `count`?"],
            ),
            (json!({"count": "many"}), ["`count`", "whole number"]),
            (json!({"count": 0}), ["`count`", "at least 1"]),
            (json!({"ratio": "1.5"}), ["`ratio`", "1.5"]),
            (json!({"ratio": "nan"}), ["`ratio`", "number"]),
            (
                json!({"mode": "weigthing"}),
                ["sampling, weighting", "did you mean `weighting`?"],
            ),
            (json!({"betas": [0.5, 1]}), ["`betas[1]`", "got 1"]),
            (
                json!({"memory.rwos": 1}),
                ["`memory.rwos`", "did you mean `rows`?"],
            ),
            (json!({"count.x": 1, "count": 2}), ["`count", ""]),
        ] {
            let error = check(given.clone()).unwrap_err();
            assert!(
                parts.iter().all(|part| error.contains(part)),
                "{given}: {error}"
            );
        }
    }

    #[test]
    fn types_and_limits_in_words() {
        let schema = schema();
        let words = |key: &str| in_words(&schema["properties"][key]);
        assert_eq!(words("ratio"), "number, at least 0, at most 1");
        assert_eq!(words("count"), "whole number, at least 1");
        assert_eq!(words("cap"), "number");
    }
}
