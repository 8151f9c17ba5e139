//! The picture half of CLIP, small and convolutional: there to teach the text half, and then forgotten.

use candle_core::{Device, Tensor};

use crate::backbone::{
    Assembly, AssemblyConv2d, Conv, Error, GroupNorm, Initial, Linear, Pass, Result,
};

/// Channels after each halving of the picture.
const WIDTHS: [usize; 4] = [32, 64, 96, 128];
const GROUPS: usize = 8;
const EPS: f64 = 1e-5;

/// Pictures to one vector each.
pub(super) struct Tower {
    levels: Vec<(AssemblyConv2d, GroupNorm)>,
    out: Linear,
    pub(super) parameters: Vec<(String, Tensor)>,
}

impl Tower {
    /// One that has learned nothing; its vectors are `width` wide.
    pub(super) fn init(width: usize, seed: u64) -> Result<Self, Error> {
        let initial = Initial {
            seed,
            device: &Device::Cpu,
            zeros: &|_| false,
        };
        let mut net = Assembly::new(&initial);
        let halve = Conv {
            kernel: 3,
            stride: 2,
            padding: 1,
        };
        let mut levels = Vec::new();
        let mut inputs = 3;
        for (index, outputs) in WIDTHS.into_iter().enumerate() {
            let path = format!("picture.{index}");
            let conv = net.conv2d(&format!("{path}.conv"), inputs, outputs, halve)?;
            let norm = net.group_norm(&format!("{path}.norm"), outputs, GROUPS, EPS)?;
            levels.push((conv, norm));
            inputs = outputs;
        }
        let out = net.linear("picture.out", inputs, width, true)?;
        let parameters = net.finish()?.parameters;
        Ok(Self {
            levels,
            out,
            parameters,
        })
    }

    /// Pictures `[B, 3, H, W]` → `[B, D]`.
    pub(super) fn forward(&self, pictures: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let mut x = pictures.clone();
        for (conv, norm) in &self.levels {
            x = norm.silu(&conv.forward(&x, pass)?, pass)?;
        }
        let mean = x.flatten_from(2)?.mean(2)?; // [B, C]
        self.out.forward(&mean, pass)
    }
}
