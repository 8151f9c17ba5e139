//! LoKr (Yeh, Hsieh, Gao, Yang, Oh, Gong; ICLR 2024; arXiv 2309.14859, section 3.2), as LyCORIS and PEFT have it.
//!
//! `(alpha / rank) * W1 ⊗ W2` is added to the weight. The sizes of the two factors come from dividing the layer's; the right one, and with `decompose_both` the
//! left one, is itself a product of two narrow matrices where the rank is less than half of its larger side. `W1` starts at zero, so that the first step begins
//! at the pretrained model exactly.

use plugin_api::{Init, Result, Tensor};

use super::{KAIMING, Maker, Pass, Update, add_product, tucker};
use crate::settings::LoraSettings;

/// The factors.
pub(super) struct Lokr {
    /// `[out1, in1]`.
    left: Factor,
    /// `[out2, in2 KH KW]`.
    right: Factor,
    /// The layer's weight's.
    shape: Vec<usize>,
    scale: f64,
}

/// One factor of the Kronecker product.
enum Factor {
    /// As it is; `[out2, in2, KH, KW]` for the right one of a convolution.
    Whole(Tensor),
    /// `[out, rank]` and `[rank, in]`.
    Product(Tensor, Tensor),
    /// `[rank, out2]`, `[rank, in2]` and a core `[rank, rank, KH, KW]`.
    Core(Tensor, Tensor, Tensor),
}

impl Factor {
    /// As a matrix.
    fn matrix(&self) -> Result<Tensor> {
        match self {
            Factor::Whole(whole) => {
                let outputs = whole.dim(0)?;
                whole.reshape([outputs, whole.elem_count() / outputs.max(1)])
            }
            Factor::Product(a, b) => a.matmul(b),
            Factor::Core(a, b, core) => tucker::kernel(core, a, b),
        }
    }

    fn parts<'a>(&'a self, names: [&'static str; 4]) -> Vec<(&'static str, &'a Tensor)> {
        let [whole_name, a_name, b_name, core_name] = names;
        match self {
            Factor::Whole(whole) => vec![(whole_name, whole)],
            Factor::Product(a, b) => vec![(a_name, a), (b_name, b)],
            Factor::Core(a, b, core) => vec![(a_name, a), (b_name, b), (core_name, core)],
        }
    }
}

impl Lokr {
    pub(super) fn make(settings: &LoraSettings, scale: f64, maker: &Maker<'_>) -> Result<Self> {
        let rank = maker.target.rank;
        let (outputs, inputs, kernel) = maker.shape();
        let taps: usize = kernel.iter().product();
        let (out1, out2) = divided(outputs, settings.decompose_factor);
        let (in1, in2) = divided(inputs, settings.decompose_factor);
        let small = |a: usize, b: usize| 2 * rank < a.max(b);

        let left = match settings.decompose_both && small(out1, in1) {
            true => Factor::Product(
                maker.parameter("lokr_w1_a", &[out1, rank], Init::Zeros)?,
                maker.parameter("lokr_w1_b", &[rank, in1], KAIMING)?,
            ),
            false => Factor::Whole(maker.parameter("lokr_w1", &[out1, in1], Init::Zeros)?),
        };
        let right = |part: &str, shape: &[usize]| maker.parameter(part, shape, KAIMING);
        let right = match (small(out2, in2), settings.effective_conv && taps > 1) {
            (false, _) => {
                let shape = [&[out2, in2], kernel].concat();
                Factor::Whole(right("lokr_w2", &shape)?)
            }
            (true, false) => Factor::Product(
                right("lokr_w2_a", &[out2, rank])?,
                right("lokr_w2_b", &[rank, in2 * taps])?,
            ),
            (true, true) => Factor::Core(
                right("lokr_w2_a", &[rank, out2])?,
                right("lokr_w2_b", &[rank, in2])?,
                right("lokr_t2", &[&[rank, rank], kernel].concat())?,
            ),
        };
        Ok(Self {
            left,
            right,
            shape: maker.target.layer.weight_shape.clone(),
            scale,
        })
    }
}

/// A size as a product of two, the smaller one first: `wanted` and the rest where it divides the size; else as near to the root as `wanted` allows.
///
/// The search is PEFT's, since its files hold factors of these sizes: from one divisor to the next for as long as their sum shrinks.
fn divided(size: usize, wanted: Option<usize>) -> (usize, usize) {
    if let Some(wanted) = wanted.filter(|wanted| size.is_multiple_of(*wanted)) {
        return (wanted, size / wanted);
    }
    let most = wanted.unwrap_or(size);
    let (mut small, mut large) = (1, size);
    while small < large {
        let next = (small + 1..=size).find(|divisor| size.is_multiple_of(*divisor));
        match next.map(|next| (next, size / next)) {
            Some((next, rest)) if next + rest <= 1 + size && next <= most => {
                (small, large) = (next, rest);
            }
            _ => break,
        }
    }
    (small.min(large), small.max(large))
}

impl Update for Lokr {
    fn adapt(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let (left, right) = (self.left.matrix()?, self.right.matrix()?);
        let [out1, in1] = left.dims_n()?;
        let [out2, in2] = right.dims_n()?;
        let left = left.reshape([out1, 1, in1, 1])?;
        let right = right.reshape([1, out2, 1, in2])?;
        let delta = left.broadcast_mul(&right)?.reshape(&self.shape)?; // [out1, out2, in1, in2 KH KW] before
        add_product(pass.layer, &pass.output, &pass.input, &delta, self.scale)
    }

    fn parts(&self) -> Vec<(&'static str, &Tensor)> {
        let left = self.left.parts(["lokr_w1", "lokr_w1_a", "lokr_w1_b", ""]);
        let right = self
            .right
            .parts(["lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"]);
        left.into_iter().chain(right).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_divided_as_peft_divides_them() {
        for (size, wanted, expected) in [
            (256, None, (16, 16)),
            (128, None, (8, 16)),
            (127, None, (1, 127)),
            (128, Some(4), (4, 32)),
            (130, Some(4), (2, 65)),
            (384, None, (16, 24)),
            (12, Some(24), (3, 4)),
            (1, None, (1, 1)),
        ] {
            assert_eq!(divided(size, wanted), expected, "{size} by {wanted:?}");
        }
    }
}
