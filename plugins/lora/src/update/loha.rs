//! LoHa: FedPara's update (Nam Hyeon-Woo, Ye-Bin, Oh; ICLR 2022; arXiv 2108.06098, section 2.2) as LyCORIS and PEFT have it.
//!
//! `(alpha / rank) * (W1a W1b) ∘ (W2a W2b)` is added to the weight: an elementwise product of two low-rank matrices, whose rank may be the square of theirs. `W2b` starts
//! at zero, so that the first step begins at the pretrained model exactly.

use plugin_api::{Init, Result, Tensor};

use super::{KAIMING, Maker, Pass, Update, add_product, tucker};
use crate::settings::LoraSettings;

/// The factors.
pub(super) struct Loha {
    first: Half,
    second: Half,
    /// The layer's weight's.
    shape: Vec<usize>,
    scale: f64,
}

/// One of the two matrices.
struct Half {
    /// `[out, rank]`; with a core `[rank, out]`.
    a: Tensor,
    /// `[rank, in KH KW]`; with a core `[rank, in]`.
    b: Tensor,
    /// `[rank, rank, KH, KW]`.
    core: Option<Tensor>,
}

impl Half {
    /// `[out, in KH KW]`.
    fn matrix(&self) -> Result<Tensor> {
        match &self.core {
            Some(core) => tucker::kernel(core, &self.a, &self.b),
            None => self.a.matmul(&self.b),
        }
    }
}

impl Loha {
    pub(super) fn make(settings: &LoraSettings, scale: f64, maker: &Maker<'_>) -> Result<Self> {
        let rank = maker.target.rank;
        let (outputs, inputs, kernel) = maker.shape();
        let taps: usize = kernel.iter().product();
        let core = settings.effective_conv && taps > 1;
        let (a, b) = match core {
            true => ([rank, outputs], [rank, inputs]),
            false => ([outputs, rank], [rank, inputs * taps]),
        };
        let half = |names: [&str; 3], last: Init| -> Result<Half> {
            Ok(Half {
                a: maker.parameter(names[0], &a, KAIMING)?,
                b: maker.parameter(names[1], &b, last)?,
                core: match core {
                    true => {
                        let shape = [&[rank, rank], kernel].concat();
                        Some(maker.parameter(names[2], &shape, KAIMING)?)
                    }
                    false => None,
                },
            })
        };
        Ok(Self {
            first: half(["hada_w1_a", "hada_w1_b", "hada_t1"], KAIMING)?,
            second: half(["hada_w2_a", "hada_w2_b", "hada_t2"], Init::Zeros)?,
            shape: maker.target.layer.weight_shape.clone(),
            scale,
        })
    }
}

impl Update for Loha {
    fn adapt(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let delta = (self.first.matrix()? * self.second.matrix()?)?.reshape(&self.shape)?;
        add_product(pass.layer, &pass.output, &pass.input, &delta, self.scale)
    }

    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        let Self { first, second, .. } = self;
        let mut parts = vec![
            ("hada_w1_a", &first.a),
            ("hada_w1_b", &first.b),
            ("hada_w2_a", &second.a),
            ("hada_w2_b", &second.b),
        ];
        parts.extend(first.core.as_ref().map(|core| ("hada_t1", core)));
        parts.extend(second.core.as_ref().map(|core| ("hada_t2", core)));
        parts
    }
}
