//! The residual block of convolutional diffusion networks (`ResnetBlock2D` in diffusers): twice norm, SiLU and convolution, beside a shortcut.

use candle_core::Tensor;

use super::assembly::{Assembly, Conv2d, GroupNorm};
use super::layers::{Conv, Linear};
use super::{Error, Pass, Result};
use crate::ops;

#[derive(Clone, Debug)]
pub(crate) struct Resnet {
    norm1: GroupNorm,
    conv1: Conv2d,
    /// What the timestep adds to each channel, in a network that is told one.
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    /// A 1x1 convolution where the number of channels changes.
    shortcut: Option<Conv2d>,
}

/// The norms of a network's residual blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Norms {
    pub(crate) groups: usize,
    pub(crate) eps: f64,
}

impl Resnet {
    /// `time` is the width of the timestep's embedding, if the network has one.
    pub(crate) fn load(
        net: &mut Assembly<'_>,
        path: &str,
        (inputs, outputs): (usize, usize),
        norms: Norms,
        time: Option<usize>,
    ) -> Result<Self, Error> {
        let Norms { groups, eps } = norms;
        Ok(Self {
            norm1: net.group_norm(&format!("{path}.norm1"), inputs, groups, eps)?,
            conv1: net.conv2d(&format!("{path}.conv1"), inputs, outputs, Conv::SAME)?,
            time: match time {
                Some(width) => {
                    Some(net.linear(&format!("{path}.time_emb_proj"), width, outputs, true)?)
                }
                None => None,
            },
            norm2: net.group_norm(&format!("{path}.norm2"), outputs, groups, eps)?,
            conv2: net.conv2d(&format!("{path}.conv2"), outputs, outputs, Conv::SAME)?,
            shortcut: match inputs == outputs {
                true => None,
                false => Some(net.conv2d(
                    &format!("{path}.conv_shortcut"),
                    inputs,
                    outputs,
                    Conv::POINT,
                )?),
            },
        })
    }

    /// `x` `[B, C, H, W]` → `[B, C', H, W]`; `time` is the embedding of the timestep after its activation, `[B, T]`, for a network that is told one.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        time: Option<&Tensor>,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let mut hidden = self.conv1.forward(&self.norm1.silu(x, pass)?, pass)?; // [B, C', H, W]
        if let (Some(layer), Some(time)) = (&self.time, time) {
            hidden = ops::add_channels(&hidden, &layer.forward(time, pass)?)?; // [B, C', H, W]
        }
        let hidden = self.conv2.forward(&self.norm2.silu(&hidden, pass)?, pass)?; // [B, C', H, W]
        match &self.shortcut {
            None => ops::add_scaled(x, &hidden, 1.0),
            Some(shortcut) => ops::add_scaled(&shortcut.forward(x, pass)?, &hidden, 1.0),
        }
    }
}
