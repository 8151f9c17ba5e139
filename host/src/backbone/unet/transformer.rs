//! The transformer after a residual block (Rombach et al. 2022, section 3.3): positions attend to each other and to the text.

use candle_core::Tensor;

use super::super::assembly::{Assembly, Conv2d, GroupNorm};
use super::super::layers::{Conv, LayerNorm, Linear};
use super::super::{Error, Pass, Result};
use super::config::UnetConfig;
use super::embed::Context;
use crate::ops;

/// Epsilon of the group norm before a transformer; diffusers fixes it.
const GROUP_EPS: f64 = 1e-6;
/// Epsilon of the norms within.
const LAYER_EPS: f64 = 1e-5;

/// The shape of a transformer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) channels: usize,
    pub(crate) heads: usize,
    pub(crate) layers: usize,
}

/// Attention of positions to themselves or to the text.
#[derive(Clone, Debug)]
struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    heads: usize,
    /// One over the root of the width of a head.
    scale: f64,
}

impl Attention {
    /// `source` is the width of what is attended to.
    fn load(
        net: &mut Assembly<'_>,
        path: &str,
        shape: Shape,
        source: usize,
    ) -> Result<Self, Error> {
        let width = shape.channels;
        Ok(Self {
            to_q: net.linear(&format!("{path}.to_q"), width, width, false)?,
            to_k: net.linear(&format!("{path}.to_k"), source, width, false)?,
            to_v: net.linear(&format!("{path}.to_v"), source, width, false)?,
            to_out: net.linear(&format!("{path}.to_out.0"), width, width, true)?,
            heads: shape.heads,
            scale: 1.0 / ((width / shape.heads) as f64).sqrt(),
        })
    }

    /// `x` `[B, T, C]`, `source` `[B, S, ..]` → `[B, T, C]`.
    fn forward(&self, x: &Tensor, source: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let query = self.to_q.forward(x, pass)?; // [B, T, C]
        let key = self.to_k.forward(source, pass)?; // [B, S, C]
        let value = self.to_v.forward(source, pass)?; // [B, S, C]
        let mixed = ops::attention_tokens(&query, &key, &value, self.heads, self.scale)?; // [B, T, C]
        self.to_out.forward(&mixed, pass) // [B, T, C]
    }
}

/// One layer of a transformer.
#[derive(Clone, Debug)]
struct Layer {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    proj_in: Linear,
    proj_out: Linear,
}

impl Layer {
    fn load(
        net: &mut Assembly<'_>,
        path: &str,
        shape: Shape,
        text_width: usize,
    ) -> Result<Self, Error> {
        let width = shape.channels;
        Ok(Self {
            norm1: net.layer_norm(&format!("{path}.norm1"), width, LAYER_EPS)?,
            attn1: Attention::load(net, &format!("{path}.attn1"), shape, width)?,
            norm2: net.layer_norm(&format!("{path}.norm2"), width, LAYER_EPS)?,
            attn2: Attention::load(net, &format!("{path}.attn2"), shape, text_width)?,
            norm3: net.layer_norm(&format!("{path}.norm3"), width, LAYER_EPS)?,
            proj_in: net.linear(&format!("{path}.ff.net.0.proj"), width, 8 * width, true)?,
            proj_out: net.linear(&format!("{path}.ff.net.2"), 4 * width, width, true)?,
        })
    }

    /// `x` `[B, T, C]`, `text` `[B, S, D]` → `[B, T, C]`.
    fn forward(&self, x: &Tensor, text: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let hidden = self.norm1.forward(x, pass)?; // [B, T, C]
        let x = ops::add_scaled(x, &self.attn1.forward(&hidden, &hidden, pass)?, 1.0)?;
        let hidden = self.norm2.forward(&x, pass)?; // [B, T, C]
        let x = ops::add_scaled(&x, &self.attn2.forward(&hidden, text, pass)?, 1.0)?;
        let hidden = self.norm3.forward(&x, pass)?; // [B, T, C]
        let hidden = ops::geglu(&self.proj_in.forward(&hidden, pass)?)?; // [B, T, 4C]
        ops::add_scaled(&x, &self.proj_out.forward(&hidden, pass)?, 1.0)
    }
}

/// The way between the channels of an image and the tokens of a transformer.
#[derive(Clone, Debug)]
enum Projection {
    /// A 1x1 convolution of the image.
    Conv(Conv2d),
    /// A linear layer of the tokens.
    Linear(Linear),
}

impl Projection {
    fn load(
        net: &mut Assembly<'_>,
        path: &str,
        channels: usize,
        linear: bool,
    ) -> Result<Self, Error> {
        Ok(match linear {
            true => Self::Linear(net.linear(path, channels, channels, true)?),
            false => Self::Conv(net.conv2d(path, channels, channels, Conv::POINT)?),
        })
    }
}

/// A transformer over the positions of an image, beside a shortcut.
#[derive(Clone, Debug)]
pub(crate) struct Transformer {
    norm: GroupNorm,
    proj_in: Projection,
    layers: Vec<Layer>,
    proj_out: Projection,
}

impl Transformer {
    pub(crate) fn load(
        net: &mut Assembly<'_>,
        path: &str,
        shape: Shape,
        config: &UnetConfig,
    ) -> Result<Self, Error> {
        let (channels, linear) = (shape.channels, config.use_linear_projection);
        let groups = config.norm_num_groups;
        let norm = net.group_norm(&format!("{path}.norm"), channels, groups, GROUP_EPS)?;
        let proj_in = Projection::load(net, &format!("{path}.proj_in"), channels, linear)?;
        let layers = (0..shape.layers)
            .map(|layer| {
                let path = format!("{path}.transformer_blocks.{layer}");
                Layer::load(net, &path, shape, config.text_width())
            })
            .collect::<Result<_, Error>>()?;
        Ok(Self {
            norm,
            proj_in,
            layers,
            proj_out: Projection::load(net, &format!("{path}.proj_out"), channels, linear)?,
        })
    }

    /// `x` `[B, C, H, W]` → `[B, C, H, W]`.
    pub(crate) fn forward(&self, x: &Tensor, told: &Context, pass: &Pass<'_>) -> Result<Tensor> {
        let (batch, channels, height, width) = x.dims4()?;
        let tokens = |image: Tensor| image.flatten_from(2)?.transpose(1, 2)?.contiguous(); // [B, T, C]
        let image = |tokens: Tensor| {
            let rows = tokens.transpose(1, 2)?;
            rows.reshape((batch, channels, height, width)) // [B, C, H, W]
        };
        let normed = self.norm.forward(x, pass)?; // [B, C, H, W]
        let mut hidden = match &self.proj_in {
            Projection::Conv(conv) => tokens(conv.forward(&normed, pass)?)?,
            Projection::Linear(linear) => linear.forward(&tokens(normed)?, pass)?,
        }; // [B, T, C]
        for layer in &self.layers {
            let (layer, text) = (layer.clone(), told.text.clone());
            hidden = pass.piece(move |pass| layer.forward(&hidden, &text, pass))?; // [B, T, C]
        }
        let output = match &self.proj_out {
            Projection::Conv(conv) => conv.forward(&image(hidden)?, pass)?,
            Projection::Linear(linear) => image(linear.forward(&hidden, pass)?)?,
        }; // [B, C, H, W]
        ops::add_scaled(x, &output, 1.0)
    }
}
