//! The original DiT initialisation, for pretraining from nothing.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::super::Error;
use super::super::layers::{LayerInfo, LayerKind};
use super::config::DitConfig;
use super::layout::{self, Sharing};
use crate::random::Stream;

/// Standard deviation of the embedders' weights.
const EMBEDDER_STD: f64 = 0.02;

/// How one weight starts.
enum Start {
    Zeros,
    Normal,
    /// Uniform within `sqrt(6 / (fan_in + fan_out))`.
    Xavier {
        fan_in: usize,
        fan_out: usize,
    },
}

/// Tensors by diffusers' keys, f32; biases at zero. Each parameter draws from its own stream, so its start does not depend on the rest of the network.
///
/// Weights are Xavier-uniform, the embedders' normal (0.02), and everything that scales a block's or the last layer's output is zero (adaLN-Zero), so the network starts as the
/// identity and predicts zero.
pub(crate) fn init(
    config: &DitConfig,
    seed: u64,
    device: &Device,
) -> Result<HashMap<String, Tensor>, Error> {
    config.check()?;
    let mut tensors = HashMap::new();
    for layer in layout::layers(config, Sharing::Shared) {
        let (name, shape) = layer.weight();
        let mut stream = Stream::new(seed, &format!("init {name}"));
        let weight = match start(&layer) {
            Start::Zeros => Tensor::zeros(shape, candle_core::DType::F32, device)?,
            Start::Normal => (stream.normal(shape, device)? * EMBEDDER_STD)?,
            Start::Xavier { fan_in, fan_out } => {
                let bound = (6.0 / (fan_in + fan_out) as f64).sqrt();
                stream.uniform(shape, device)?.affine(2.0 * bound, -bound)?
            }
        };
        tensors.insert(name, weight);
    }
    for (name, shape) in layout::parameters(config, Sharing::Shared) {
        if tensors.contains_key(&name) {
            continue;
        }
        let value = match name.ends_with(".weight") {
            // What remains is a norm's own scale.
            true => Tensor::ones(shape, candle_core::DType::F32, device)?,
            false => Tensor::zeros(shape, candle_core::DType::F32, device)?,
        };
        tensors.insert(name, value);
    }
    Ok(tensors)
}

fn start(layer: &LayerInfo) -> Start {
    let (fan_in, fan_out) = (layer.in_features, layer.out_features);
    let path = layer.path.as_str();
    if path.ends_with(".norm1.linear") || path.starts_with("proj_out_") {
        Start::Zeros
    } else if layer.kind == LayerKind::Embedding || path.contains(".timestep_embedder.") {
        Start::Normal
    } else if let Some(conv) = layer.conv {
        // As the linear layer over patches that it is.
        let fan_in = fan_in * conv.kernel * conv.kernel;
        Start::Xavier { fan_in, fan_out }
    } else if [".to_q", ".to_k", ".to_v"]
        .iter()
        .any(|end| path.ends_with(end))
    {
        // The original holds the three in one layer, whose fan-out counts.
        let fan_out = 3 * fan_out;
        Start::Xavier { fan_in, fan_out }
    } else {
        Start::Xavier { fan_in, fan_out }
    }
}
