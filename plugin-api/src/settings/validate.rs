//! Checks values against a settings schema and fills in defaults. The part of JSON Schema that `derive(Settings)` writes, no more.

use serde_json::{Map, Value};

/// Everything wrong with some settings.
#[derive(Debug, Clone, PartialEq)]
pub struct SettingsError {
    /// The problems, in the order of the settings.
    pub problems: Vec<SettingsProblem>,
}

impl std::fmt::Display for SettingsError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsError {}

/// One thing wrong with some settings. `key` is the path of the setting, as in `memory.count`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsProblem {
    /// There is no such setting.
    #[error("unknown setting `{key}`{}", hint(.near, .known))]
    Unknown {
        /// The key given.
        key: String,
        /// The nearest known key.
        near: Option<String>,
        /// All keys known there.
        known: Vec<String>,
    },
    /// A setting without a default was not given.
    #[error("setting `{key}` is required ({expected})")]
    Missing {
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
    },
    /// The value is of another type.
    #[error("`{key}` must be {expected}, got {got}")]
    Type {
        /// The key.
        key: String,
        /// What it should be.
        expected: String,
        /// What was given.
        got: String,
    },
    /// The number is outside its limits.
    #[error("`{key}` must be {range}, got {got}")]
    Range {
        /// The key.
        key: String,
        /// The limits in words.
        range: String,
        /// What was given.
        got: String,
    },
    /// The text is none of the choices.
    #[error("`{key}` must be one of {}, got {got}{}", .choices.join(", "), hint(.near, &[]))]
    Choice {
        /// The key.
        key: String,
        /// What there is to choose from.
        choices: Vec<String>,
        /// What was given.
        got: String,
        /// The nearest choice.
        near: Option<String>,
    },
}

fn hint(near: &Option<String>, known: &[String]) -> String {
    match near {
        Some(near) => format!(", did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; known: {}", known.join(", ")),
    }
}

/// Checks `values` (an object; null means none) against `schema` and returns them complete, defaults filled in.
///
/// # Errors
/// [`SettingsError`] with every problem, not just the first.
pub fn validate(schema: &Value, values: &Value) -> Result<Value, SettingsError> {
    let empty = Value::Object(Map::new());
    let values = if values.is_null() { &empty } else { values };
    let mut problems = Vec::new();
    let resolved = check(schema, values, "", &mut problems);
    if problems.is_empty() {
        Ok(resolved)
    } else {
        Err(SettingsError { problems })
    }
}

fn check(schema: &Value, value: &Value, key: &str, problems: &mut Vec<SettingsProblem>) -> Value {
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        // Only `Option` writes `anyOf`: null, or the other one.
        if value.is_null() {
            return Value::Null;
        }
        return match options
            .iter()
            .find(|option| option.get("type").and_then(Value::as_str) != Some("null"))
        {
            Some(option) => check(option, value, key, problems),
            None => value.clone(),
        };
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") => return check_object(schema, value, key, problems),
        Some("array") => return check_array(schema, value, key, problems),
        Some("integer") => check_number(schema, value, key, true, problems),
        Some("number") => check_number(schema, value, key, false, problems),
        Some("string") => check_text(schema, value, key, problems),
        Some("boolean") if !value.is_boolean() => wrong_type(schema, value, key, problems),
        _ => {}
    }
    value.clone()
}

fn wrong_type(schema: &Value, value: &Value, key: &str, problems: &mut Vec<SettingsProblem>) {
    let key = if key.is_empty() { "settings" } else { key };
    problems.push(SettingsProblem::Type {
        key: key.to_owned(),
        expected: expected(schema),
        got: value.to_string(),
    });
}

/// What a schema asks for, in words.
fn expected(schema: &Value) -> String {
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        return options
            .iter()
            .find(|option| option.get("type") != Some(&Value::from("null")))
            .map(expected)
            .unwrap_or_default();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some("object") if entries(schema).is_some() => "a table of names and values",
        Some("object") => "a table of settings",
        Some("array") => "a list",
        Some("integer") => "a whole number",
        Some("number") => "a number",
        Some("boolean") => "true or false",
        _ => "text",
    }
    .to_owned()
}

/// The schema of the values of a table whose names the user chooses.
fn entries(schema: &Value) -> Option<&Value> {
    schema
        .get("additionalProperties")
        .filter(|entry| entry.is_object())
}

fn check_object(
    schema: &Value,
    value: &Value,
    key: &str,
    problems: &mut Vec<SettingsProblem>,
) -> Value {
    let Some(given) = value.as_object() else {
        wrong_type(schema, value, key, problems);
        return value.clone();
    };
    if let Some(entry) = entries(schema) {
        let check = |(name, value): (&String, &Value)| {
            let value = check(entry, value, &format!("{key}.\"{name}\""), problems);
            (name.clone(), value)
        };
        return Value::Object(given.iter().map(check).collect());
    }
    let none = Map::new();
    let properties = schema
        .get("properties")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let path = |name: &str| {
        if key.is_empty() {
            name.to_owned()
        } else {
            format!("{key}.{name}")
        }
    };
    for name in given.keys().filter(|name| !properties.contains_key(*name)) {
        // Dashes and underscores are the likeliest mistake of all.
        let known: Vec<String> = properties.keys().cloned().collect();
        problems.push(SettingsProblem::Unknown {
            key: path(name),
            near: nearest(name, &known),
            known,
        });
    }
    let mut resolved = Map::new();
    for (name, property) in properties {
        let value = match (given.get(name), property.get("default")) {
            (Some(value), _) | (None, Some(value)) => check(property, value, &path(name), problems),
            (None, None) => {
                problems.push(SettingsProblem::Missing {
                    key: path(name),
                    expected: expected(property),
                });
                continue;
            }
        };
        resolved.insert(name.clone(), value);
    }
    Value::Object(resolved)
}

fn check_array(
    schema: &Value,
    value: &Value,
    key: &str,
    problems: &mut Vec<SettingsProblem>,
) -> Value {
    let Some(items) = value.as_array() else {
        wrong_type(schema, value, key, problems);
        return value.clone();
    };
    let Some(item_schema) = schema.get("items") else {
        return value.clone();
    };
    items
        .iter()
        .enumerate()
        .map(|(index, item)| check(item_schema, item, &format!("{key}[{index}]"), problems))
        .collect()
}

fn check_number(
    schema: &Value,
    value: &Value,
    key: &str,
    whole: bool,
    problems: &mut Vec<SettingsProblem>,
) {
    let Some(number) = value.as_f64() else {
        return wrong_type(schema, value, key, problems);
    };
    if whole && number.fract() != 0.0 {
        return wrong_type(schema, value, key, problems);
    }
    let limit = |name: &str| schema.get(name).filter(|limit| limit.is_number());
    let (low, high) = (limit("minimum"), limit("maximum"));
    let (above, below) = (limit("exclusiveMinimum"), limit("exclusiveMaximum"));
    let meets = |limit: Option<&Value>, test: fn(f64, f64) -> bool| {
        limit
            .and_then(Value::as_f64)
            .is_none_or(|limit| test(number, limit))
    };
    let inside = meets(low, |a, b| a >= b)
        && meets(high, |a, b| a <= b)
        && meets(above, |a, b| a > b)
        && meets(below, |a, b| a < b);
    if !inside {
        let range = range_in_words(low, above, high, below);
        problems.push(SettingsProblem::Range {
            key: key.to_owned(),
            range,
            got: value.to_string(),
        });
    }
}

fn range_in_words(
    low: Option<&Value>,
    above: Option<&Value>,
    high: Option<&Value>,
    below: Option<&Value>,
) -> String {
    match (low, above, high, below) {
        (Some(low), _, Some(high), _) => format!("in {low}..={high}"),
        (Some(low), _, None, Some(below)) => format!("in {low}..{below}"),
        (Some(low), ..) => format!("at least {low}"),
        (None, Some(above), Some(high), _) => format!("above {above} and at most {high}"),
        (None, Some(above), None, Some(below)) => format!("above {above} and below {below}"),
        (None, Some(above), None, None) => format!("above {above}"),
        (None, None, Some(high), _) => format!("at most {high}"),
        (None, None, None, Some(below)) => format!("below {below}"),
        (None, None, None, None) => "a number".to_owned(),
    }
}

fn check_text(schema: &Value, value: &Value, key: &str, problems: &mut Vec<SettingsProblem>) {
    let Some(text) = value.as_str() else {
        return wrong_type(schema, value, key, problems);
    };
    let Some(choices) = schema.get("enum").and_then(Value::as_array) else {
        return;
    };
    if choices.iter().any(|choice| choice.as_str() == Some(text)) {
        return;
    }
    let choices: Vec<String> = choices
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let near = nearest(text, &choices);
    problems.push(SettingsProblem::Choice {
        key: key.to_owned(),
        choices,
        got: format!("`{text}`"),
        near,
    });
}

/// The candidate nearest to `word` by edits, if any is near enough to be what was meant.
fn nearest(word: &str, candidates: &[String]) -> Option<String> {
    let word = word.replace('-', "_").to_lowercase();
    candidates
        .iter()
        .map(|candidate| (edits(&word, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance <= candidate.len().max(word.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate.clone())
}

/// Edit distance with exchanges of neighbours (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let differ = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1)
                .min(rows[i][j - 1] + 1)
                .min(rows[i - 1][j - 1] + differ);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}
