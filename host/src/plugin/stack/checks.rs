//! What plugins return, checked against what the step needs of it, with sentences that name the plugin and both sides.

use candle_core::{DType, Tensor};

use crate::plugin::failure::{Moment, PluginError};
use crate::plugin::foreign::{Foreign, Scene};
use crate::plugin::slots::Slot;
use crate::plugin::tensor_ops;

/// What one plugin returned at one slot.
pub(super) struct Returned<'a> {
    plugin: &'a Foreign,
    moment: Moment,
    what: &'a str,
}

impl<'a> Returned<'a> {
    pub(super) fn new(plugin: &'a Foreign, scene: &Scene<'_>, slot: Slot, what: &'a str) -> Self {
        let moment = Moment {
            slot: Some(slot),
            step: scene.step,
            phase: scene.phase,
        };
        Self {
            plugin,
            moment,
            what,
        }
    }

    /// The candle tensor behind a plugin's tensor.
    pub(super) fn import(&self, tensor: &plugin_api::Tensor) -> Result<Tensor, PluginError> {
        tensor_ops::import(tensor).map_err(|error| self.wrong(error))
    }

    /// The values are of no use, for this reason.
    pub(super) fn wrong(&self, reason: impl std::fmt::Display) -> PluginError {
        PluginError::Value {
            plugin: self.plugin.name().to_owned(),
            moment: self.moment,
            what: self.what.to_owned(),
            reason: reason.to_string(),
        }
    }

    fn misshapen(&self, tensor: &Tensor, expected: String) -> PluginError {
        PluginError::Shape {
            plugin: self.plugin.name().to_owned(),
            moment: self.moment,
            what: self.what.to_owned(),
            got: tensor.dims().to_vec(),
            expected,
        }
    }

    /// The tensor, if it has exactly this shape.
    pub(super) fn shaped(
        &self,
        tensor: &plugin_api::Tensor,
        expected: &[usize],
    ) -> Result<Tensor, PluginError> {
        let tensor = self.import(tensor)?;
        if tensor.dims() == expected {
            return Ok(tensor);
        }
        Err(self.misshapen(&tensor, format!("{expected:?}")))
    }

    /// The tensor, if it has this rank.
    pub(super) fn ranked(
        &self,
        tensor: &plugin_api::Tensor,
        rank: usize,
    ) -> Result<Tensor, PluginError> {
        let tensor = self.import(tensor)?;
        if tensor.rank() == rank {
            return Ok(tensor);
        }
        Err(self.misshapen(&tensor, format!("{rank} dimensions")))
    }

    /// The tensor, if it has this element type.
    pub(super) fn typed(&self, tensor: Tensor, dtype: DType) -> Result<Tensor, PluginError> {
        if tensor.dtype() == dtype {
            return Ok(tensor);
        }
        Err(self.wrong(format_args!(
            "it is {}, expected {}",
            tensor.dtype().as_str(),
            dtype.as_str()
        )))
    }

    /// The tensor, if every value passes; meant for the few values of a `[B]` tensor.
    pub(super) fn valued(
        &self,
        tensor: Tensor,
        expected: &str,
        passes: fn(f32) -> bool,
    ) -> Result<Tensor, PluginError> {
        let values = tensor
            .detach()
            .to_dtype(DType::F32)
            .and_then(|values| values.flatten_all()?.to_vec1::<f32>());
        let values = values.map_err(|error| self.wrong(error))?;
        match values.iter().position(|&value| !passes(value)) {
            None => Ok(tensor),
            Some(sample) => Err(self.wrong(format_args!(
                "value {sample} is {}, expected {expected}",
                values[sample]
            ))),
        }
    }
}
