//! What can go wrong while a run is being recorded or its report written.

use std::path::PathBuf;

/// An error of the report: a file that cannot be written or read, or one whose content is not what it should be.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error(transparent)]
    Files(#[from] crate::fs::Error),
    /// A line inside `metrics.jsonl`, other than a torn last one, is not a step.
    #[error(
        "{path} line {line} is not a step ({reason}); restore the file, or delete it to start a new one"
    )]
    MetricsLine {
        /// The metrics file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// `report.json` does not hold a report this host understands.
    #[error("{path} is not a report of this host: {source}")]
    ReportJson {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// `eval.json` does not hold an evaluation this host understands.
    #[error(
        "{path} is not an evaluation of this host: {source}; delete it, or make it anew with `host eval`"
    )]
    EvalJson {
        /// The file.
        path: PathBuf,
        /// Where it stops making sense.
        #[source]
        source: serde_json::Error,
    },
    /// An image for TensorBoard is not a PNG.
    #[error("the image {tag:?} for TensorBoard is not a PNG ({length} bytes)")]
    NotPng {
        /// The image's tag.
        tag: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A plot could not be drawn.
    #[error("cannot draw the plot {title:?}: {reason}")]
    Plot {
        /// The plot's title.
        title: String,
        /// What the drawing library said.
        reason: String,
    },
}
