//! Weights of a network of its own that others trained, read for a plugin that goes on from them: a ControlNet.

use std::collections::BTreeMap;

use super::ReadWeights;
use crate::{Host, Result, Tensor, message::message};

message! {
    /// Asks for a model folder's or a weights file's content.
    pub struct ReadWeightsIn {
        /// The folder, or the file.
        pub path: String,
    }
}

message! {
    /// What a model folder or a weights file holds.
    pub struct Weights {
        /// Tensors under the names they are stored by, in the type they are stored in.
        pub tensors: BTreeMap<String, Tensor>,
        /// The `config.json` beside them, where there is one.
        pub config: Option<String>,
    }
}

impl Host {
    /// Reads a model folder of diffusers (`config.json` with one weights file or shards) or one weights file. The tensors carry no gradient; start a
    /// parameter from one with [`Init::Value`](super::Init::Value).
    ///
    /// Relative paths are relative to the working directory; a plugin's setting that is a path should be made absolute by its user.
    ///
    /// # Errors
    /// For what is missing, damaged, or no weights.
    pub fn read_weights(&self, path: &std::path::Path) -> Result<Weights> {
        self.call::<ReadWeights>(ReadWeightsIn {
            path: path.to_string_lossy().into_owned(),
        })
    }
}
