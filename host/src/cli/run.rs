//! `host run`: trains, and leaves a run folder.

use clap::Args;

use super::arguments::RunArguments;
use super::failure::Failure;
use super::interruption::{interrupted, watch};
use super::prepare::prepare;
use super::text::Listing;
use super::threads;
use crate::cancel::INTERRUPTED;
use crate::report::Progress;
use crate::train::Ending;
use crate::train::folder::Existing;
use crate::train::run::{Job, run as train};

/// Fine-tune a backbone with plugins; leaves samples, metrics, checkpoints, the adapter and report.html in the run folder
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    run: RunArguments,
}

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    let prepared = prepare(&arguments.run)?;
    for note in &prepared.notes {
        tracing::warn!("{note}");
    }
    threads::set(prepared.resolved.config.train.threads);
    let job = Job {
        existing: match (arguments.run.resume, arguments.run.overwrite) {
            (true, _) => Existing::Resume,
            (_, true) => Existing::Overwrite,
            _ => Existing::Refuse,
        },
        force: arguments.run.force,
        command: std::env::args().collect::<Vec<_>>().join(" "),
        resolved: prepared.resolved,
        plan: prepared.plugins,
    };
    let cancel = watch()?;
    let out = job.resolved.out();
    Ok(match train(&job, progress, &cancel)? {
        Ending::Finished => Listing::text(format!(
            "finished; look at {}",
            out.join("report.html").display()
        )),
        Ending::Interrupted(Some(checkpoint)) => interrupted("run", Some(&checkpoint), out),
        Ending::Interrupted(None) => Listing::text(format!(
            "interrupted before the first step; begin again with `host run --resume --out {}`",
            out.display()
        ))
        .ending(INTERRUPTED as u8),
    })
}
