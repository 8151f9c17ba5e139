//! The losses, by the published formulas (section 3.3 of the paper; `training/util/loss.py` of its code), each as one number a sample.
//!
//! The published code averages over all valid pixels of a batch at once. Here a sample's loss is its part of that average times the number of samples, so that
//! the mean over samples, which the host takes, is the published number.

use plugin_api::{DType, Result, Tensor};

/// Parts of the system's determinant that are rounding, beside the product that it is computed from: predictions that differ by less than a millionth are one.
const ROUNDING: f64 = 1e-12;

/// Added to a vector's length before dividing by it, as published.
const LENGTH_EPS: f64 = 1e-5;

/// The depth that a decoded picture shows: the mean of its channels, limited to -1..1. `[B, 3, H, W]` to `[B, 1, H, W]`, f32.
///
/// # Errors
/// When the host fails.
pub fn depth(picture: &Tensor) -> Result<Tensor> {
    let picture = picture.to_dtype(DType::F32)?;
    picture.mean_keepdim(1)?.clamp(-1.0, 1.0)
}

/// The normals that a decoded picture shows: `x / (|x| + 1e-5)`, limited to -1..1. `[B, 3, H, W]`, f32.
///
/// # Errors
/// When the host fails.
pub fn normals(picture: &Tensor) -> Result<Tensor> {
    let picture = picture.to_dtype(DType::F32)?;
    // Below this a vector is zero, where the root has no gradient.
    let squares = picture.sqr()?.sum_keepdim(1)?.clamp(1e-30, f64::INFINITY)?;
    let length = squares.sqrt()?.affine(1.0, LENGTH_EPS)?; // [B, 1, H, W]
    picture.broadcast_div(&length)?.clamp(-1.0, 1.0)
}

/// The scale-and-shift-invariant loss of depth (Ranftl et al. 2020, arXiv 1907.01341, section 5): for each image the least squares over its valid pixels give
/// the scale and the shift that bring the estimate nearest to the truth, and what is left counts by its absolute value.
///
/// Gradients flow through scale and shift. A system without a single solution (an estimate that is the same everywhere, fewer than two valid pixels) has scale
/// and shift 0. All three are `[B, 1, H, W]` f32; the loss is `[B]`, 0 where no pixel of the batch is valid.
///
/// # Errors
/// Tensors of different shapes.
pub fn scale_and_shift_invariant(
    estimate: &Tensor,
    truth: &Tensor,
    valid: &Tensor,
) -> Result<Tensor> {
    let (scale, shift) = alignment(estimate, truth, valid)?;
    let [p, t, m] = [estimate, truth, valid].map(|tensor| tensor.to_dtype(DType::F64));
    let left = (((p? * scale)? + shift)? - t?)?.abs()?; // [B, 1, H, W]
    pooled(&left, &m?)?.to_dtype(DType::F32)
}

/// The scale and the shift of each image's least squares, 0 for a system without a single solution: `[B, 1, 1, 1]` f64 each.
///
/// # Errors
/// Tensors of different shapes.
pub fn alignment(estimate: &Tensor, truth: &Tensor, valid: &Tensor) -> Result<(Tensor, Tensor)> {
    // The determinant is a small difference of large sums.
    let [p, t, m] = [estimate, truth, valid].map(|tensor| tensor.to_dtype(DType::F64));
    let (p, t, m) = (p?, t?, m?);
    let total = |what: Tensor| what.sum_keepdim((1, 2, 3)); // [B, 1, 1, 1]
    let mp = (&m * &p)?;
    let (a_00, a_01, a_11) = (total((&mp * &p)?)?, total(mp.clone())?, total(m.clone())?);
    let (b_0, b_1) = (total((&mp * &t)?)?, total((&m * &t)?)?);
    let both = (&a_00 * &a_11)?;
    let determinant = (&both - a_01.sqr()?)?;
    let solvable = determinant.gt(both.affine(ROUNDING, 0.0)?)?;
    let divisor = solvable.where_cond(&determinant, &determinant.ones_like()?)?;
    let solution = |numerator: Tensor| {
        let quotient = (numerator / &divisor)?;
        solvable.where_cond(&quotient, &quotient.zeros_like()?)
    };
    let scale = solution(((&a_11 * &b_0)? - (&a_01 * &b_1)?)?)?; // [B, 1, 1, 1]
    let shift = solution(((&a_00 * &b_1)? - (&a_01 * &b_0)?)?)?;
    Ok((scale, shift))
}

/// The angle between estimated and true normals, `acos(clamp(estimate . truth, -1, 1))` in radians, over the valid pixels.
///
/// Where the two point the same way, or opposite ways, to the last bit, the angle counts and its gradient, which is infinite, is 0. Both are
/// `[B, 3, H, W]` f32, `valid` is `[B, 1, H, W]`; the loss is `[B]`, 0 where no pixel of the batch is valid.
///
/// # Errors
/// Tensors of different shapes.
pub fn angular(estimate: &Tensor, truth: &Tensor, valid: &Tensor) -> Result<Tensor> {
    let dot = (estimate * truth)?.sum_keepdim(1)?; // [B, 1, H, W]
    let inside = dot.abs()?.lt(1.0)?;
    let between = inside.where_cond(&dot, &dot.zeros_like()?)?.acos()?;
    let ends = (dot.lt(0.0)?.to_dtype(DType::F32)? * std::f64::consts::PI)?;
    pooled(&inside.where_cond(&between, &ends)?, valid)
}

/// The squared error of the network's prediction where latents are known: both `[B, C, h, w]`, `valid` `[B, 1, h, w]`; `[B]`.
///
/// # Errors
/// Tensors of different shapes.
pub fn squared(prediction: &Tensor, target: &Tensor, valid: &Tensor) -> Result<Tensor> {
    let [prediction, target] = [prediction, target].map(|tensor| tensor.to_dtype(DType::F32));
    let error = (prediction? - target?)?.sqr()?.mean_keepdim(1)?; // [B, 1, h, w]
    pooled(&error, valid)
}

/// Each sample's part of the average over the batch's valid pixels, times the number of samples: `[B, 1, H, W]` to `[B]`.
fn pooled(values: &Tensor, valid: &Tensor) -> Result<Tensor> {
    let count = valid.dim(0)? as f64;
    let each = (values * valid)?.sum((1, 2, 3))?; // [B]
    let pixels = valid.sum_all()?.maximum(1.0)?;
    each.affine(count, 0.0)?.broadcast_div(&pixels)
}
