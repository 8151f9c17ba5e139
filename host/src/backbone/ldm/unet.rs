//! The UNet's names in the original code of latent diffusion (`openaimodel.py`), and its configuration by what a file holds.

use std::collections::{BTreeMap, BTreeSet};

use super::super::dit::invalid;
use super::super::unet::{Addition, DownBlock, MidBlock, PerLevel, UpBlock};
use super::super::{Error, LayerInfo, UnetConfig};
use super::Shapes;

/// Parts of a residual block: diffusers' names and the original ones.
const RESNET: [(&str, &str); 6] = [
    ("norm1", "in_layers.0"),
    ("conv1", "in_layers.2"),
    ("time_emb_proj", "emb_layers.1"),
    ("norm2", "out_layers.0"),
    ("conv2", "out_layers.3"),
    ("conv_shortcut", "skip_connection"),
];

/// Layers outside of the levels: diffusers' names and the original ones.
const OUTSIDE: [(&str, &str); 7] = [
    ("conv_in", "input_blocks.0.0"),
    ("time_embedding.linear_1", "time_embed.0"),
    ("time_embedding.linear_2", "time_embed.2"),
    ("add_embedding.linear_1", "label_emb.0.0"),
    ("add_embedding.linear_2", "label_emb.0.2"),
    ("conv_norm_out", "out.0"),
    ("conv_out", "out.2"),
];

/// How the original code numbers the blocks of one UNet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct UnetNames {
    /// Layers of each level on the way down, from the input inwards.
    down: Vec<usize>,
    /// Layers of each level on the way up, from the middle outwards, and whether they attend.
    up: Vec<(usize, bool)>,
}

impl UnetNames {
    /// The numbering of a network of these layers; nothing for one that is no UNet.
    pub(crate) fn of(layers: &[LayerInfo]) -> Option<Self> {
        let mut names = Self::default();
        for layer in layers {
            let words: Vec<&str> = layer.path.split('.').collect();
            let &[way, level, part, index, ..] = words.as_slice() else {
                continue;
            };
            let (Ok(level), Ok(index)) = (level.parse::<usize>(), index.parse::<usize>()) else {
                continue;
            };
            match (way, part) {
                ("down_blocks", "resnets") => {
                    names.down.resize(names.down.len().max(level + 1), 0);
                    names.down[level] = names.down[level].max(index + 1);
                }
                ("up_blocks", "resnets" | "attentions") => {
                    let levels = names.up.len().max(level + 1);
                    names.up.resize(levels, (0, false));
                    let (count, attends) = &mut names.up[level];
                    *count = (*count).max(index + 1);
                    *attends |= part == "attentions";
                }
                _ => {}
            }
        }
        (!names.down.is_empty() && !names.up.is_empty()).then_some(names)
    }

    /// The original name of a layer or parameter by its diffusers name; nothing for one that the original code does not have.
    pub(crate) fn original(&self, name: &str) -> Option<String> {
        for (known, original) in OUTSIDE {
            if let Some(rest) = below(name, known) {
                return Some(format!("{original}{rest}"));
            }
        }
        if let Some(rest) = name.strip_prefix("mid_block.") {
            let (part, rest) = rest.split_once('.')?;
            let (index, rest) = rest.split_once('.')?;
            return match (part, index) {
                ("resnets", "0") => Some(format!("middle_block.0.{}", resnet(rest)?)),
                ("resnets", "1") => Some(format!("middle_block.2.{}", resnet(rest)?)),
                ("attentions", "0") => Some(format!("middle_block.1.{rest}")),
                _ => None,
            };
        }
        let words: Vec<&str> = name.splitn(5, '.').collect();
        let &[way, level, part, index, rest] = words.as_slice() else {
            return None;
        };
        let (level, index): (usize, usize) = (level.parse().ok()?, index.parse().ok()?);
        match way {
            "down_blocks" => {
                // Every level but the last ends with a block that halves the size; block 0 is `conv_in`.
                let first = 1 + self
                    .down
                    .get(..level)?
                    .iter()
                    .map(|count| count + 1)
                    .sum::<usize>();
                let block = format!("input_blocks.{}", first + index);
                match part {
                    "resnets" => Some(format!("{block}.0.{}", resnet(rest)?)),
                    "attentions" => Some(format!("{block}.1.{rest}")),
                    "downsamplers" => {
                        let last = first + self.down.get(level)?;
                        Some(format!("input_blocks.{last}.0.op{}", below(rest, "conv")?))
                    }
                    _ => None,
                }
            }
            "up_blocks" => {
                let first = self
                    .up
                    .get(..level)?
                    .iter()
                    .map(|(count, _)| count)
                    .sum::<usize>();
                let block = format!("output_blocks.{}", first + index);
                match part {
                    "resnets" => Some(format!("{block}.0.{}", resnet(rest)?)),
                    "attentions" => Some(format!("{block}.1.{rest}")),
                    "upsamplers" => {
                        let &(count, attends) = self.up.get(level)?;
                        let last = (first + count).checked_sub(1)?;
                        let place = if attends { 2 } else { 1 };
                        let rest = below(rest, "conv")?;
                        Some(format!("output_blocks.{last}.{place}.conv{rest}"))
                    }
                    _ => None,
                }
            }
            _ => None,
        }
    }
}

/// What follows a name: nothing, or a dot and more.
fn below<'n>(name: &'n str, known: &str) -> Option<&'n str> {
    let rest = name.strip_prefix(known)?;
    (rest.is_empty() || rest.starts_with('.')).then_some(rest)
}

fn resnet(name: &str) -> Option<String> {
    RESNET.iter().find_map(|(known, original)| {
        let rest = below(name, known)?;
        Some(format!("{original}{rest}"))
    })
}

/// The configuration of a UNet whose tensors have original names, without the prefix of the file.
///
/// Shapes say all but the heads: networks with convolutions around their transformers (Stable Diffusion 1) have 8 at each level, those with linear layers (2 and XL) heads of 64
/// channels. The size is the one that each was published at.
///
/// # Errors
/// A file that lacks what such a network has.
pub(crate) fn config(shapes: &Shapes) -> Result<UnetConfig, Error> {
    let shape = |name: &str| {
        let found = shapes.get(name);
        found.ok_or_else(|| Error::Names {
            missing: vec![format!("{}{name}", super::UNET)],
            unexpected: Vec::new(),
        })
    };
    let side = |name: &str, dim: usize| Ok::<_, Error>(shape(name)?.get(dim).copied().unwrap_or(0));
    let mut levels: Vec<Level> = vec![Level::default()];
    for block in 1..count(shapes, "input_blocks.") {
        let path = format!("input_blocks.{block}");
        if shapes.contains_key(&format!("{path}.0.op.weight")) {
            levels.push(Level::default());
            continue;
        }
        let width = side(&format!("{path}.0.out_layers.3.weight"), 0)?;
        if let Some(level) = levels.last_mut() {
            level.width = width;
            level.layers += 1;
            let depth = count(shapes, &format!("{path}.1.transformer_blocks."));
            level.depth = level.depth.max(depth);
        }
    }
    let middle = count(shapes, "middle_block.1.transformer_blocks.");
    let text = "middle_block.1.transformer_blocks.0.attn2.to_k.weight";
    let linear = shape("middle_block.1.proj_in.weight")?.len() == 2;
    let added = match shapes.contains_key("label_emb.0.0.weight") {
        true => Some(side("label_emb.0.0.weight", 1)?),
        false => None,
    };
    if let Some(last) = levels.last_mut().filter(|last| last.depth == 0) {
        // The middle takes its depth from the last level, which has no use for it.
        last.depth = middle;
        last.attends = Some(false);
    }
    let widths: Vec<usize> = levels.iter().map(|level| level.width).collect();
    let heads = match linear {
        false => PerLevel::All(8),
        true => {
            if let Some(width) = widths.iter().find(|width| **width % HEAD != 0) {
                let expected = format!(
                    "multiples of {HEAD}, the size of a head (the original layout does not say it); with a config.json beside the file other heads are possible"
                );
                return Err(invalid("block_out_channels", &width.to_string(), &expected));
            }
            PerLevel::Each(widths.iter().map(|width| width / HEAD).collect())
        }
    };
    let attends: Vec<bool> = levels.iter().map(Level::attends).collect();
    Ok(UnetConfig {
        sample_size: match (added, linear) {
            (Some(_), _) => 128,
            (None, true) => 96,
            (None, false) => 64,
        },
        in_channels: side("input_blocks.0.0.weight", 1)?,
        out_channels: side("out.2.weight", 0)?,
        down_block_types: attends
            .iter()
            .map(|&attends| match attends {
                true => DownBlock::CrossAttention,
                false => DownBlock::Plain,
            })
            .collect(),
        mid_block_type: Some(MidBlock::CrossAttention),
        up_block_types: attends
            .iter()
            .rev()
            .map(|&attends| match attends {
                true => UpBlock::CrossAttention,
                false => UpBlock::Plain,
            })
            .collect(),
        block_out_channels: widths,
        layers_per_block: alike(levels.iter().map(|level| level.layers)),
        cross_attention_dim: PerLevel::All(side(text, 1)?),
        transformer_layers_per_block: alike(levels.iter().map(|level| level.depth.max(1))),
        attention_head_dim: heads,
        use_linear_projection: linear,
        addition_embed_type: added.map(|_| Addition::TextTime),
        addition_time_embed_dim: added.map(|_| SIZE_FEATURES),
        projection_class_embeddings_input_dim: added,
        ..UnetConfig::default()
    })
}

/// Channels of a head in Stable Diffusion 2 and XL.
const HEAD: usize = 64;
/// Features of each number about the picture in Stable Diffusion XL.
const SIZE_FEATURES: usize = 256;

/// What a level of a file has.
#[derive(Default)]
struct Level {
    width: usize,
    layers: usize,
    depth: usize,
    /// Where the depth does not say it.
    attends: Option<bool>,
}

impl Level {
    fn attends(&self) -> bool {
        self.attends.unwrap_or(self.depth > 0)
    }
}

/// One number, if all are the same.
fn alike(numbers: impl Iterator<Item = usize>) -> PerLevel {
    let numbers: Vec<usize> = numbers.collect();
    match numbers.iter().collect::<BTreeSet<_>>().len() {
        1 => PerLevel::All(numbers[0]),
        _ => PerLevel::Each(numbers),
    }
}

/// How many numbers follow a prefix.
pub(crate) fn count(shapes: &BTreeMap<String, Vec<usize>>, prefix: &str) -> usize {
    let numbers = shapes.keys().filter_map(|name| {
        let number = name.strip_prefix(prefix)?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    numbers.max().map_or(0, |last| last + 1)
}
