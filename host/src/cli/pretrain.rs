//! `host pretrain`: a backbone from scratch, by a recipe file.

use std::path::{Path, PathBuf};

use clap::Args;

use super::arguments::{Flags, whole};
use super::failure::Failure;
use super::text::Listing;
use super::threads;
use crate::cancel::{Cancel, INTERRUPTED};
use crate::config::resolve::shorten_warmup;
use crate::config::{Overrides, check_ranges, resolve_sections};
use crate::report::Progress;
use crate::train::Ending;
use crate::train::folder::{self, Existing};
use crate::train::pretrain::{Recipe, pretrain};

/// The recipe as resolved, inside the folder that it makes.
const RECIPE_FILE: &str = "recipe.toml";

/// Train a backbone from scratch by a recipe: how the embedded one was made
///
/// A recipe has the sections of a run file that apply ([run], [data], [train], [sample]), and [model] and [scheduler] with the
/// keys of diffusers' config.json and scheduler_config.json. The result is OUT/backbone/, which --backbone takes.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe; on --resume the folder's own unless given
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder for checkpoints, metrics and the backbone [default: runs/pretrain]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Optimizer steps
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    steps: Option<i64>,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Set any key of the recipe; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Continue from the newest checkpoint, bit for bit
    #[arg(long)]
    resume: bool,
}

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    let (recipe, out) = resolve(arguments)?;
    threads::set(recipe.train.threads);
    let existing = if arguments.resume {
        Existing::Resume
    } else {
        Existing::Refuse
    };
    folder::prepare(&out, existing)?;
    let text = toml::to_string_pretty(&recipe).unwrap_or_default();
    crate::fs::write_atomic(&out.join(RECIPE_FILE), text.as_bytes())?;

    let cancel = Cancel::on_signal().map_err(|error| {
        crate::fs::Error::io("watch for Ctrl-C in", &out, std::io::Error::other(error))
    })?;
    Ok(
        match pretrain(&recipe, &out, arguments.resume, progress, &cancel)? {
            Ending::Finished => Listing::text(format!(
                "wrote the backbone to {}",
                out.join("backbone").display()
            )),
            Ending::Interrupted(Some(checkpoint)) => Listing::text(format!(
                "interrupted; saved in {}, continue with `host pretrain --resume --out {}`",
                checkpoint.display(),
                out.display()
            ))
            .ending(INTERRUPTED as u8),
            Ending::Interrupted(None) => {
                Listing::text("interrupted before the first step; there is nothing to continue")
                    .ending(INTERRUPTED as u8)
            }
        },
    )
}

/// The recipe and the folder, from the file, the flags and the defaults.
fn resolve(arguments: &Arguments) -> Result<(Recipe, PathBuf), Failure> {
    let stored = arguments.out.as_ref().map(|out| out.join(RECIPE_FILE));
    let stored = stored.filter(|file| arguments.resume && file.is_file());
    let mut flags = Flags::default();
    flags.path("run", "out", "--out", arguments.out.as_deref());
    flags.whole("train", "steps", "--steps", arguments.steps);
    flags.whole("train", "threads", "--threads", arguments.threads);
    let overrides = Overrides {
        config: arguments.config.clone().or(stored),
        flags: flags.0,
        sets: arguments.sets.clone(),
        ..Overrides::default()
    };
    let (mut recipe, origins): (Recipe, _) = resolve_sections(&overrides)?;
    shorten_warmup(&mut recipe.train, &origins);
    check_ranges(&recipe.data, &recipe.train, &recipe.sample, &origins)?;
    if recipe.run.out.as_os_str().is_empty() {
        recipe.run.out = Path::new("runs").join("pretrain");
    }
    recipe.run.out = std::path::absolute(&recipe.run.out).unwrap_or(recipe.run.out);
    let out = recipe.run.out.clone();
    Ok((recipe, out))
}
