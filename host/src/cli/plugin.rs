//! `host plugin`: which plugins there are, and what a file says about itself. Nothing here executes a plugin.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::json;

use super::arguments::PluginArguments;
use super::failure::Failure;
use super::prepare::plugins_of;
use super::text::{Listing, grouped, indented, table};
use crate::config::resolve;
use crate::plugin::discover::Search;
use crate::plugin::listing::{self, Entry, Inspection};
use crate::plugin::lock;

/// See which plugins there are and what they do
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(List),
    Inspect(Inspect),
    Lock(Lock),
}

/// List the plugins that are found, without executing any
#[derive(Debug, Args)]
pub(super) struct List {
    /// Look in this folder first; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Print what a plugin's file says about itself: slots, settings, requirements; without executing it
#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// A plugin's name, or the path of its file
    #[arg(value_name = "NAME|PATH")]
    plugin: String,
    /// Look in this folder first; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Write which files a run's plugins are, by SHA-256, for `host run --locked`; without executing any
#[derive(Debug, Args)]
pub(super) struct Lock {
    #[command(flatten)]
    plugins: PluginArguments,
    /// Where to write it
    #[arg(long, value_name = "FILE", default_value = "plugins.lock")]
    out: PathBuf,
}

pub(super) fn run(command: &Command) -> Result<Listing, Failure> {
    match command {
        Command::List(arguments) => {
            let found = listing::list(&Search::new(&arguments.plugin_dirs));
            Ok(Listing::new(
                arguments.json,
                || describe_list(&found),
                || json!(found),
            ))
        }
        Command::Inspect(arguments) => {
            let inspection =
                listing::inspect(&Search::new(&arguments.plugin_dirs), &arguments.plugin)?;
            Ok(Listing::new(
                arguments.json,
                || describe(&inspection),
                || json!(inspection),
            ))
        }
        Command::Lock(arguments) => write_lock(arguments),
    }
}

fn write_lock(arguments: &Lock) -> Result<Listing, Failure> {
    let mut resolved = resolve(&arguments.plugins.overrides())?;
    let plugins = plugins_of(&mut resolved)?.plugins;
    if plugins.is_empty() {
        return Err(Failure::input(
            "there are no plugins to lock; name them with --plugin or --config",
        ));
    }
    let names: Vec<_> = plugins.iter().map(|plugin| plugin.name.as_str()).collect();
    lock::Lock::of(plugins.iter().map(|plugin| &plugin.checked)).write(&arguments.out)?;
    let (names, out) = (names.join(", "), arguments.out.display());
    Ok(Listing::text(format!("locked {names} in {out}")))
}

/// A table of plugins; those that cannot be used say why.
pub(super) fn entries(plugins: &[Entry]) -> String {
    let mut rows = vec![["plugin", "version", "slots", "file"].map(str::to_owned)];
    rows.extend(plugins.iter().map(|entry| {
        let slots = match &entry.problem {
            Some(problem) => format!("cannot be used: {problem}"),
            None => entry.slots.join(", "),
        };
        let version = entry.version.clone().unwrap_or_default();
        [
            entry.name.clone(),
            version,
            slots,
            entry.path.display().to_string(),
        ]
    }));
    table(&rows)
}

fn describe_list(found: &listing::Listing) -> String {
    if found.plugins.is_empty() {
        let places: String = found
            .searched
            .iter()
            .map(|place| format!("  {place}\n"))
            .collect();
        return format!("no plugins found; searched, in this order:\n{places}");
    }
    let mut text = entries(&found.plugins);
    for entry in &found.plugins {
        for hidden in &entry.shadowed {
            text += &format!(
                "\nnote: {} is not used, because {} comes first",
                hidden.display(),
                entry.path.display()
            );
        }
    }
    text
}

fn describe(inspection: &Inspection) -> String {
    let manifest = &inspection.manifest;
    let mut text = format!("{} {}\n", manifest.id, manifest.version);
    if !manifest.summary.is_empty() {
        text += &format!("{}\n", manifest.summary);
    }
    let mut facts = vec![
        ["file".to_owned(), inspection.path.display().to_string()],
        [
            "size".to_owned(),
            format!("{} bytes", grouped(inspection.size as usize)),
        ],
        ["sha256".to_owned(), inspection.sha256.clone()],
        [
            "needs host ABI".to_owned(),
            format!("{}.{}", manifest.needs.major, manifest.needs.minor),
        ],
    ];
    let lists = [
        ("requires", &manifest.requires),
        ("conflicts with", &manifest.conflicts),
        ("goes before", &manifest.before),
        ("goes after", &manifest.after),
    ];
    for (what, names) in lists {
        if !names.is_empty() {
            facts.push([what.to_owned(), names.join(", ")]);
        }
    }
    facts.extend(
        inspection
            .shadowed
            .iter()
            .map(|path| ["hides".to_owned(), path.display().to_string()]),
    );
    facts.extend(
        inspection
            .problem
            .iter()
            .map(|problem| ["cannot be used".to_owned(), problem.clone()]),
    );
    text += &format!("\n{}", table(&facts));

    let slots: Vec<_> = inspection
        .slots
        .iter()
        .map(|slot| {
            let mode = slot
                .mode
                .map_or("not in this host".to_owned(), |mode| mode.to_string());
            [
                slot.name.clone(),
                mode,
                slot.does.clone().unwrap_or_default(),
            ]
        })
        .collect();
    text += &format!("\nslots\n{}", indented(&table(&slots)));

    text += &format!("\nsettings, given as `--set {}.KEY=VALUE`\n", manifest.id);
    if inspection.settings.is_empty() {
        text += "  none\n";
    }
    for setting in &inspection.settings {
        let mut takes = setting.takes.clone();
        if !setting.choices.is_empty() {
            let choices: Vec<_> = setting
                .choices
                .iter()
                .map(|choice| choice.as_str().map_or(choice.to_string(), str::to_owned))
                .collect();
            takes += &format!(" ({})", choices.join(" | "));
        }
        let default = match &setting.default {
            None => "must be given".to_owned(),
            Some(default) if default.is_null() => "default none".to_owned(),
            Some(default) => format!("default {default}"),
        };
        text += &format!("  {}: {takes}; {default}\n", setting.key);
        for line in setting.help.lines() {
            text += &format!("      {}\n", line.trim());
        }
    }
    text
}
