//! DoRA (Liu, Wang, Yin, Molchanov, Wang, Cheng, Chen; ICML 2024; arXiv 2402.09353), equation 5.
//!
//! The weight becomes `m (W + s B A) / |W + s B A|`, with a norm and a trained magnitude `m` for each output. `m` starts at the norms of `W`, so that the first step
//! begins at the pretrained model. The norm counts as a constant in the backward pass (section 4.3).

use plugin_api::{DType, Init, LayerInfo, Result, Tensor, bail};

use super::lora::Lora;
use super::{Maker, Pass, Update, per_output, product};

/// A low-rank change of direction, and the magnitudes.
pub(super) struct Dora {
    lora: Lora,
    /// `[out]`, or `[1, out, 1, 1]`.
    magnitude: Tensor,
}

impl Dora {
    pub(super) fn make(lora: Lora, maker: &Maker<'_>) -> Result<Self> {
        let layer = &maker.target.layer;
        let weight = maker.host.current_weight(&layer.weight_name())?;
        let norm = norm(layer, &weight, &lora)?;
        if norm.min_all()?.to_scalar::<f64>()? == 0.0 {
            bail!(
                "an output of `{}` has weights that are all zero, and so no direction, which DoRA needs: add the layer to `exclude`",
                layer.path
            );
        }
        let shape = norm.dims();
        let init = Init::Value(norm);
        let magnitude = maker.without_decay("lora_magnitude_vector", &shape, init)?;
        Ok(Self { lora, magnitude })
    }
}

/// `|W + s B A|` over each output's weights, a constant: `[out]`, or `[1, out, 1, 1]`.
fn norm(layer: &LayerInfo, weight: &Tensor, lora: &Lora) -> Result<Tensor> {
    let rank = lora.a.dim(0)?;
    let outputs = layer.out_features;
    let weight = weight.detach()?.to_dtype(DType::F32)?;
    let inputs = weight.elem_count() / outputs.max(1);
    let a = lora.a.detach()?.reshape([rank, inputs])?;
    let b = lora.b.detach()?.reshape([outputs, rank])?;
    let changed = (weight.reshape([outputs, inputs])? + b.matmul(&a)? * lora.scale)?; // [out, in KH KW]
    per_output(layer, &changed.sqr()?.sum(1)?.sqrt()?)
}

impl Update for Dora {
    fn adapt(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let Pass {
            layer,
            input,
            output,
            host,
        } = pass;
        let weight = host
            .current_weight(&layer.weight_name())?
            .to_dtype(DType::F32)?;
        let norm = norm(layer, &weight, &self.lora)?;
        let factor = self.magnitude.broadcast_div(&norm)?; // [out] or [1, out, 1, 1]

        // What the layer gives without its bias, of the same input as the update gets.
        let dropped = self.lora.dropped(input, host)?;
        let base = match (&dropped, layer.bias) {
            (Some(input), _) => product(layer, input, &weight)?,
            (None, false) => output.clone(),
            (None, true) => {
                let bias = host.current_weight(&format!("{}.bias", layer.path))?;
                output.broadcast_sub(&per_output(layer, &bias.to_dtype(DType::F32)?)?)?
            }
        };
        let input = dropped.as_ref().unwrap_or(input);
        // output + (factor - 1) base + factor s B A x; in this form a factor of 1 leaves the output as it is, to the bit.
        let turned = self.lora.change(layer, input)?.broadcast_mul(&factor)?;
        let scaled = base.broadcast_mul(&(&factor - 1.0)?)?;
        (output + scaled)? + turned
    }

    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        let mut parts = self.lora.parts();
        parts.push(("lora_magnitude_vector", &self.magnitude));
        parts
    }
}
