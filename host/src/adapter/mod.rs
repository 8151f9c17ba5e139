//! Adapter files of other programs: a LoRA and its relatives as diffusers, PEFT, kohya and LyCORIS write them.
//!
//! A file is [read](AdapterWeights::read) into tensors by module, [matched](AdapterWeights::matched) to a backbone's layers, and so becomes
//! [updates](LayerUpdate) under PEFT's names, whatever the file's own. An update is a function of its layer's weight, so a backbone opens with its adapters
//! [merged](merged) into its weights; or a plugin gets the tensors and goes on training them.

mod build;
mod config;
mod error;
mod file;
mod formulas;
mod keys;
mod matching;
pub(crate) mod merged;
pub mod spread;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod unet_tests;
pub mod write;

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde::Serialize;

pub use error::Error;
pub use file::AdapterWeights;
pub use matching::{Matched, Report};

use crate::config::AdapterEntry;

/// The methods whose files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A low-rank update (Hu et al. 2021, arXiv 2106.09685), with magnitudes DoRA (Liu et al. 2024, arXiv 2402.09353).
    Lora,
    /// A Hadamard product of two low-rank matrices (Hyeon-Woo et al. 2022, arXiv 2108.06098).
    Loha,
    /// A Kronecker product (Yeh et al. 2023, arXiv 2309.14859).
    Lokr,
    /// Scales of a layer's outputs or inputs (Liu et al. 2022, arXiv 2205.05638).
    Ia3,
    /// A weight or bias that the file replaces (PEFT's `modules_to_save` and trained biases).
    Full,
}

impl Kind {
    /// The name in snake case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lora => "lora",
            Self::Loha => "loha",
            Self::Lokr => "lokr",
            Self::Ia3 => "ia3",
            Self::Full => "full",
        }
    }
}

/// What a file holds for one layer.
#[derive(Clone, Debug)]
pub struct LayerUpdate {
    /// The layer's path.
    pub path: String,
    /// How the tensors are meant.
    pub kind: Kind,
    /// The rank; 0 for a kind without one.
    pub rank: usize,
    /// The file's alpha; the rank where it says none.
    pub alpha: f64,
    /// What the update is multiplied by, before the strength that a user gives: `alpha / rank`, or with rsLoRA `alpha / sqrt(rank)`.
    pub scale: f64,
    /// f32 tensors by PEFT's part names, in PEFT's shapes; `plugin_api::LayerUpdate` lists them.
    pub tensors: BTreeMap<&'static str, Tensor>,
}

impl LayerUpdate {
    /// Whether another update does the same, whatever its layer.
    ///
    /// # Errors
    /// A device that fails.
    pub fn same(&self, other: &Self) -> candle_core::Result<bool> {
        if (self.kind, self.scale) != (other.kind, other.scale)
            || !self.tensors.keys().eq(other.tensors.keys())
        {
            return Ok(false);
        }
        for (one, two) in self.tensors.values().zip(other.tensors.values()) {
            let values = |tensor: &Tensor| tensor.flatten_all()?.to_vec1::<f32>();
            if one.dims() != two.dims() || values(one)? != values(two)? {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Reads the adapters of a run, each with its strength.
///
/// # Errors
/// One that cannot be read, or that is not the file that the run began with.
pub fn read_all(chosen: &[AdapterEntry]) -> Result<Vec<(AdapterWeights, f64)>, Error> {
    let read = |entry: &AdapterEntry| {
        let weights = AdapterWeights::read(&entry.path)?;
        match &entry.sha256 {
            Some(was) if *was != weights.sha256 => Err(Error::Changed {
                path: weights.path,
                was: was.clone(),
                now: weights.sha256,
            }),
            _ => Ok((weights, entry.scale)),
        }
    };
    chosen.iter().map(read).collect()
}
