//! A kernel from a small core and two factors: the decomposition that LoHa and LoKr have for convolutions (FedPara, arXiv 2108.06098, proposition 3).

use plugin_api::{Result, Tensor};

/// `out[p, q, k, l] = sum_ij core[i, j, k, l] left[i, p] right[j, q]` for `core [r, r, KH, KW]`, `left [r, P]` and `right [r, Q]`: `[P, Q KH KW]`.
pub(super) fn kernel(core: &Tensor, left: &Tensor, right: &Tensor) -> Result<Tensor> {
    let [rank, _, height, width] = core.dims_n()?;
    let (outputs, inputs, taps) = (left.dim(1)?, right.dim(1)?, height * width);
    let turned = left.t()?.matmul(&core.reshape([rank, rank * taps])?)?; // [P, r KH KW]
    let taps_first = turned
        .reshape([outputs, rank, taps])?
        .transpose(1, 2)?
        .reshape([outputs * taps, rank])?; // [P KH KW, r]
    let kernel = taps_first.matmul(right)?; // [P KH KW, Q]
    kernel
        .reshape([outputs, taps, inputs])?
        .transpose(1, 2)?
        .reshape([outputs, inputs * taps])
}
