//! `host run`: trains, and leaves a run folder.

use clap::Args;

use super::arguments::RunArguments;
use super::failure::Failure;
use super::prepare::prepare;
use super::text::Listing;
use super::threads;
use crate::cancel::{Cancel, INTERRUPTED};
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
        command: std::env::args().collect::<Vec<_>>().join(" "),
        resolved: prepared.resolved,
        plan: prepared.plugins,
    };
    let cancel = Cancel::on_signal().map_err(|error| {
        crate::fs::Error::io(
            "watch for Ctrl-C in",
            job.resolved.out(),
            std::io::Error::other(error),
        )
    })?;
    let out = job.resolved.out();
    Ok(match train(&job, progress, &cancel)? {
        Ending::Finished => Listing::text(format!(
            "finished; look at {}",
            out.join("report.html").display()
        )),
        Ending::Interrupted(Some(checkpoint)) => Listing::text(format!(
            "interrupted; saved in {}, continue with `host run --resume --out {}`",
            checkpoint.display(),
            out.display()
        ))
        .ending(INTERRUPTED as u8),
        Ending::Interrupted(None) => {
            Listing::text("interrupted before the first step; there is nothing to continue")
                .ending(INTERRUPTED as u8)
        }
    })
}
