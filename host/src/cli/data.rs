//! `host data`: the rendered scenes as an ordinary folder.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use clap::{Args, Subcommand};
use serde_json::json;

use super::failure::Failure;
use super::text::{Listing, table};
use crate::data::scenes::{DOMAINS, Domain};
use crate::data::{ExportOptions, MapKind, export};
use crate::report::Progress;

/// See and export the rendered scenes
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    Domains(Domains),
    Export(Export),
}

/// List the domains of `--data scenes:DOMAIN`
#[derive(Debug, Args)]
pub(super) struct Domains {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Write rendered scenes as a folder of images: CLASS/NUMBER.png, metadata.jsonl with captions, maps under _maps/
#[derive(Debug, Args)]
pub(super) struct Export {
    /// The domain, or a content and a style joined by `+`; see `host data domains`
    #[arg(value_name = "scenes:DOMAIN")]
    domain: String,
    /// The folder to write; new or empty
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// How many scenes
    #[arg(long, value_name = "N", default_value_t = 100)]
    count: usize,
    /// Pixels along each side
    #[arg(long, value_name = "N", default_value_t = 32)]
    size: usize,
    /// Which scenes; the same seed gives the same scenes in every style
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// Exact maps to write beside the images: depth, normals, mask, edges, segmentation, fill; separated by commas
    #[arg(long, value_name = "MAPS", value_delimiter = ',', value_parser = map_kind)]
    maps: Vec<MapKind>,
    /// A further picture to write beside each image, and where it comes from, such as source=edges or before=domain:studio; may be repeated
    #[arg(long = "column", value_name = "NAME=SOURCE", value_parser = column)]
    columns: Vec<(String, String)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(command: &Command, progress: &Progress) -> Result<Listing, Failure> {
    match command {
        Command::Domains(arguments) => Ok(domains(arguments)),
        Command::Export(arguments) => write(arguments, progress),
    }
}

fn domains(arguments: &Domains) -> Listing {
    let text = || {
        let rows: Vec<_> = DOMAINS
            .iter()
            .map(|(name, _, about)| [format!("scenes:{name}"), (*about).to_owned()])
            .collect();
        format!(
            "{}\nA content and a style may be joined: scenes:solids+neon",
            table(&rows)
        )
    };
    let json = || {
        let domains = DOMAINS.iter().map(
            |(name, domain, about)| json!({ "name": name, "description": about, "classes": domain.content.classes() }),
        );
        json!(domains.collect::<Vec<_>>())
    };
    Listing::new(arguments.json, text, json)
}

fn write(arguments: &Export, progress: &Progress) -> Result<Listing, Failure> {
    let domain = arguments
        .domain
        .strip_prefix("scenes:")
        .unwrap_or(&arguments.domain);
    // Before the progress starts.
    Domain::parse(domain)?;
    let options = ExportOptions {
        domain: domain.to_owned(),
        out: arguments.out.clone(),
        count: arguments.count,
        size: arguments.size,
        seed: arguments.seed,
        maps: arguments.maps.clone(),
        columns: arguments.columns.iter().cloned().collect(),
    };
    let task = Mutex::new(progress.count("scenes", "scene", arguments.count as u64));
    let exported = export(&options, &|done| {
        task.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .set(done as u64)
    })?;
    task.into_inner()
        .unwrap_or_else(PoisonError::into_inner)
        .finish();
    let folder = arguments.out.display();
    Ok(Listing::new(
        arguments.json,
        || {
            format!(
                "wrote {} images of {} classes to {folder}",
                exported.images,
                exported.classes.len()
            )
        },
        || json!({ "out": arguments.out, "images": exported.images, "classes": exported.classes }),
    ))
}

fn column(text: &str) -> Result<(String, String), String> {
    let (name, source) = text
        .split_once('=')
        .ok_or("a column is NAME=SOURCE, as in source=edges")?;
    Ok((name.trim().to_owned(), source.trim().to_owned()))
}

fn map_kind(name: &str) -> Result<MapKind, String> {
    MapKind::from_name(name).ok_or_else(|| {
        format!(
            "the maps are {}",
            MapKind::ALL.map(MapKind::name).join(", ")
        )
    })
}
