//! `host sample`: images of a run or of a backbone alone, as one PNG.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::arguments::whole;
use super::drawing::{DrawingArguments, Inputs};
use super::failure::Failure;
use super::interruption::watch;
use super::text::Listing;
use crate::cancel::Cancel;
use crate::report::Progress;
use crate::train::from_run::draw_saved;
use crate::train::{save_each, save_pictures};

/// Draw images with a run's trained weights, or with a backbone alone, into one PNG
///
/// Without --run and --backbone the embedded backbone draws. What is not given is as in the run's [sample] section. Image i of a
/// grid depends on the seed and on i alone.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How many images
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    count: Option<i64>,
    #[command(flatten)]
    drawing: DrawingArguments,
    /// The PNG to write
    #[arg(long, value_name = "FILE.png", default_value = "samples.png")]
    out: PathBuf,
    /// Write each picture into this folder too, at its own size, named after what it was drawn from
    #[arg(long, value_name = "DIR")]
    each: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    arguments.drawing.set_threads();
    draw(arguments, progress, &watch()?)
}

/// The command, once the process is set up for it.
pub(super) fn draw(
    arguments: &Arguments,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Listing, Failure> {
    let chosen = arguments.drawing.resolve(arguments.count, Inputs::Own)?;
    let resolved = &chosen.resolved;
    if resolved.config.sample.count == 0 {
        return Err(Failure::input("there is nothing to draw: --count is 0"));
    }
    let drawn = draw_saved(
        resolved,
        chosen.saved.as_ref(),
        &chosen.classes,
        progress,
        cancel,
    )?;
    let files = save_pictures(&drawn.pictures, &arguments.out)?;
    let each = match &arguments.each {
        Some(folder) => save_each(&drawn.pictures, &drawn.names(), folder)?,
        None => Vec::new(),
    };

    let sample = &resolved.config.sample;
    let text = || {
        let after = drawn
            .step
            .map(|step| format!(" after {step} steps"))
            .unwrap_or_default();
        let out: Vec<String> = files
            .iter()
            .map(|file| file.display().to_string())
            .collect();
        let out = out.join(", ");
        let folder = match &arguments.each {
            Some(folder) => format!(", and each into {}", folder.display()),
            None => String::new(),
        };
        format!(
            "drew {} images{after} with {}, {} steps, into {out}{folder}",
            sample.count, sample.sampler, sample.steps
        )
    };
    Ok(Listing::new(
        arguments.json,
        text,
        || json!({ "out": arguments.out, "files": files, "each": each, "step": drawn.step, "sample": sample, "seconds": drawn.seconds }),
    ))
}
