//! Masks of zeros and ones: from a picture's grey, and from pixels to latents.

use plugin_api::{DType, Result, Tensor, bail};

/// A mask `[B, 1, h, w]` in 0..1 as zeros and ones: 1 above a half, and everywhere in a sample that would have none, since there is nothing to predict in it.
///
/// So a sample of another plugin (a memory image that Diff-Tuning put in place of a target, with empty columns) is predicted whole.
pub(crate) fn binary(mask: &Tensor) -> Result<Tensor> {
    let kept = mask.gt(0.5)?.to_dtype(DType::F32)?; // [B, 1, h, w]
    let batch = kept.dim(0)?;
    let any = kept.flatten_from(1)?.max(1)?.reshape([batch, 1, 1, 1])?;
    kept.maximum(&any.affine(-1.0, 1.0)?)
}

/// A binary mask of pixels `[B, 1, H, W]` as one of latents, `[B, 1, h, w]`: a latent pixel counts if any pixel under it does, so that nothing hidden shows.
///
/// # Errors
/// Latents of which a whole number of pixels does not make one.
pub(crate) fn shrunk(mask: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [batch, _, high, wide] = mask.dims_n::<4>()?;
    if (high, wide) == (height, width) {
        return Ok(mask.clone());
    }
    if !high.is_multiple_of(height) || !wide.is_multiple_of(width) {
        bail!("latents of {height}x{width} do not divide a canvas of {high}x{wide} pixels");
    }
    mask.reshape([batch, height, high / height, width, wide / width])?
        .max([2usize, 4])?
        .unsqueeze(1)
}

/// `values` where the mask is 1, `context` where it is 0; both exactly, the mask being zeros and ones.
pub(crate) fn mixed(values: &Tensor, context: &Tensor, mask: &Tensor) -> Result<Tensor> {
    values.broadcast_mul(mask)? + context.broadcast_mul(&mask.affine(-1.0, 1.0)?)?
}
