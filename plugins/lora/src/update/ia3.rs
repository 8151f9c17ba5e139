//! (IA)³ (Liu, Tam, Muqeeth, Mohta, Huang, Bansal, Raffel; NeurIPS 2022; arXiv 2205.05638), section 3.3.
//!
//! Each output of a layer is multiplied by a learned number; of feed-forward layers each input is. All start at one, so that the first step begins at the
//! pretrained model exactly.

use plugin_api::{Init, LayerKind, Result, Tensor};

use super::{Maker, Pass, Update, add_product};

/// The learned numbers.
pub(super) struct Ia3 {
    /// `[out, 1]` or, for inputs, `[1, in]`; of a convolution `[1, out, 1, 1]` or `[1, in, 1, 1]`.
    scales: Tensor,
    /// Whether they scale what goes in.
    over_inputs: bool,
}

impl Ia3 {
    pub(super) fn make(maker: &Maker<'_>) -> Result<Self> {
        let over_inputs = maker.target.feedforward;
        let (outputs, inputs, kernel) = maker.shape();
        let shape = match (over_inputs, kernel.is_empty()) {
            (false, true) => vec![outputs, 1],
            (true, true) => vec![1, inputs],
            (false, false) => vec![1, outputs, 1, 1],
            (true, false) => vec![1, inputs, 1, 1],
        };
        Ok(Self {
            scales: maker.without_decay("ia3_l", &shape, Init::Ones)?,
            over_inputs,
        })
    }
}

impl Update for Ia3 {
    fn adapt(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let scales = match pass.layer.kind {
            LayerKind::CONV2D => self.scales.clone(),
            _ => self.scales.flatten_all()?,
        };
        if !self.over_inputs {
            return pass.output.broadcast_mul(&scales);
        }
        // W (l x) + b is what the layer gave plus W ((l - 1) x).
        let rest = pass.input.broadcast_mul(&(scales - 1.0)?)?;
        let weight = pass.host.current_weight(&pass.layer.weight_name())?;
        let weight = weight.to_dtype(rest.dtype())?;
        add_product(pass.layer, &pass.output, &rest, &weight, 1.0)
    }

    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        vec![("ia3_l", &self.scales)]
    }
}
