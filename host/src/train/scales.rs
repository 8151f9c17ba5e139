//! DiffFit's learned scales (Xie et al. 2023): one number for each block's attention, to itself and to a text, and one for its feed-forward part, by which what the part adds to
//! the hidden states is multiplied. They start at 1, so the first prediction is the pretrained model's.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};

use crate::backbone::{Backbone, LayerHook, Overlay};
use crate::plugin::stack::AdaptedLayers;

use super::{Error, Owner, Parameters};

/// The last layers of a block's attentions and of its feed-forward part.
const SCALED: [&str; 3] = [".attn1.to_out.0", ".attn2.to_out.0", ".ff.net.2"];

/// The scales of a run, each `[1]`, by the layer's place in [`Backbone::layers`]; empty where the run has none.
#[derive(Debug, Default)]
pub struct Scales(BTreeMap<usize, Tensor>);

impl Scales {
    /// Makes the scales of all blocks as parameters `LAYER.scale`, without weight decay.
    ///
    /// # Errors
    /// A name that is taken, or a saved value of another shape.
    pub fn make(backbone: &Backbone, parameters: &mut Parameters) -> Result<Self, Error> {
        let mut scales = BTreeMap::new();
        for (index, layer) in backbone.layers().iter().enumerate() {
            if SCALED.iter().any(|ending| layer.path.ends_with(ending)) {
                let one = Tensor::ones(1, DType::F32, backbone.device())?;
                let name = format!("{}.scale", layer.path);
                let var = parameters.add(name, Owner::Scale, false, &one)?;
                scales.insert(index, var.as_tensor().clone());
            }
        }
        Ok(Self(scales))
    }

    /// Whether the run has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The scale of the layer that a parameter of the backbone belongs to, if it has one.
    pub fn of_parameter(&self, backbone: &Backbone, name: &str) -> Option<&Tensor> {
        let (path, _) = name.rsplit_once('.')?;
        let layers = backbone.layers();
        let scale = self
            .0
            .iter()
            .find(|(index, _)| layers[**index].path == path);
        scale.map(|(_, scale)| scale)
    }

    /// The overlay with each scale multiplied into the weight and the bias of its layer, for those who know no scales.
    ///
    /// # Errors
    /// A device that fails.
    pub fn folded(&self, backbone: &Backbone, mut overlay: Overlay) -> Result<Overlay, Error> {
        let layers = backbone.layers();
        let paths: BTreeMap<&str, &Tensor> = self
            .0
            .iter()
            .map(|(&index, scale)| (layers[index].path.as_str(), scale))
            .collect();
        for (name, frozen) in backbone.parameters() {
            let Some((path, _)) = name.rsplit_once('.') else {
                continue;
            };
            if let Some(scale) = paths.get(path) {
                let value = overlay.get(name).unwrap_or(frozen).detach();
                let value = value.to_dtype(DType::F32)?.broadcast_mul(&scale.detach())?;
                overlay.insert(name.to_owned(), value);
            }
        }
        Ok(overlay)
    }
}

/// What happens to layers' outputs in a pass: first the scales, as part of the backbone, then the plugins.
pub(super) struct Adapted<'a> {
    pub(super) scales: &'a Scales,
    pub(super) plugins: Option<&'a AdaptedLayers<'a>>,
}

impl LayerHook for Adapted<'_> {
    fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> candle_core::Result<Tensor> {
        let output = match self.scales.0.get(&layer) {
            Some(scale) => output.broadcast_mul(&scale.to_dtype(output.dtype())?)?,
            None => output,
        };
        match self.plugins {
            Some(plugins) => plugins.adapt(layer, input, output),
            None => Ok(output),
        }
    }
}
