//! What a run leaves behind and shows while it goes: `metrics.jsonl`, TensorBoard events, plots, `report.html`,
//! progress on the terminal and where the time went.

mod error;
pub mod metrics;

pub use error::Error;
pub use metrics::{MetricsLog, StepMetrics};
