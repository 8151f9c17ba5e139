//! Log lines and progress: both go to standard error, through one place, so that a line never tears a bar.

use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use tracing_subscriber::fmt::MakeWriter;

use super::Global;
use super::text::Palette;
use crate::report::Progress;

/// Filters in the manner of `RUST_LOG` (`host=debug,diff_tuning=trace`), which win over `-v` and `-q`.
const FILTER_VARIABLE: &str = "HOST_LOG";

/// Starts the log and gives what shows progress.
pub(super) fn start(global: &Global, palette: &Palette) -> Progress {
    let level = match (global.quiet, global.verbose) {
        (true, _) => LevelFilter::ERROR,
        (_, 0) => LevelFilter::INFO,
        (_, 1) => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    if global.quiet {
        subscribe(level, palette, std::io::stderr);
        Progress::hidden()
    } else {
        let progress = Progress::stderr();
        subscribe(level, palette, progress.clone());
        progress
    }
}

fn subscribe<W>(level: LevelFilter, palette: &Palette, writer: W)
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder()
        .with_default_directive(level.into())
        .with_env_var(FILTER_VARIABLE)
        .from_env_lossy();
    // Fails only if the embedding program has a log of its own already; then that one is the right one.
    let _ = tracing_subscriber::fmt()
        .compact()
        .without_time()
        .with_target(level >= LevelFilter::DEBUG)
        .with_ansi(palette.colours)
        .with_env_filter(filter)
        .with_writer(writer)
        .try_init();
}
