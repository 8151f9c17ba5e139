//! Comparing a run's stored configuration with the one asked for on `--resume`: what differs, and whether it may.

use std::collections::BTreeMap;
use std::fmt;

use super::choices::Schedule;
use super::listing::ordered;
use super::run_file::RunFile;

/// What a difference means for a run that goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// The parameters come out the same.
    Harmless,
    /// The run can go on, but not as it would have without the change.
    Diverges,
    /// The saved state does not fit the change.
    Incompatible,
}

/// One setting that differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The key, with its section.
    pub key: String,
    /// Its value in the stored configuration.
    pub was: String,
    /// Its value now.
    pub now: String,
    /// What this means for the run.
    pub effect: Effect,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} was {} and is now {}", self.key, self.was, self.now)
    }
}

/// Every difference between the configuration of a run folder and a new one, in the order of the run file.
pub fn compare(was: &RunFile, now: &RunFile) -> Vec<Difference> {
    let mut differences = Vec::new();
    let handles = |file: &RunFile| match file.plugin.as_slice() {
        [] => "none".to_owned(),
        plugins => {
            let handles: Vec<String> = plugins.iter().map(|plugin| plugin.handle()).collect();
            handles.join(", ")
        }
    };
    let mut differ = |key: String, was: String, now: String, effect: Effect| {
        if was != now {
            differences.push(Difference {
                key,
                was,
                now,
                effect,
            });
        }
    };

    let now_keys: BTreeMap<String, String> = keys(now).collect();
    for (key, before) in keys(was) {
        let after = now_keys.get(&key).cloned().unwrap_or_default();
        let effect = effect(&key, was, now);
        differ(key, before, after, effect);
    }
    differ(
        "adapter".to_owned(),
        adapters(was),
        adapters(now),
        Effect::Incompatible,
    );
    differ(
        "plugin".to_owned(),
        handles(was),
        handles(now),
        Effect::Incompatible,
    );
    for before in &was.plugin {
        let Some(after) = now
            .plugin
            .iter()
            .find(|after| after.handle() == before.handle())
        else {
            continue;
        };
        let without = |entry: &super::PluginEntry| match entry.without.join(", ") {
            none if none.is_empty() => "no slot".to_owned(),
            slots => slots,
        };
        let key = format!("{}.without", before.handle());
        differ(key, without(before), without(after), Effect::Incompatible);
        let rate = |entry: &super::PluginEntry| {
            (entry.lr).map_or_else(|| "train.lr".to_owned(), |rate| rate.to_string())
        };
        let key = format!("{}.lr", before.handle());
        differ(key, rate(before), rate(after), Effect::Diverges);
        let mut settings: Vec<&String> = before
            .settings
            .keys()
            .chain(after.settings.keys())
            .collect();
        settings.sort();
        settings.dedup();
        for setting in settings {
            let shown = |value: Option<&toml::Value>| {
                value.map_or("its default".to_owned(), ToString::to_string)
            };
            let key = format!("{}.{setting}", before.handle());
            differ(
                key,
                shown(before.settings.get(setting)),
                shown(after.settings.get(setting)),
                Effect::Incompatible,
            );
        }
    }
    differences
}

/// The adapters, each by what it holds where that is known, so that a file may move.
fn adapters(file: &RunFile) -> String {
    let shown = |entry: &super::AdapterEntry| {
        let what = match &entry.sha256 {
            Some(hash) => format!("a file of hash {}", &hash[..hash.len().min(12)]),
            None => entry.path.display().to_string(),
        };
        format!("{what} at scale {}", entry.scale)
    };
    let all: Vec<String> = file.adapter.iter().map(shown).collect();
    match all.is_empty() {
        true => "none".to_owned(),
        false => all.join(", "),
    }
}

fn keys(file: &RunFile) -> impl Iterator<Item = (String, String)> {
    ordered(file).into_iter().flat_map(|(section, keys)| {
        keys.into_iter().map(move |(key, value)| {
            let value = if value.is_null() {
                "not given".to_owned()
            } else {
                value.to_string()
            };
            (format!("{section}.{key}"), value)
        })
    })
}

fn effect(key: &str, was: &RunFile, now: &RunFile) -> Effect {
    match key {
        "train.checkpoint_every"
        | "train.keep_checkpoints"
        | "train.threads"
        | "train.tensorboard"
        | "data.workers" => Effect::Harmless,
        // The end of the run shapes every schedule but the constant one.
        "train.steps"
            if was.train.schedule == Schedule::Constant
                && now.train.schedule == Schedule::Constant =>
        {
            Effect::Harmless
        }
        // What is kept is computed one by one, which may differ from a whole batch in the last digit.
        "data.cache_latents" => Effect::Diverges,
        "train.seed" | "train.trainable" => Effect::Incompatible,
        "train.ema_decay" if (was.train.ema_decay == 0.0) != (now.train.ema_decay == 0.0) => {
            Effect::Incompatible
        }
        _ if key.starts_with("run.") || key.starts_with("sample.") => Effect::Harmless,
        _ if key.starts_with("backbone.") || key.starts_with("data.") => Effect::Incompatible,
        _ => Effect::Diverges,
    }
}
