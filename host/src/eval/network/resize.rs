//! Resizing as PyTorch's `interpolate(mode="bilinear", align_corners=False)` does it: by two taps a side, without smoothing.

use candle_core::{Result, Tensor};

/// Images `[B, C, H, W]` to `[B, C, side, side]`.
///
/// # Errors
/// Images of another shape.
pub(super) fn bilinear(images: &Tensor, side: usize) -> Result<Tensor> {
    along(&along(images, 2, side)?, 3, side)
}

fn along(images: &Tensor, dim: usize, side: usize) -> Result<Tensor> {
    let from = images.dim(dim)?;
    if from == side {
        return Ok(images.clone());
    }
    let scale = from as f32 / side as f32;
    let mut taps = (Vec::new(), Vec::new(), Vec::new());
    for at in 0..side {
        // The middle of the new pixel, in pixels of the old image.
        let middle = ((at as f32 + 0.5) * scale - 0.5).max(0.0);
        let low = (middle as usize).min(from - 1);
        taps.0.push(low as u32);
        taps.1.push((low + 1).min(from - 1) as u32);
        taps.2.push(middle - low as f32);
    }
    let device = images.device();
    let mut shape = vec![1; images.rank()];
    shape[dim] = side;
    let share = Tensor::from_vec(taps.2, shape, device)?;
    let low = images.index_select(&Tensor::new(taps.0, device)?, dim)?;
    let high = images.index_select(&Tensor::new(taps.1, device)?, dim)?;
    &low + (high - &low)?.broadcast_mul(&share)?
}
