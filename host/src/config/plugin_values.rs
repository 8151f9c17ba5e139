//! Between the settings in a run file and the plugins that they are for: requests to find the plugins, and the checked values
//! coming back.

use serde_json::{Map, Value as Json};
use toml::{Table, Value};

use super::resolve::Resolved;
use super::run_file::PluginEntry;
use crate::plugin::resolve::{Plugin, Request};

impl PluginEntry {
    /// What to ask the plugin search for.
    pub fn request(&self) -> Request {
        let settings = self
            .settings
            .iter()
            .map(|(key, value)| (key.clone(), json(value)));
        Request {
            name: self.name.clone(),
            alias: self.alias.as_ref().map(|_| self.handle()),
            without: self.without.clone(),
            settings: settings.collect(),
        }
    }
}

impl Resolved {
    /// The plugins of the run, in order, as the plugin search takes them.
    pub fn requests(&self) -> Vec<Request> {
        self.config
            .plugin
            .iter()
            .map(PluginEntry::request)
            .collect()
    }

    /// Takes over every setting of a plugin as its schema has resolved it, defaults among them, so that the written file holds
    /// them all. `chosen` is the plugin's place among [`Resolved::requests`].
    pub fn adopt(&mut self, chosen: usize, plugin: &Plugin) {
        if let Some(entry) = self.config.plugin.get_mut(chosen) {
            entry.settings = adopted(&entry.settings, &plugin.settings);
        }
    }
}

/// Resolved settings in the notation of a run file, which has no null: a setting that may be left out and was is left out, and
/// one that was given as nothing stays given as `"none"`.
fn adopted(given: &Table, resolved: &Map<String, Json>) -> Table {
    let nothing = |key: &String| {
        given
            .contains_key(key)
            .then(|| Value::String("none".to_owned()))
    };
    let entry =
        |(key, value): (&String, &Json)| Some((key.clone(), toml(value).or_else(|| nothing(key))?));
    resolved.iter().filter_map(entry).collect()
}

fn toml(value: &Json) -> Option<Value> {
    Some(match value {
        Json::Null => return None,
        Json::Bool(value) => Value::Boolean(*value),
        Json::Number(number) => match number.as_i64() {
            Some(whole) => Value::Integer(whole),
            None => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::String(text.clone()),
        Json::Array(items) => Value::Array(items.iter().filter_map(toml).collect()),
        // A table that may have any names and has none says nothing.
        Json::Object(entries) if entries.is_empty() => return None,
        Json::Object(entries) => Value::Table(
            entries
                .iter()
                .filter_map(|(key, value)| Some((key.clone(), toml(value)?)))
                .collect(),
        ),
    })
}

/// A value of a run file as JSON; a date is its text, and a number that is none stays text too, for the schema to refuse.
fn json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::String(text.clone()),
        Value::Integer(whole) => Json::from(*whole),
        Value::Float(number) => serde_json::Number::from_f64(*number)
            .map_or_else(|| Json::String(number.to_string()), Json::Number),
        Value::Boolean(value) => Json::Bool(*value),
        Value::Datetime(date) => Json::String(date.to_string()),
        Value::Array(items) => items.iter().map(json).collect(),
        Value::Table(entries) => Json::Object(
            entries
                .iter()
                .map(|(key, value)| (key.clone(), json(value)))
                .collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn entry(settings: &str) -> PluginEntry {
        PluginEntry {
            name: "lora".to_owned(),
            settings: settings.parse().unwrap(),
            ..PluginEntry::default()
        }
    }

    #[test]
    fn settings_reach_the_search_as_written() {
        let mut entry = entry(
            "rank = 4\nalpha = 1.5\nscale = nan\nuse = true\ntargets = [\"*\"]\nbank.count = 3",
        );
        entry.alias = Some("my-style".to_owned());
        let request = entry.request();
        assert_eq!(request.alias.as_deref(), Some("my_style"));
        assert_eq!(
            Json::Object(request.settings),
            json!({ "rank": 4, "alpha": 1.5, "scale": "NaN", "use": true, "targets": ["*"], "bank": { "count": 3 } })
        );
    }

    #[test]
    fn resolved_settings_come_back_with_their_defaults() {
        let resolved = json!({ "rank": 8, "alpha": null, "cap": null, "dropout": 0.5, "memory": { "rows": 2, "cap": null } });
        let adopted = adopted(
            &entry("rank = \"8\"\ncap = \"none\"").settings,
            resolved.as_object().unwrap(),
        );
        assert_eq!(
            adopted,
            "cap = \"none\"\ndropout = 0.5\nrank = 8\n[memory]\nrows = 2\n"
                .parse::<Table>()
                .unwrap()
        );
    }
}
