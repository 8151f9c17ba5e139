//! Pixels to channels and back (Shi et al. 2016), with PyTorch's order of channels.

use candle_core::{Result, Tensor};

/// `[B, C, r H, r W]` → `[B, C r r, H, W]`: channel `c r r + i r + j` holds the pixels at `(i, j)` of every `r x r` square.
///
/// # Errors
/// If `x` has another rank, or its sides are no multiples of `factor`.
pub fn pixel_unshuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (batch, channels, height, width) = x.dims4()?;
    if factor == 0 || !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
        candle_core::bail!(
            "pixel_unshuffle: {height}x{width} does not divide into squares of {factor}"
        );
    }
    let (rows, columns) = (height / factor, width / factor);
    x.reshape(&[batch, channels, rows, factor, columns, factor])?
        .permute([0, 1, 3, 5, 2, 4])?
        .reshape((batch, channels * factor * factor, rows, columns))
}

/// `[B, C r r, H, W]` → `[B, C, r H, r W]`: the inverse of [`pixel_unshuffle`].
///
/// # Errors
/// If `x` has another rank, or its channels are no multiple of `factor` squared.
pub fn pixel_shuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    let (batch, channels, rows, columns) = x.dims4()?;
    if factor == 0 || !channels.is_multiple_of(factor * factor) {
        candle_core::bail!(
            "pixel_shuffle: {channels} channels do not divide into squares of {factor}"
        );
    }
    let left = channels / (factor * factor);
    x.reshape(&[batch, left, factor, factor, rows, columns])?
        .permute([0, 1, 4, 2, 5, 3])?
        .reshape((batch, left, rows * factor, columns * factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn shuffling_is_right_and_undone() {
        check(&[&[2, 3, 4, 6]], |x| pixel_unshuffle(&x[0], 2));
        check(&[&[2, 8, 3, 5]], |x| pixel_shuffle(&x[0], 2));
        check(&[&[1, 2, 6, 9]], |x| {
            pixel_shuffle(&pixel_unshuffle(&x[0], 3)?, 3)? * 1.0
        });
    }

    #[test]
    fn shuffling_equals_pytorch() {
        check_golden("pixel_unshuffle", |x| pixel_unshuffle(&x[0], 2));
        check_golden("pixel_shuffle", |x| pixel_shuffle(&x[0], 2));
    }

    #[test]
    fn what_does_not_divide_is_refused() {
        let x = Tensor::zeros(
            (1, 3, 5, 4),
            candle_core::DType::F32,
            &candle_core::Device::Cpu,
        )
        .expect("zeros");
        for result in [
            pixel_unshuffle(&x, 2),
            pixel_unshuffle(&x, 0),
            pixel_shuffle(&x, 2),
        ] {
            let message = result.expect_err("does not divide").to_string();
            assert!(message.contains("divide into squares"), "{message}");
        }
    }
}
