//! A backbone's parameters with adapters merged in, one at a time as they load: computed in f32 and rounded once.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Tensor};

use super::{AdapterWeights, LayerUpdate, Report};
use crate::backbone::{Error, LayerInfo, Source};

/// Parameters of a checkpoint under updates, in the order in which these were given.
///
/// Adapters may tell apart what the checkpoint stores once for all blocks. So every block's own name is offered, and whether the values can still be shared is decided
/// from the merged ones, as it is for any file that stores them for each block.
pub(crate) struct Merged<'a> {
    /// The checkpoint in f32 on the CPU.
    base: &'a dyn Source,
    /// Names that the checkpoint stores under another block's.
    copies: BTreeMap<String, String>,
    /// By layer, with the strength of each.
    updates: BTreeMap<String, Vec<(LayerUpdate, f64)>>,
    device: &'a Device,
    dtype: DType,
}

impl<'a> Merged<'a> {
    /// Matches adapters to layers. `copies` are the names that a checkpoint may leave out, each with the one that it then means.
    ///
    /// # Errors
    /// An adapter that does not fit.
    pub(crate) fn new(
        base: &'a dyn Source,
        layers: &[LayerInfo],
        copies: BTreeMap<String, String>,
        adapters: &[(AdapterWeights, f64)],
        device: &'a Device,
        dtype: DType,
    ) -> Result<(Self, Vec<Report>), Error> {
        let mut updates: BTreeMap<String, Vec<(LayerUpdate, f64)>> = BTreeMap::new();
        let mut reports = Vec::new();
        for (weights, strength) in adapters {
            let matched = weights.matched(layers)?;
            for update in matched.updates {
                let path = update.path.clone();
                updates.entry(path).or_default().push((update, *strength));
            }
            reports.push(matched.report);
        }
        let copies = copies
            .into_iter()
            .filter(|(copy, _)| base.shape(copy).is_none())
            .collect();
        let merged = Self {
            base,
            copies,
            updates,
            device,
            dtype,
        };
        Ok((merged, reports))
    }

    /// The name under which the checkpoint has a parameter.
    fn stored<'n>(&'n self, name: &'n str) -> &'n str {
        self.copies.get(name).map_or(name, String::as_str)
    }

    fn is_touched(&self, name: &str) -> bool {
        name.rsplit_once('.')
            .is_some_and(|(path, _)| self.updates.contains_key(path))
    }
}

impl Source for Merged<'_> {
    fn names(&self) -> Vec<String> {
        let all: BTreeSet<String> = self
            .base
            .names()
            .into_iter()
            .chain(self.copies.keys().cloned())
            .collect();
        all.into_iter().collect()
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        self.base.shape(self.stored(name))
    }

    fn load(&self, name: &str) -> Result<Tensor, Error> {
        let mut value = self.base.load(self.stored(name))?;
        if let Some((path, parameter)) = name.rsplit_once('.') {
            for (update, strength) in self.updates.get(path).into_iter().flatten() {
                value = match parameter {
                    "weight" => update.weight(&value, *strength)?,
                    "bias" => update.bias(&value, *strength)?,
                    _ => value,
                };
            }
        }
        Ok(value.to_dtype(self.dtype)?.to_device(self.device)?)
    }

    fn same(&self, first: &str, second: &str) -> Result<bool, Error> {
        if !self.is_touched(first) && !self.is_touched(second) {
            let (first, second) = (self.stored(first), self.stored(second));
            return Ok(first == second || self.base.same(first, second)?);
        }
        let values = |name: &str| -> Result<Vec<f32>, Error> {
            let tensor = self.load(name)?.to_dtype(DType::F32)?;
            Ok(tensor.flatten_all()?.to_vec1()?)
        };
        Ok(values(first)? == values(second)?)
    }
}
