//! What a run is made of: the run file, and how defaults, file, flags and `--set` become one checked configuration.
//!
//! Parsing and resolution are separate ([`run_file`] is plain data, [`resolve()`] decides), and both happen before any
//! weight loads, so that every mistake in a run file or on the command line costs a second and one sentence.

mod adapter_list;
pub mod check;
pub mod choices;
pub mod compare;
pub mod error;
pub mod layers;
mod listing;
mod plugin_list;
mod plugin_values;
pub mod resolve;
pub mod run_file;
pub mod suggest;

pub use adapter_list::AdapterArgument;
pub use check::check_ranges;
pub use choices::{Accelerator, Precision, Sampler, Schedule, Spacing, Trainable, Weighting};
pub use compare::{Difference, Effect, compare};
pub use error::Error;
pub use layers::{Assignment, Origin, Origins};
pub(crate) use listing::Pairs;
pub use resolve::{Overrides, PluginArgument, Resolved, resolve, resolve_sections};
pub use run_file::{
    AdapterEntry, BackboneSection, DataSection, PluginEntry, RunFile, RunSection, SampleSection,
    TrainSection,
};

#[cfg(test)]
mod tests;
