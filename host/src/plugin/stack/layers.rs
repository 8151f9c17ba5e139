//! Slot `layer`: plugins inside the backbone, chained on each layer that they said they adapt.

use std::cell::RefCell;

use candle_core::Tensor;
use plugin_api::LayerInfo;
use plugin_api::hooks::{LayerIn, LayerSelect, LayerSelectIn};
use plugin_api::slots as calls;

use super::Stack;
use super::checks::Returned;
use crate::backbone::LayerHook;
use crate::plugin::failure::PluginError;
use crate::plugin::foreign::Scene;
use crate::plugin::slots::Slot;
use crate::plugin::tensor_ops::export;

impl Stack {
    /// Asks each plugin of the slot which layers it adapts; once, after [`Stack::prepare`]. `layers` are the backbone's, each `id`
    /// its index in `Backbone::layers`.
    ///
    /// # Errors
    /// A plugin fails, answers for another number of layers, or adapts none of them.
    pub fn choose_layers(
        &mut self,
        scene: &Scene<'_>,
        layers: &[LayerInfo],
    ) -> Result<(), PluginError> {
        let mut adapters = vec![Vec::new(); layers.len()];
        for &index in self.at.get(&Slot::Layer).into_iter().flatten() {
            let plugin = &self.plugins[index];
            let message = LayerSelectIn {
                layers: layers.to_vec(),
            };
            let adapts = plugin.call::<LayerSelect>(scene, message)?.adapts;
            let returned = Returned::new(plugin, scene, Slot::Layer, "a choice of layers");
            if adapts.len() != layers.len() {
                let (got, expected) = (adapts.len(), layers.len());
                return Err(returned.wrong(format_args!("{got} answers for {expected} layers")));
            }
            if !adapts.contains(&true) {
                let first = layers
                    .first()
                    .map_or("there are none", |layer| layer.path.as_str());
                return Err(returned.wrong(format_args!(
                    "it adapts none of the backbone's {} layers (the first is `{first}`)",
                    layers.len()
                )));
            }
            for (adapters, _) in adapters
                .iter_mut()
                .zip(&adapts)
                .filter(|(_, adapts)| **adapts)
            {
                adapters.push(index);
            }
        }
        self.adapters = adapters;
        Ok(())
    }

    /// The hook for a pass of the backbone; `None` when no plugin adapts a layer, so that such a pass costs nothing.
    pub fn layer_hook<'a>(&'a self, scene: Scene<'a>) -> Option<AdaptedLayers<'a>> {
        self.adapters
            .iter()
            .any(|plugins| !plugins.is_empty())
            .then(|| AdaptedLayers {
                stack: self,
                scene,
                failed: RefCell::new(None),
            })
    }

    /// The names of the plugins that adapt a layer, in calling order.
    pub fn adapters_of(&self, layer: usize) -> Vec<&str> {
        let plugins = self.adapters.get(layer).into_iter().flatten();
        plugins.map(|&index| self.plugins[index].name()).collect()
    }
}

/// The plugins' part in one pass of the backbone.
pub struct AdaptedLayers<'a> {
    stack: &'a Stack,
    scene: Scene<'a>,
    failed: RefCell<Option<PluginError>>,
}

impl AdaptedLayers<'_> {
    /// The plugin error behind a failed pass, if one was: candle's error carries only its sentence.
    pub fn failure(&self) -> Option<PluginError> {
        self.failed.borrow_mut().take()
    }

    fn adapt_by_all(
        &self,
        layer: usize,
        input: &Tensor,
        mut output: Tensor,
    ) -> Result<Tensor, PluginError> {
        let Some(plugins) = self.stack.adapters.get(layer) else {
            return Ok(output);
        };
        for &index in plugins {
            let plugin = &self.stack.plugins[index];
            let message = LayerIn {
                layer: layer as u32,
                input: export(input),
                output: export(&output),
            };
            let answer = plugin.call::<calls::Layer>(&self.scene, message)?;
            let returned = Returned::new(plugin, &self.scene, Slot::Layer, "a layer's output");
            let changed = returned.shaped(&answer.tensor, output.dims())?;
            output = returned.typed(changed, output.dtype())?;
        }
        Ok(output)
    }
}

impl LayerHook for AdaptedLayers<'_> {
    fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> candle_core::Result<Tensor> {
        self.adapt_by_all(layer, input, output).map_err(|error| {
            let sentence = candle_core::Error::Msg(error.to_string());
            *self.failed.borrow_mut() = Some(error);
            sentence
        })
    }
}
