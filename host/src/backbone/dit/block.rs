//! One transformer block of a DiT: attention and feed-forward, each modulated and gated by the conditioning (adaLN-Zero).

use candle_core::Tensor;

use super::super::layers::{Builder, LayerNorm, Linear};
use super::super::{Error, Pass, Result};
use super::config::{Activation, DitConfig};
use crate::ops;

/// Epsilon of the norms without parameters; diffusers fixes it, whatever `norm_eps` says.
pub(crate) const NORM_EPS: f64 = 1e-6;

#[derive(Clone, Debug)]
pub(crate) struct Block {
    modulation: Linear,
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    /// The norm before the feed-forward layers, when it has parameters.
    norm3: Option<LayerNorm>,
    norm3_eps: f64,
    proj_in: Linear,
    proj_out: Linear,
    activation: Activation,
    heads: usize,
    head_dim: usize,
}

impl Block {
    pub(crate) fn load(
        builder: &mut Builder<'_>,
        config: &DitConfig,
        index: usize,
    ) -> Result<Self, Error> {
        let path = format!("transformer_blocks.{index}");
        Ok(Self {
            modulation: builder.linear(&format!("{path}.norm1.linear"))?,
            to_q: builder.linear(&format!("{path}.attn1.to_q"))?,
            to_k: builder.linear(&format!("{path}.attn1.to_k"))?,
            to_v: builder.linear(&format!("{path}.attn1.to_v"))?,
            to_out: builder.linear(&format!("{path}.attn1.to_out.0"))?,
            norm3: match config.norm_elementwise_affine {
                true => Some(builder.layer_norm(&format!("{path}.norm3"), config.norm_eps)?),
                false => None,
            },
            norm3_eps: config.norm_eps,
            proj_in: builder.linear(&format!("{path}.ff.net.0.proj"))?,
            proj_out: builder.linear(&format!("{path}.ff.net.2"))?,
            activation: config.activation_fn,
            heads: config.num_attention_heads,
            head_dim: config.attention_head_dim,
        })
    }

    /// `x` `[B, T, D]`, `conditioning` `[B, D]` (already activated).
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        conditioning: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let modulation = self.modulation.forward(conditioning, pass)?.chunk(6, 1)?; // 6 x [B, D]
        let [
            shift_attn,
            scale_attn,
            gate_attn,
            shift_ff,
            scale_ff,
            gate_ff,
        ] = &modulation[..]
        else {
            candle_core::bail!("the modulation has {} parts, expected 6", modulation.len())
        };
        let hidden = ops::layer_norm_modulate(x, shift_attn, scale_attn, NORM_EPS)?; // [B, T, D]
        let x = ops::gate_residual(x, gate_attn, &self.attention(&hidden, pass)?)?; // [B, T, D]
        let hidden = match &self.norm3 {
            None => ops::layer_norm_modulate(&x, shift_ff, scale_ff, self.norm3_eps)?,
            Some(norm) => norm
                .forward(&x, pass)?
                .broadcast_mul(&(scale_ff + 1.0)?.unsqueeze(1)?)?
                .broadcast_add(&shift_ff.unsqueeze(1)?)?,
        }; // [B, T, D]
        ops::gate_residual(&x, gate_ff, &self.feed_forward(&hidden, pass)?) // [B, T, D]
    }

    fn attention(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let query = self.to_q.forward(x, pass)?; // [B, T, D]
        let key = self.to_k.forward(x, pass)?; // [B, T, D]
        let value = self.to_v.forward(x, pass)?; // [B, T, D]
        let scale = 1.0 / (self.head_dim as f64).sqrt();
        let mixed = ops::attention_tokens(&query, &key, &value, self.heads, scale)?; // [B, T, D]
        self.to_out.forward(&mixed, pass) // [B, T, D]
    }

    fn feed_forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let hidden = self.proj_in.forward(x, pass)?; // [B, T, 4D], or [B, T, 8D] for GEGLU
        let hidden = match self.activation {
            Activation::GeluTanh => ops::gelu_tanh(&hidden)?,
            Activation::GeluErf => ops::gelu_erf(&hidden)?,
            Activation::Geglu => ops::geglu(&hidden)?,
        }; // [B, T, 4D]
        self.proj_out.forward(&hidden, pass) // [B, T, D]
    }
}
