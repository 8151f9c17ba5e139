//! LoRA (Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen; ICLR 2022; arXiv 2106.09685), section 4.1.
//!
//! `(alpha / rank) * B A x` is added to what the layer gives: `A [rank, in]` is drawn at random, `B [out, rank]` starts at zero, so that the first step begins at
//! the pretrained model exactly. For a convolution `A` is one with the layer's own kernel and movement, to `rank` channels, and `B` a 1x1 convolution.

use plugin_api::{Conv2d, Host, Init, LayerInfo, LayerKind, Result, Tensor};

use super::{KAIMING, Maker, Pass, Update, product};
use crate::settings::{FirstFactor, LoraSettings};

/// The two factors.
pub(super) struct Lora {
    /// `[rank, in]`, or `[rank, in, KH, KW]`.
    pub(super) a: Tensor,
    /// `[out, rank]`, or `[out, rank, 1, 1]`.
    pub(super) b: Tensor,
    /// What their product is multiplied by.
    pub(super) scale: f64,
    dropout: f64,
}

impl Lora {
    pub(super) fn make(settings: &LoraSettings, scale: f64, maker: &Maker<'_>) -> Result<Self> {
        let rank = maker.target.rank;
        let (outputs, inputs, kernel) = maker.shape();
        let first = match settings.init {
            FirstFactor::Kaiming => KAIMING,
            FirstFactor::Gaussian => Init::Normal {
                mean: 0.0,
                std: 1.0 / rank as f64,
            },
        };
        let a = [&[rank, inputs], kernel].concat();
        let b = [vec![outputs, rank], vec![1; kernel.len()]].concat();
        Ok(Self {
            a: maker.parameter("lora_A.weight", &a, first)?,
            b: maker.parameter("lora_B.weight", &b, Init::Zeros)?,
            scale,
            dropout: settings.dropout,
        })
    }

    /// The input with some of it set to zero and the rest made larger; `None` when nothing is.
    pub(super) fn dropped(&self, input: &Tensor, host: &Host) -> Result<Option<Tensor>> {
        if self.dropout == 0.0 || !host.is_training() {
            return Ok(None);
        }
        let kept = host.random().uniform(input.dims())?.ge(self.dropout)?;
        let kept = (kept.to_dtype(input.dtype())? * (1.0 / (1.0 - self.dropout)))?;
        Ok(Some((input * &kept)?))
    }

    /// `A x`: `[.., rank]`, or `[B, rank, H', W']`.
    fn low(&self, layer: &LayerInfo, input: &Tensor) -> Result<Tensor> {
        product(layer, input, &self.a)
    }

    /// `s B A x`, of the shape of the layer's output.
    pub(super) fn change(&self, layer: &LayerInfo, input: &Tensor) -> Result<Tensor> {
        let low = self.low(layer, input)?;
        match layer.kind {
            LayerKind::CONV2D => low.conv2d(&self.b, None, Conv2d::default())? * self.scale,
            _ => low.linear(&self.b, None)? * self.scale,
        }
    }
}

impl Update for Lora {
    fn adapt(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let dropped = self.dropped(&pass.input, pass.host)?;
        let input = dropped.as_ref().unwrap_or(&pass.input);
        match pass.layer.kind {
            LayerKind::CONV2D => &pass.output + self.change(pass.layer, input),
            // In one operation, since this is what most runs spend their time on.
            _ => {
                let low = self.low(pass.layer, input)?;
                pass.output.add_linear(&low, &self.b, self.scale)
            }
        }
    }

    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("lora_A.weight", &self.a), ("lora_B.weight", &self.b)]
    }
}
