//! The layers and parameters that a DiT's configuration implies: names, kinds and shapes, without weights.

use std::collections::BTreeMap;

use super::super::layers::{Conv, LayerInfo, LayerKind};
use super::config::{Activation, DitConfig};
use super::embed::TIMESTEP_FEATURES;

/// Whether blocks own their timestep and class embedders.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// All blocks use block 0's.
    Shared,
    /// Each block has its own, as diffusers' files store them.
    PerBlock,
}

/// The adaptable layers in the order of the network.
pub(crate) fn layers(config: &DitConfig, sharing: Sharing) -> Vec<LayerInfo> {
    let width = config.width();
    let mut layers = vec![LayerInfo {
        path: "pos_embed.proj".to_owned(),
        kind: LayerKind::Conv2d,
        in_features: config.in_channels,
        out_features: width,
        bias: true,
        conv: Some(Conv {
            kernel: config.patch_size,
            stride: config.patch_size,
            padding: 0,
        }),
    }];
    let hidden = 4 * width;
    let first = match config.activation_fn {
        Activation::Geglu => 2 * hidden,
        Activation::GeluTanh | Activation::GeluErf => hidden,
    };
    for index in 0..config.num_layers {
        let block = format!("transformer_blocks.{index}");
        if index == 0 || sharing == Sharing::PerBlock {
            let embedder = embedder_path(index);
            let timestep = format!("{embedder}.timestep_embedder");
            layers.push(LayerInfo::linear(
                format!("{timestep}.linear_1"),
                TIMESTEP_FEATURES,
                width,
                true,
            ));
            layers.push(LayerInfo::linear(
                format!("{timestep}.linear_2"),
                width,
                width,
                true,
            ));
            let table = format!("{embedder}.class_embedder.embedding_table");
            layers.push(LayerInfo::embedding(
                table,
                config.num_embeds_ada_norm + 1,
                width,
            ));
        }
        layers.push(LayerInfo::linear(
            format!("{block}.norm1.linear"),
            width,
            6 * width,
            true,
        ));
        for name in ["to_q", "to_k", "to_v"] {
            let path = format!("{block}.attn1.{name}");
            layers.push(LayerInfo::linear(path, width, width, config.attention_bias));
        }
        layers.push(LayerInfo::linear(
            format!("{block}.attn1.to_out.0"),
            width,
            width,
            true,
        ));
        layers.push(LayerInfo::linear(
            format!("{block}.ff.net.0.proj"),
            width,
            first,
            true,
        ));
        layers.push(LayerInfo::linear(
            format!("{block}.ff.net.2"),
            hidden,
            width,
            true,
        ));
    }
    let patch = config.patch_size * config.patch_size * config.out_channels();
    layers.push(LayerInfo::linear(
        "proj_out_1".to_owned(),
        width,
        2 * width,
        true,
    ));
    layers.push(LayerInfo::linear(
        "proj_out_2".to_owned(),
        width,
        patch,
        true,
    ));
    layers
}

/// Every parameter with its shape: those of the layers, then those of norms that have any.
pub(crate) fn parameters(config: &DitConfig, sharing: Sharing) -> Vec<(String, Vec<usize>)> {
    let mut parameters: Vec<_> = layers(config, sharing)
        .iter()
        .flat_map(LayerInfo::parameters)
        .collect();
    if config.norm_elementwise_affine {
        for index in 0..config.num_layers {
            for name in ["weight", "bias"] {
                let name = format!("transformer_blocks.{index}.norm3.{name}");
                parameters.push((name, vec![config.width()]));
            }
        }
    }
    parameters
}

/// The path of a block's timestep and class embedders.
pub(crate) fn embedder_path(block: usize) -> String {
    format!("transformer_blocks.{block}.norm1.emb")
}

/// For a parameter of block 0's embedder, the names of the same parameter in the blocks after it; nothing for any other.
pub(crate) fn copies_of_shared(name: &str, depth: usize) -> Vec<String> {
    match name.strip_prefix(&embedder_path(0)) {
        Some(rest) => (1..depth)
            .map(|block| format!("{}{rest}", embedder_path(block)))
            .collect(),
        None => Vec::new(),
    }
}

/// Every parameter that a file may leave out where all blocks share their embedders, with the one of block 0 that it then equals.
pub(crate) fn every_copy(config: &DitConfig) -> BTreeMap<String, String> {
    let copies = |(name, _): (String, Vec<usize>)| {
        let copies = copies_of_shared(&name, config.num_layers);
        copies.into_iter().map(move |copy| (copy, name.clone()))
    };
    parameters(config, Sharing::Shared)
        .into_iter()
        .flat_map(copies)
        .collect()
}
