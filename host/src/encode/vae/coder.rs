//! The two halves of the autoencoder, as diffusers builds them.

use candle_core::Tensor;

use super::VaeConfig;
use crate::backbone::{
    Assembly, AssemblyConv2d as Conv2d, Conv, Error, GroupNorm, Linear, Norms, Pass, Resnet,
};
use crate::ops;

type Result<T, E = candle_core::Error> = std::result::Result<T, E>;

/// Epsilon of every norm; fixed in diffusers.
const EPS: f64 = 1e-6;

/// Attention over all positions, in one head, in the middle of each half.
#[derive(Debug)]
struct Attention {
    norm: GroupNorm,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
}

impl Attention {
    fn load(
        net: &mut Assembly<'_>,
        path: &str,
        width: usize,
        groups: usize,
    ) -> Result<Self, Error> {
        let mut linear = |name: &str| net.linear(&format!("{path}.{name}"), width, width, true);
        let (to_q, to_k, to_v) = (linear("to_q")?, linear("to_k")?, linear("to_v")?);
        let to_out = linear("to_out.0")?;
        Ok(Self {
            norm: net.group_norm(&format!("{path}.group_norm"), width, groups, EPS)?,
            to_q,
            to_k,
            to_v,
            to_out,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (_, channels, height, width) = x.dims4()?;
        let tokens = (self.norm.forward(x, pass)?)
            .flatten_from(2)?
            .transpose(1, 2)?
            .contiguous()?; // [B, T, C]
        let query = self.to_q.forward(&tokens, pass)?;
        let key = self.to_k.forward(&tokens, pass)?;
        let value = self.to_v.forward(&tokens, pass)?;
        let scale = 1.0 / (channels as f64).sqrt();
        let mixed = ops::attention_tokens(&query, &key, &value, 1, scale)?; // [B, T, C]
        let mixed = (self.to_out.forward(&mixed, pass)?)
            .transpose(1, 2)?
            .reshape((x.dim(0)?, channels, height, width))?; // [B, C, H, W]
        ops::add_scaled(x, &mixed, 1.0)
    }
}

/// Residual blocks and a change of size after them, if it is not the last level.
#[derive(Debug)]
struct Level {
    resnets: Vec<Resnet>,
    resize: Option<Conv2d>,
}

/// The middle: a residual block, attention, a residual block.
#[derive(Debug)]
struct Middle {
    first: Resnet,
    attention: Option<Attention>,
    second: Resnet,
}

impl Middle {
    fn load(net: &mut Assembly<'_>, path: &str, config: &VaeConfig) -> Result<Self, Error> {
        let width = deepest(config);
        let norms = norms(config);
        let resnet = |net: &mut Assembly<'_>, index: usize| {
            let path = format!("{path}.resnets.{index}");
            Resnet::load(net, &path, (width, width), norms, None)
        };
        Ok(Self {
            first: resnet(net, 0)?,
            attention: match config.mid_block_add_attention {
                true => {
                    let path = format!("{path}.attentions.0");
                    Some(Attention::load(net, &path, width, config.norm_num_groups)?)
                }
                false => None,
            },
            second: resnet(net, 1)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let mut x = self.first.forward(x, None, pass)?;
        if let Some(attention) = &self.attention {
            x = attention.forward(&x, pass)?;
        }
        self.second.forward(&x, None, pass)
    }
}

/// Pictures to the moments of latents.
#[derive(Debug)]
pub(super) struct Encoder {
    conv_in: Conv2d,
    levels: Vec<Level>,
    middle: Middle,
    norm_out: GroupNorm,
    conv_out: Conv2d,
    quant: Option<Conv2d>,
}

impl Encoder {
    pub(super) fn load(net: &mut Assembly<'_>, config: &VaeConfig) -> Result<Self, Error> {
        let widths = &config.block_out_channels;
        let conv_in = net.conv2d("encoder.conv_in", config.in_channels, widths[0], Conv::SAME)?;
        let mut levels = Vec::new();
        let mut inputs = widths[0];
        for (index, &outputs) in widths.iter().enumerate() {
            let path = format!("encoder.down_blocks.{index}");
            let mut resnets = Vec::new();
            for layer in 0..config.layers_per_block {
                let path = format!("{path}.resnets.{layer}");
                resnets.push(Resnet::load(
                    net,
                    &path,
                    (inputs, outputs),
                    norms(config),
                    None,
                )?);
                inputs = outputs;
            }
            let last = index + 1 == widths.len();
            let halve = Conv {
                kernel: 3,
                stride: 2,
                padding: 0,
            };
            let path = format!("{path}.downsamplers.0.conv");
            levels.push(Level {
                resnets,
                resize: match last {
                    true => None,
                    false => Some(net.conv2d(&path, outputs, outputs, halve)?),
                },
            });
        }
        let moments = 2 * config.latent_channels;
        let (groups, deepest) = (config.norm_num_groups, deepest(config));
        Ok(Self {
            conv_in,
            levels,
            middle: Middle::load(net, "encoder.mid_block", config)?,
            norm_out: net.group_norm("encoder.conv_norm_out", deepest, groups, EPS)?,
            conv_out: net.conv2d("encoder.conv_out", deepest, moments, Conv::SAME)?,
            quant: match config.use_quant_conv {
                true => Some(net.conv2d("quant_conv", moments, moments, Conv::POINT)?),
                false => None,
            },
        })
    }

    /// `[B, 3, H, W]` → mean and log variance, `[B, 2 C, h, w]`.
    pub(super) fn forward(&self, images: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let mut x = self.conv_in.forward(images, pass)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x, None, pass)?;
            }
            if let Some(halve) = &level.resize {
                // Zeros on the right and below only, as the network was trained.
                let padded = x.pad_with_zeros(2, 0, 1)?.pad_with_zeros(3, 0, 1)?;
                x = halve.forward(&padded, pass)?;
            }
        }
        let x = self.middle.forward(&x, pass)?;
        let moments = (self.conv_out).forward(&self.norm_out.silu(&x, pass)?, pass)?;
        match &self.quant {
            Some(quant) => quant.forward(&moments, pass),
            None => Ok(moments),
        }
    }
}

/// Latents to pictures.
#[derive(Debug)]
pub(super) struct Decoder {
    post_quant: Option<Conv2d>,
    conv_in: Conv2d,
    middle: Middle,
    levels: Vec<Level>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn load(net: &mut Assembly<'_>, config: &VaeConfig) -> Result<Self, Error> {
        let latents = config.latent_channels;
        let deepest = deepest(config);
        let post_quant = match config.use_post_quant_conv {
            true => Some(net.conv2d("post_quant_conv", latents, latents, Conv::POINT)?),
            false => None,
        };
        let conv_in = net.conv2d("decoder.conv_in", latents, deepest, Conv::SAME)?;
        let middle = Middle::load(net, "decoder.mid_block", config)?;
        let mut levels = Vec::new();
        let mut inputs = deepest;
        let count = config.block_out_channels.len();
        for (index, &outputs) in config.block_out_channels.iter().rev().enumerate() {
            let path = format!("decoder.up_blocks.{index}");
            let mut resnets = Vec::new();
            for layer in 0..=config.layers_per_block {
                let path = format!("{path}.resnets.{layer}");
                resnets.push(Resnet::load(
                    net,
                    &path,
                    (inputs, outputs),
                    norms(config),
                    None,
                )?);
                inputs = outputs;
            }
            let path = format!("{path}.upsamplers.0.conv");
            levels.push(Level {
                resnets,
                resize: match index + 1 == count {
                    true => None,
                    false => Some(net.conv2d(&path, outputs, outputs, Conv::SAME)?),
                },
            });
        }
        let groups = config.norm_num_groups;
        Ok(Self {
            post_quant,
            conv_in,
            middle,
            levels,
            norm_out: net.group_norm("decoder.conv_norm_out", inputs, groups, EPS)?,
            conv_out: net.conv2d("decoder.conv_out", inputs, config.out_channels, Conv::SAME)?,
        })
    }

    /// `[B, C, h, w]` → `[B, 3, H, W]`.
    pub(super) fn forward(&self, latents: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let latents = match &self.post_quant {
            Some(conv) => conv.forward(latents, pass)?,
            None => latents.clone(),
        };
        let mut x = (self.middle).forward(&self.conv_in.forward(&latents, pass)?, pass)?;
        for level in &self.levels {
            for resnet in &level.resnets {
                x = resnet.forward(&x, None, pass)?;
            }
            if let Some(conv) = &level.resize {
                let (_, _, height, width) = x.dims4()?;
                x = conv.forward(&ops::upsample_nearest2d(&x, 2 * height, 2 * width)?, pass)?;
            }
        }
        (self.conv_out).forward(&self.norm_out.silu(&x, pass)?, pass)
    }
}

fn deepest(config: &VaeConfig) -> usize {
    config.block_out_channels.last().copied().unwrap_or(0)
}

fn norms(config: &VaeConfig) -> Norms {
    Norms {
        groups: config.norm_num_groups,
        eps: EPS,
    }
}
