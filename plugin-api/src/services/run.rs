//! The run itself: its settings, and what a plugin contributes to its record.

use super::{Artifact, Metric, Progress, Run, Stop, model::NoIn};
use crate::{Host, Result, message::message};

message! {
    /// An answer without content.
    pub struct Nothing {}
}

message! {
    /// What the run is.
    pub struct RunInfo {
        /// Seed.
        pub seed: u64,
        /// Training steps in all; 0 when only sampling.
        pub steps: u64,
        /// Samples a step.
        pub batch_size: usize,
        /// Batches accumulated for one optimizer step.
        pub accumulation: usize,
        /// Code of the [`DType`](crate::DType) in which the host computes.
        pub dtype: u32,
        /// Number of samples in the data set; 0 when there is none.
        pub dataset_len: usize,
        /// Names of the data set's classes.
        pub classes: Vec<String>,
        /// Ids of all plugins of the run, in their order.
        pub plugins: Vec<String>,
        /// Side of the data set's images in pixels; missing when there is none, and from hosts before this field.
        pub image_size: Option<usize>,
        /// Names of the further pictures in every training batch; missing when only sampling, and from hosts before this field.
        pub columns: Option<Vec<String>>,
        /// Whether batches are of several sizes, each within itself of one; missing when only sampling, and from hosts before this field.
        pub bucketing: Option<bool>,
    }
}

message! {
    /// A number to plot.
    pub struct MetricIn {
        /// Its name.
        pub name: String,
        /// Its value at this step.
        pub value: f64,
    }
}

message! {
    /// How far a long task is.
    pub struct ProgressIn {
        /// Done so far.
        pub done: u64,
        /// To do in all.
        pub total: u64,
        /// What it is.
        pub label: String,
    }
}

message! {
    /// A file for the run folder.
    pub struct ArtifactIn {
        /// File name, without folders.
        pub name: String,
        /// Content.
        pub content: Vec<u8>,
    }
}

message! {
    /// A request to end training.
    pub struct StopIn {
        /// Why, in one sentence.
        pub reason: String,
    }
}

impl Host {
    /// What the run is.
    ///
    /// # Errors
    /// When the host fails.
    pub fn run(&self) -> Result<RunInfo> {
        self.call::<Run>(NoIn {})
    }

    /// Records a number for this step as `plugin/<id>/<name>` in metrics, TensorBoard and the report.
    ///
    /// # Errors
    /// When the host fails.
    pub fn metric(&self, name: &str, value: f64) -> Result<()> {
        self.call::<Metric>(MetricIn {
            name: name.to_owned(),
            value,
        })?;
        Ok(())
    }

    /// Shows how far a long task is, in [`PrepareHook`](crate::hooks::PrepareHook) above all.
    ///
    /// # Errors
    /// [`Error::Cancelled`](crate::Error::Cancelled) when the user wants to stop: pass it on.
    pub fn progress(&self, done: u64, total: u64, label: &str) -> Result<()> {
        self.call::<Progress>(ProgressIn {
            done,
            total,
            label: label.to_owned(),
        })?;
        Ok(())
    }

    /// Writes a file into the run folder, under `plugins/<id>/`; one of the same name is replaced.
    ///
    /// # Errors
    /// When the name has folders in it or the file cannot be written.
    pub fn artifact(&self, name: &str, content: impl Into<Vec<u8>>) -> Result<()> {
        self.call::<Artifact>(ArtifactIn {
            name: name.to_owned(),
            content: content.into(),
        })?;
        Ok(())
    }

    /// Asks the host to end training after this step, as if the last step had been reached.
    ///
    /// # Errors
    /// When the host fails.
    pub fn stop(&self, reason: &str) -> Result<()> {
        self.call::<Stop>(StopIn {
            reason: reason.to_owned(),
        })?;
        Ok(())
    }
}
