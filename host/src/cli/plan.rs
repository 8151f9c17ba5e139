//! `host plan`: the composed step and every setting of a run, before any weight loads.

use clap::Args;
use serde_json::{Value, json};

use super::arguments::RunArguments;
use super::failure::Failure;
use super::model::lines;
use super::prepare::{Prepared, prepare};
use super::text::{Listing, table};
use crate::config::{Origin, Resolved};
use crate::plugin::resolve as plugins;

/// Print the composed step and every setting with where it comes from; takes the arguments of `run`, loads no weights
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Listing, Failure> {
    let Prepared {
        resolved,
        plugins: plan,
        adapters,
        notes,
    } = prepare(&arguments.run)?;
    let settings = settings(&resolved, &plan);
    let json = || {
        json!({
            "plugins": plan.plugins.iter().map(|plugin| json!({
                "name": plugin.name,
                "id": plugin.checked.manifest.id,
                "version": plugin.checked.manifest.version,
                "path": plugin.checked.path,
                "sha256": plugin.checked.sha256,
            })).collect::<Vec<_>>(),
            "adapters": resolved.config.adapter.iter().zip(&adapters).map(|(entry, report)| {
                let mut told = json!(report);
                told["scale"] = json!(entry.scale);
                told
            }).collect::<Vec<_>>(),
            "slots": plan.composition.slots,
            "settings": settings.iter().map(|setting| json!({
                "key": setting.key,
                "value": setting.value,
                "from": setting.origin,
                "where": setting.origin.to_string(),
            })).collect::<Vec<_>>(),
            "notes": notes,
        })
    };
    Ok(Listing::new(
        arguments.json,
        || describe(&plan, &settings, &notes) + &lines(&adapters),
        json,
    ))
}

/// One line of the table of settings.
struct Row {
    key: String,
    value: Value,
    origin: Origin,
}

/// Every setting of the run, then every setting of every plugin, given or not.
fn settings(resolved: &Resolved, plan: &plugins::Resolved) -> Vec<Row> {
    let mut rows: Vec<Row> = resolved
        .listing()
        .into_iter()
        .map(|(key, value, origin)| Row { key, value, origin })
        .collect();
    for (plugin, member) in plan.plugins.iter().zip(&plan.composition.plugins) {
        // A file may call itself otherwise than its name says; settings are given under the name it is asked for by.
        let asked_for = resolved
            .config
            .plugin
            .get(member.chosen)
            .map_or(plugin.name.clone(), |entry| entry.handle());
        let rate = (resolved.config.plugin)
            .get(member.chosen)
            .and_then(|entry| entry.lr)
            .map(|rate| ("lr".to_owned(), rate.into()));
        let settings = plugin.settings.clone().into_iter();
        rows.extend(rate.into_iter().chain(settings).map(|(key, value)| Row {
            origin: resolved.origins.of(&format!("{asked_for}.{key}")).clone(),
            key: format!("{}.{key}", plugin.name),
            value,
        }));
    }
    rows
}

fn describe(plan: &plugins::Resolved, settings: &[Row], notes: &[String]) -> String {
    let mut text = String::new();
    let mut rows = vec![["plugin", "version", "file"].map(str::to_owned)];
    rows.extend(plan.plugins.iter().map(|plugin| {
        let manifest = &plugin.checked.manifest;
        [
            plugin.name.clone(),
            manifest.version.to_string(),
            plugin.checked.path.display().to_string(),
        ]
    }));
    text += &match rows.len() {
        1 => "no plugins: standard fine-tuning\n".to_owned(),
        _ => table(&rows),
    };
    text += &format!("\n{}\n", plan.composition);

    let mut rows = vec![["setting", "value", "from"].map(str::to_owned)];
    rows.extend(settings.iter().map(|Row { key, value, origin }| {
        let value = if value.is_null() {
            "-".to_owned()
        } else {
            value.to_string()
        };
        let origin = if *origin == Origin::Default {
            String::new()
        } else {
            origin.to_string()
        };
        [key.clone(), value, origin]
    }));
    text += &table(&rows);
    for note in notes {
        text += &format!("\nnote: {note}");
    }
    text
}
