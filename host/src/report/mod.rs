//! What a run leaves behind and shows while it goes: `metrics.jsonl`, TensorBoard events, plots, `report.html`,
//! progress on the terminal and where the time went.

pub mod environment;
mod error;
pub mod estimates;
pub mod evaluation;
mod html;
pub mod metrics;
pub mod plot;
pub mod profile;
pub mod progress;
pub mod summary;
pub mod tensorboard;

pub use environment::{Environment, Process};
pub use error::Error;
pub use estimates::Estimates;
pub use evaluation::Evaluation;
pub use metrics::{MetricsLog, StepMetrics};
pub use profile::{Phase, Profile, Profiler, Stopwatch};
pub use progress::{Progress, Task};
pub use summary::{Report, Status};
pub use tensorboard::EventWriter;

/// Width and height of a PNG, read from its header; `None` if `bytes` is not one.
fn png_size(bytes: &[u8]) -> Option<(u32, u32)> {
    let header = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n")?.get(..16)?;
    let number = |at: usize| Some(u32::from_be_bytes(header.get(at..at + 4)?.try_into().ok()?));
    (&header[4..8] == b"IHDR").then_some(())?;
    Some((number(8)?, number(12)?))
}
