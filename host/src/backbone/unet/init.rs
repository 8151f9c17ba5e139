//! A fresh UNet, for pretraining from nothing.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};

use super::super::{Assembly, Error};
use super::{Unet, UnetConfig};
use crate::random::Stream;

/// Tensors by diffusers' keys, f32, as diffusers starts them: weights and biases of layers uniform within one over the root of what a number of the output sums over, norms at one
/// and zero. Each parameter draws from its own stream, so its start does not depend on the rest of the network.
pub(crate) fn init(
    config: &UnetConfig,
    seed: u64,
    device: &Device,
) -> Result<HashMap<String, Tensor>, Error> {
    let mut net = Assembly::outline();
    Unet::load(config.clone(), &mut net)?;
    let outline = net.finish()?;
    let mut tensors = HashMap::new();
    for layer in &outline.layers {
        let area = layer.conv.map_or(1, |conv| conv.kernel * conv.kernel);
        let bound = 1.0 / ((layer.in_features * area) as f64).sqrt();
        for (name, shape) in layer.parameters() {
            let mut stream = Stream::new(seed, &format!("init {name}"));
            let value = stream.uniform(shape, device)?.affine(2.0 * bound, -bound)?;
            tensors.insert(name, value);
        }
    }
    for (name, shape) in outline.shapes {
        if tensors.contains_key(&name) {
            continue;
        }
        let value = match name.ends_with(".weight") {
            // What remains are norms.
            true => Tensor::ones(shape, DType::F32, device)?,
            false => Tensor::zeros(shape, DType::F32, device)?,
        };
        tensors.insert(name, value);
    }
    Ok(tensors)
}
