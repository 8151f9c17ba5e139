//! The levels of a UNet: residual blocks and transformers of one size, and the change of size after them.

use candle_core::Tensor;

use super::super::assembly::{Assembly, Conv2d};
use super::super::layers::Conv;
use super::super::{Error, Norms, Pass, Resnet, Result};
use super::config::{DownBlock, MidBlock, UnetConfig, UpBlock};
use super::embed::Context;
use super::transformer::{Shape, Transformer};
use crate::ops;

fn norms(config: &UnetConfig) -> Norms {
    Norms {
        groups: config.norm_num_groups,
        eps: config.norm_eps,
    }
}

/// A residual block that is told the timestep.
fn resnet(
    net: &mut Assembly<'_>,
    path: &str,
    channels: (usize, usize),
    config: &UnetConfig,
) -> Result<Resnet, Error> {
    Resnet::load(
        net,
        path,
        channels,
        norms(config),
        Some(config.time_width()),
    )
}

/// A residual block as a piece that may run again.
fn run(resnet: &Resnet, x: Tensor, told: &Context, pass: &Pass<'_>) -> Result<Tensor> {
    let (resnet, time) = (resnet.clone(), told.time.clone());
    pass.piece(move |pass| resnet.forward(&x, Some(&time), pass))
}

/// A residual block, and its transformer on levels that have them.
#[derive(Clone, Debug)]
struct Layer {
    resnet: Resnet,
    transformer: Option<Transformer>,
}

impl Layer {
    /// The path of the level, and which of its layers; the transformer's shape, where the level has them.
    fn load(
        net: &mut Assembly<'_>,
        (path, index): (&str, usize),
        channels: (usize, usize),
        transformer: Option<Shape>,
        config: &UnetConfig,
    ) -> Result<Self, Error> {
        Ok(Self {
            resnet: resnet(net, &format!("{path}.resnets.{index}"), channels, config)?,
            transformer: match transformer {
                None => None,
                Some(shape) => {
                    let path = format!("{path}.attentions.{index}");
                    Some(Transformer::load(net, &path, shape, config)?)
                }
            },
        })
    }

    fn attend(&self, x: Tensor, told: &Context, pass: &Pass<'_>) -> Result<Tensor> {
        match &self.transformer {
            None => Ok(x),
            Some(transformer) => transformer.forward(&x, told, pass),
        }
    }
}

/// A level on the way down.
#[derive(Clone, Debug)]
pub(crate) struct Down {
    layers: Vec<Layer>,
    halve: Option<Conv2d>,
}

impl Down {
    pub(crate) fn load(
        net: &mut Assembly<'_>,
        config: &UnetConfig,
        level: usize,
    ) -> Result<Self, Error> {
        let path = format!("down_blocks.{level}");
        let outputs = config.block_out_channels[level];
        let mut inputs = config.block_out_channels[level.saturating_sub(1)];
        let transformer = match config.down_block_types[level] {
            DownBlock::Plain => None,
            DownBlock::CrossAttention => Some(Shape {
                channels: outputs,
                heads: config.attention_head_dim.at(level),
                layers: config.transformer_layers_per_block.at(level),
            }),
        };
        let mut layers = Vec::new();
        for index in 0..config.layers_per_block.at(level) {
            let channels = (inputs, outputs);
            layers.push(Layer::load(
                net,
                (&path, index),
                channels,
                transformer,
                config,
            )?);
            inputs = outputs;
        }
        let last = level + 1 == config.levels();
        let path = format!("{path}.downsamplers.0.conv");
        Ok(Self {
            layers,
            halve: match last {
                true => None,
                false => Some(net.conv2d(&path, outputs, outputs, Conv::HALVE)?),
            },
        })
    }

    /// Takes the level's input, and adds what the way up needs of it to `skips`; gives what the next level takes.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        skips: &mut Vec<Tensor>,
        told: &Context,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            x = layer.attend(run(&layer.resnet, x, told, pass)?, told, pass)?; // [B, C, H, W]
            skips.push(x.clone());
        }
        if let Some(halve) = &self.halve {
            x = halve.forward(&x, pass)?; // [B, C, ceil(H/2), ceil(W/2)]
            skips.push(x.clone());
        }
        Ok(x)
    }
}

/// The middle.
#[derive(Clone, Debug)]
pub(crate) struct Mid {
    first: Layer,
    second: Option<Resnet>,
}

impl Mid {
    pub(crate) fn load(
        net: &mut Assembly<'_>,
        config: &UnetConfig,
        kind: MidBlock,
    ) -> Result<Self, Error> {
        const PATH: &str = "mid_block";
        let level = config.levels() - 1;
        let width = config.block_out_channels[level];
        let channels = (width, width);
        let attends = kind == MidBlock::CrossAttention;
        let transformer = attends.then(|| Shape {
            channels: width,
            heads: config.attention_head_dim.at(level),
            layers: config.transformer_layers_per_block.at(level),
        });
        Ok(Self {
            first: Layer::load(net, (PATH, 0), channels, transformer, config)?,
            second: match attends {
                true => Some(resnet(net, &format!("{PATH}.resnets.1"), channels, config)?),
                false => None,
            },
        })
    }

    /// `x` `[B, C, H, W]` → `[B, C, H, W]`.
    pub(crate) fn forward(&self, x: Tensor, told: &Context, pass: &Pass<'_>) -> Result<Tensor> {
        let x = run(&self.first.resnet, x, told, pass)?;
        let x = self.first.attend(x, told, pass)?;
        match &self.second {
            None => Ok(x),
            Some(second) => run(second, x, told, pass),
        }
    }
}

/// A level on the way up.
#[derive(Clone, Debug)]
pub(crate) struct Up {
    layers: Vec<Layer>,
    double: Option<Conv2d>,
}

impl Up {
    /// `level` counts from the input inwards, like the way down; names count the other way.
    pub(crate) fn load(
        net: &mut Assembly<'_>,
        config: &UnetConfig,
        level: usize,
    ) -> Result<Self, Error> {
        let last = config.levels() - 1;
        let path = format!("up_blocks.{}", last - level);
        let width = |level: usize| config.block_out_channels[level];
        let outputs = width(level);
        let transformer = match config.up_block_types[last - level] {
            UpBlock::Plain => None,
            UpBlock::CrossAttention => Some(Shape {
                channels: outputs,
                heads: config.attention_head_dim.at(level),
                layers: config.layers_up(level),
            }),
        };
        let count = config.layers_per_block.at(level) + 1;
        let mut layers = Vec::new();
        for index in 0..count {
            let from_below = match index {
                0 => width((level + 1).min(last)),
                _ => outputs,
            };
            // The last skip of a level is what the level before handed down.
            let skip = match index + 1 == count {
                true => width(level.saturating_sub(1)),
                false => outputs,
            };
            let channels = (from_below + skip, outputs);
            layers.push(Layer::load(
                net,
                (&path, index),
                channels,
                transformer,
                config,
            )?);
        }
        let path = format!("{path}.upsamplers.0.conv");
        Ok(Self {
            layers,
            double: match level {
                0 => None,
                _ => Some(net.conv2d(&path, outputs, outputs, Conv::SAME)?),
            },
        })
    }

    /// Takes this level's part of `skips` from the end.
    pub(crate) fn forward(
        &self,
        mut x: Tensor,
        skips: &mut Vec<Tensor>,
        told: &Context,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        for layer in &self.layers {
            let Some(skip) = skips.pop() else {
                candle_core::bail!("the way up has more layers than the way down left tensors")
            };
            let (resnet, time) = (layer.resnet.clone(), told.time.clone());
            let hidden = pass.piece(move |pass| {
                let both = Tensor::cat(&[&x, &skip], 1)?; // [B, C + C', H, W]
                resnet.forward(&both, Some(&time), pass)
            })?; // [B, C, H, W]
            x = layer.attend(hidden, told, pass)?;
        }
        if let (Some(double), Some(next)) = (&self.double, skips.last()) {
            // To the size of what comes next: sides that were odd on the way down are not twice the half.
            let (_, _, height, width) = next.dims4()?;
            x = double.forward(&ops::upsample_nearest2d(&x, height, width)?, pass)?;
        }
        Ok(x)
    }
}
