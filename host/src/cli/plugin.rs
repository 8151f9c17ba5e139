//! `host plugin`: which plugins there are, and what a file says about itself. Nothing here executes a plugin.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::failure::Failure;
use super::text::{Listing, table};
use crate::config::plugin_settings::plugin_settings;
use crate::plugin::discover::{Found, Search};
use crate::plugin::preflight::{self, Checked};
use crate::plugin::slots::Slot;

/// See which plugins there are and what they do
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    List(List),
    Inspect(Inspect),
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

pub(super) fn run(command: &Command) -> Result<Listing, Failure> {
    match command {
        Command::List(arguments) => Ok(list(arguments)),
        Command::Inspect(arguments) => inspect(arguments),
    }
}

/// A file in a place for plugins, and what it is or why it cannot be used.
pub(super) struct Candidate {
    found: Found,
    checked: Result<Checked, preflight::Error>,
}

impl Candidate {
    /// Whether the file can be used.
    pub(super) fn usable(&self) -> bool {
        self.checked.is_ok()
    }

    /// One line about it.
    pub(super) fn cells(&self) -> [String; 4] {
        let (version, about) = match &self.checked {
            Ok(checked) => (
                checked.manifest.version.clone(),
                checked.manifest.slots.join(", "),
            ),
            Err(error) => (String::new(), format!("cannot be used: {error}")),
        };
        [
            self.found.name.clone(),
            version,
            about,
            self.found.path.display().to_string(),
        ]
    }

    pub(super) fn json(&self) -> Value {
        let mut json = json!({
            "name": self.found.name,
            "path": self.found.path,
            "found_in": self.found.origin.to_string(),
            "shadowed": self.found.shadowed,
        });
        match &self.checked {
            Ok(checked) => json["manifest"] = json!(checked.manifest),
            Err(error) => json["problem"] = json!(error.to_string()),
        }
        json
    }
}

/// Every file in the places that is a plugin or was meant to be one. A sound library without a manifest is neither.
pub(super) fn candidates(search: &Search) -> Vec<Candidate> {
    search
        .all()
        .into_iter()
        .map(|found| Candidate {
            checked: preflight::check(&found.path),
            found,
        })
        .filter(|candidate| !matches!(candidate.checked, Err(preflight::Error::NotAPlugin { .. })))
        .collect()
}

fn list(arguments: &List) -> Listing {
    let search = Search::new(&arguments.plugin_dirs);
    let candidates = candidates(&search);
    let text = || {
        let places: Vec<_> = search
            .places()
            .iter()
            .map(|place| format!("  {place}"))
            .collect();
        if candidates.is_empty() {
            return format!(
                "no plugins found; searched, in this order:\n{}",
                places.join("\n")
            );
        }
        let mut rows = vec![["plugin", "version", "slots", "file"].map(str::to_owned)];
        rows.extend(candidates.iter().map(Candidate::cells));
        let mut text = table(&rows);
        for Candidate { found, .. } in &candidates {
            for hidden in &found.shadowed {
                text += &format!(
                    "\n{}: {} is not used, {} comes first",
                    found.name,
                    hidden.display(),
                    found.path.display()
                );
            }
        }
        text
    };
    Listing::new(arguments.json, text, || {
        json!(candidates.iter().map(Candidate::json).collect::<Vec<_>>())
    })
}

fn inspect(arguments: &Inspect) -> Result<Listing, Failure> {
    let found = Search::new(&arguments.plugin_dirs).find(&arguments.plugin)?;
    let checked = preflight::read(&found.path)?;
    let json = || {
        json!({
            "path": checked.path,
            "size": checked.size,
            "sha256": checked.sha256,
            "shadowed": found.shadowed,
            "manifest": checked.manifest,
            "problem": checked.manifest.suits_this_host().err().map(|error| error.to_string()),
        })
    };
    Ok(Listing::new(
        arguments.json,
        || describe(&checked, &found),
        json,
    ))
}

fn describe(checked: &Checked, found: &Found) -> String {
    let manifest = &checked.manifest;
    let mut text = format!("{} {}\n", manifest.id, manifest.version);
    if !manifest.description.is_empty() {
        text += &format!("{}\n", manifest.description);
    }
    let mut facts = vec![
        ["file".to_owned(), checked.path.display().to_string()],
        [
            "size".to_owned(),
            format!("{} bytes", super::text::grouped(checked.size as usize)),
        ],
        ["sha256".to_owned(), checked.sha256.clone()],
        ["needs host ABI".to_owned(), manifest.abi.to_string()],
    ];
    let lists = [
        ("requires", &manifest.requires),
        ("conflicts with", &manifest.conflicts),
        ("goes before", &manifest.before),
        ("goes after", &manifest.after),
    ];
    facts.extend(
        lists
            .into_iter()
            .filter(|(_, names)| !names.is_empty())
            .map(|(what, names)| [what.to_owned(), names.join(", ")]),
    );
    facts.extend(
        found
            .shadowed
            .iter()
            .map(|path| ["hides".to_owned(), path.display().to_string()]),
    );
    if let Err(error) = manifest.suits_this_host() {
        facts.push(["cannot run here".to_owned(), error.to_string()]);
    }
    text += &format!("\n{}", table(&facts));

    let slots = manifest.slots.iter().map(|name| {
        let slot = Slot::from_name(name);
        let mode = slot.map_or("unknown to this host".to_owned(), |slot| {
            slot.mode().to_string()
        });
        [
            name.clone(),
            mode,
            slot.map_or(String::new(), |slot| slot.does().to_owned()),
        ]
    });
    text += &format!("\nslots\n{}", indented(&table(&slots.collect::<Vec<_>>())));

    let settings = plugin_settings(&manifest.settings);
    text += "\nsettings (`--set";
    text += &format!(" {}.KEY=VALUE`)\n", manifest.id);
    if settings.is_empty() {
        text += "  none\n";
    }
    for setting in settings {
        let default = if setting.default.is_null() {
            "none".to_owned()
        } else {
            setting.default.to_string()
        };
        text += &format!("  {}: {}; default {default}\n", setting.key, setting.must);
        for line in setting.description.lines() {
            text += &format!("      {}\n", line.trim());
        }
    }
    text
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
