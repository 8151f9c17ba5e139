//! `host doctor`: what this machine and this installation offer, and what is wrong with them.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::plugin::entries;
use super::text::{Listing, grouped, indented, table};
use crate::ops;
use crate::plugin::discover::Search;
use crate::plugin::listing;
use crate::plugin::manifest::HOST_ABI;
use crate::pretrained;
use crate::report::Environment;
use crate::train::cache;

/// Check this machine and this installation: processor, memory, plugins, folders
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Look for plugins in this folder first; may be repeated
    #[arg(long = "plugin-dir", value_name = "DIR")]
    plugin_dirs: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Listing, Failure> {
    let environment = Environment::detect(rayon::current_num_threads(), "cpu");
    let search = Search::new(&arguments.plugin_dirs);
    let plugins = listing::list(&search).plugins;
    let folder = std::env::current_dir().unwrap_or_default();
    let writable = is_writable(&folder);
    let cache = cache::root();
    let cache_writable = is_writable(&cache);
    let embedded = pretrained::inspect(None)?.info;
    let warnings = warnings(
        &environment,
        plugins.iter().any(|entry| entry.problem.is_none()),
        writable,
        cache_writable,
    );

    let abi = format!("{}.{}", HOST_ABI.major, HOST_ABI.minor);
    let text = || {
        let features = match environment.cpu_features.join(", ") {
            none if none.is_empty() => "none found".to_owned(),
            features => features,
        };
        let memory = match environment.memory_bytes {
            0 => "unknown".to_owned(),
            bytes => format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64),
        };
        let facts = [
            ("host", environment.host_version.clone()),
            ("plugin ABI", abi.clone()),
            ("platform", environment.platform.clone()),
            ("processor", environment.cpu.clone()),
            ("vector instructions", features),
            (
                "tile unit",
                ops::tile_unit()
                    .map_or_else(|| "AMX, for matrix products".to_owned(), str::to_owned),
            ),
            (
                "threads",
                format!(
                    "{} of {} logical processors",
                    environment.threads, environment.cpus
                ),
            ),
            ("memory", memory),
            (
                "embedded backbone",
                format!(
                    "{}, {} parameters",
                    embedded.architecture,
                    grouped(embedded.parameters)
                ),
            ),
            ("working folder", place(&folder, writable)),
            ("cache folder", place(&cache, cache_writable)),
        ];
        let mut text = table(&facts.map(|(name, value)| [name.to_owned(), value]));
        text += "\nplaces searched for plugins\n";
        for place in search.places() {
            let missing = if place.directory.is_dir() {
                ""
            } else {
                " (not there)"
            };
            text += &format!("  {place}{missing}\n");
        }
        text += "\nplugins found\n";
        text += &match plugins.len() {
            0 => "  none\n".to_owned(),
            _ => indented(&entries(&plugins)),
        };
        text += match warnings.len() {
            0 => "\nall is well\n",
            _ => "\nto look at\n",
        };
        for warning in &warnings {
            text += &format!("  {warning}\n");
        }
        text
    };
    let json = || {
        json!({
            "environment": environment,
            "abi": abi,
            "working_folder": { "path": folder, "writable": writable },
            "cache_folder": { "path": cache, "writable": cache_writable },
            "embedded_backbone": embedded,
            "plugin_places": search.places().iter().map(|place| json!({
                "path": place.directory,
                "why": place.origin.to_string(),
                "exists": place.directory.is_dir(),
            })).collect::<Vec<_>>(),
            "plugins": plugins,
            "warnings": warnings,
        })
    };
    Ok(Listing::new(arguments.json, text, json))
}

fn place(folder: &Path, writable: bool) -> String {
    format!(
        "{} ({})",
        folder.display(),
        if writable { "writable" } else { "not writable" }
    )
}

/// Whether files can be made in the folder, or, while it is not there, in the folder that would hold it.
fn is_writable(folder: &Path) -> bool {
    folder
        .ancestors()
        .find(|folder| folder.is_dir())
        .is_some_and(|folder| tempfile::tempfile_in(folder).is_ok())
}

/// What someone should know before the first run.
fn warnings(
    environment: &Environment,
    any_plugin: bool,
    writable: bool,
    cache_writable: bool,
) -> Vec<String> {
    const LITTLE_MEMORY: u64 = 2 << 30;
    let mut warnings = Vec::new();
    if cfg!(target_arch = "x86_64")
        && !environment
            .cpu_features
            .iter()
            .any(|feature| feature == "avx2")
    {
        warnings.push("this processor has no AVX2: training is several times slower".to_owned());
    }
    if environment.memory_bytes > 0 && environment.memory_bytes < LITTLE_MEMORY {
        warnings.push("there are less than 2 GiB of memory: use a small --batch-size".to_owned());
    }
    if !writable {
        warnings.push("the working folder is not writable: give --out a folder that is".to_owned());
    }
    if !cache_writable {
        warnings.push(
            "the cache folder is not writable: set HOST_CACHE_DIR to a folder that is".to_owned(),
        );
    }
    if !any_plugin {
        warnings.push("no plugin is found: build them (`cargo build --release`) or point --plugin-dir at them".to_owned());
    }
    warnings
}
