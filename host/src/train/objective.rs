//! The default loss: how far the prediction is from its target, one number a sample.

use candle_core::{D, Tensor};

/// Mean squared error of each sample: `sum(mask * (prediction - target)^2) / sum(mask)`; over all elements without a mask.
///
/// # Shapes
/// `prediction` and `target` `[B, C, H, W]`, `mask` broadcastable to them (`[B, 1, H, W]`, 0 or 1); gives `[B]`.
/// A sample whose mask is all zero has zero loss.
pub fn masked_mse(
    prediction: &Tensor,
    target: &Tensor,
    mask: Option<&Tensor>,
) -> candle_core::Result<Tensor> {
    let squared = (prediction - target)?.sqr()?; // [B, C, H, W]
    match mask {
        None => squared.flatten_from(1)?.mean(D::Minus1), // [B]
        Some(mask) => {
            let mask = mask.broadcast_as(squared.shape())?;
            let total = (squared * &mask)?.flatten_from(1)?.sum(D::Minus1)?; // [B]
            let count = mask.flatten_from(1)?.sum(D::Minus1)?.maximum(1.0)?; // [B]
            total / count
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn only_what_the_mask_keeps_counts_and_each_sample_stands_alone() -> candle_core::Result<()> {
        let device = Device::Cpu;
        let target = Tensor::zeros((3, 2, 1, 2), candle_core::DType::F32, &device)?;
        let prediction = Tensor::new(
            &[1f32, 9.0, 3.0, 9.0, 1.0, 1.0, 1.0, 3.0, 5.0, 5.0, 5.0, 5.0],
            &device,
        )?
        .reshape((3, 2, 1, 2))?;
        let mask = Tensor::new(&[1f32, 0.0, 1.0, 1.0, 0.0, 0.0], &device)?.reshape((3, 1, 1, 2))?;
        let loss = masked_mse(&prediction, &target, Some(&mask))?.to_vec1::<f32>()?;
        assert_eq!(loss, [5.0, 3.0, 0.0]);
        let plain = masked_mse(&prediction, &target, None)?.to_vec1::<f32>()?;
        assert_eq!(plain, [43.0, 3.0, 25.0]);
        Ok(())
    }
}
