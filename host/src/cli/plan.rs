//! `host plan`: the composed step and every setting of a run, before any weight loads.

use clap::Args;
use serde_json::{Value, json};

use super::arguments::RunArguments;
use super::failure::Failure;
use super::text::{Listing, table};
use crate::config::plugin_settings::plugin_settings;
use crate::config::{Origin, Plan, Resolved, choose, resolve};

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
    let resolved = resolve(&arguments.run.overrides())?;
    let plan = choose(&resolved)?;
    let settings = settings(&resolved, &plan);
    Ok(Listing::new(
        arguments.json,
        || describe(&plan, &settings),
        || {
            json!({
                "plugins": plan.plugins.iter().map(|plugin| json!({
                    "name": plugin.handle,
                    "id": plugin.checked.manifest.id,
                    "version": plugin.checked.manifest.version,
                    "path": plugin.checked.path,
                    "shadowed": plugin.found.shadowed,
                })).collect::<Vec<_>>(),
                "order": plan.composition.plugins.iter().map(|member| &member.name).collect::<Vec<_>>(),
                "slots": plan.composition.slots,
                "settings": settings.iter().map(|setting| json!({
                    "key": setting.key,
                    "value": setting.value,
                    "from": setting.origin,
                    "where": setting.origin.to_string(),
                })).collect::<Vec<_>>(),
            })
        },
    ))
}

/// One line of the second table.
struct Row {
    key: String,
    value: Value,
    origin: Origin,
}

/// Every setting of the run, then every setting of every plugin, given or not.
fn settings(resolved: &Resolved, plan: &Plan) -> Vec<Row> {
    let mut rows: Vec<Row> = resolved
        .listing()
        .into_iter()
        .map(|(key, value, origin)| Row { key, value, origin })
        .collect();
    for plugin in &plan.plugins {
        for setting in plugin_settings(&plugin.checked.manifest.settings) {
            let key = format!("{}.{}", plugin.handle, setting.key);
            let value = plugin
                .settings
                .get(&setting.key)
                .unwrap_or(&setting.default)
                .clone();
            let origin = resolved.origins.of(&key).clone();
            rows.push(Row { key, value, origin });
        }
    }
    rows
}

fn describe(plan: &Plan, settings: &[Row]) -> String {
    let mut text = String::new();
    let plugins = plan.composition.plugins.iter().filter_map(|member| {
        let plugin = plan.plugins.get(member.chosen)?;
        Some([
            member.name.clone(),
            member.version.clone(),
            plugin.checked.path.display().to_string(),
        ])
    });
    let mut rows = vec![["plugin", "version", "file"].map(str::to_owned)];
    rows.extend(plugins);
    if rows.len() == 1 {
        text += "no plugins: standard fine-tuning\n";
    } else {
        text += &table(&rows);
    }
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
    text + &table(&rows)
}
