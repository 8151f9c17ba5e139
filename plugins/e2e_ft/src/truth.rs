//! What is known of a batch's depth or normals: the values to come near to, where they are valid, and the picture that a diffusion model would draw of them.

use plugin_api::{DType, Host, Result, Tensor};

use crate::settings::Task;

/// Depths below the first and above the second of these shares of an image's valid ones count as outliers (Marigold, arXiv 2312.02145, section 3.1).
const QUANTILES: [f64; 2] = [0.02, 0.98];

/// The truth about a batch of `B` images of `H` by `W` pixels.
#[derive(Debug)]
pub struct Truth {
    /// Depth `[B, 1, H, W]` in the data's own unit without its outliers, or unit normals `[B, 3, H, W]`.
    pub values: Tensor,
    /// Where they are known: 1 or 0, `[B, 1, H, W]` f32.
    pub valid: Tensor,
    /// The same in -1..1 as a picture, `[B, 3, H, W]`.
    pub picture: Tensor,
}

impl Truth {
    /// Reads the data's column: depth `[B, 1, H, W]` in 0..1 whose zeros are unknown and whose 1 stands for `depth_range`, or normals `[B, 3, H, W]` whose zero
    /// vectors are unknown; their length is brought to 1.
    ///
    /// # Errors
    /// A column of another shape.
    pub fn read(task: Task, column: &Tensor, depth_range: f64, host: &Host) -> Result<Self> {
        match task {
            Task::Depth => Self::depth(column, depth_range, host),
            Task::Normals => {
                let vectors = column.to_dtype(DType::F32)?; // [B, 3, H, W]
                let squares = vectors.sqr()?.sum_keepdim(1)?; // [B, 1, H, W]
                let values =
                    vectors.broadcast_div(&squares.clamp(1e-24, f64::INFINITY)?.sqrt()?)?;
                Ok(Self {
                    picture: values.clone(),
                    valid: squares.gt(0.25)?.to_dtype(DType::F32)?,
                    values,
                })
            }
        }
    }

    /// Depth between its quantiles, for each image, and mapped to -1..1 by them; what is unknown is as far as can be. An image whose depth is the same everywhere
    /// teaches nothing, and is unknown as a whole.
    fn depth(column: &Tensor, depth_range: f64, host: &Host) -> Result<Self> {
        let [batch, _, height, width] = column.dims_n::<4>()?;
        let plane = height * width;
        let mut depth: Vec<f32> = column.to_vec()?;
        let mut valid = vec![0f32; depth.len()];
        let mut picture = vec![0f32; depth.len()];
        let images = depth.chunks_exact_mut(plane).zip(
            valid
                .chunks_exact_mut(plane)
                .zip(picture.chunks_exact_mut(plane)),
        );
        for (depth, (valid, picture)) in images {
            let mut known: Vec<f32> = depth.iter().copied().filter(|&value| value > 0.0).collect();
            known.sort_unstable_by(f32::total_cmp);
            let [near, far] = QUANTILES.map(|share| quantile(&known, share));
            if near == far {
                depth.fill(0.0);
                continue;
            }
            for (depth, (valid, picture)) in depth.iter_mut().zip(valid.iter_mut().zip(picture)) {
                *valid = f32::from(u8::from(*depth > 0.0));
                *depth = match *depth > 0.0 {
                    true => depth.clamp(near, far),
                    false => far,
                };
                *picture = ((*depth - near) / (far - near) * 2.0 - 1.0).clamp(-1.0, 1.0);
            }
        }
        let shape = [batch, 1, height, width];
        Ok(Self {
            values: Tensor::from_slice(&depth, shape, host)?.affine(depth_range, 0.0)?,
            valid: Tensor::from_slice(&valid, shape, host)?,
            picture: Tensor::from_slice(&picture, shape, host)?
                .broadcast_as([batch, 3, height, width])?,
        })
    }
}

/// The value below which a share of sorted numbers lies, between two of them by a straight line, as `torch.quantile` has it; 0 of none.
fn quantile(sorted: &[f32], share: f64) -> f32 {
    let Some(last) = sorted.len().checked_sub(1) else {
        return 0.0;
    };
    let place = share * last as f64;
    let below = place as usize;
    let (low, high) = (sorted[below], sorted[(below + 1).min(last)]);
    low + (place - below as f64) as f32 * (high - low)
}

/// Where latents `h` by `w` are known: where all the pixels under them are. `[B, 1, H, W]` to `[B, 1, h, w]`.
///
/// # Errors
/// Latents of which a whole number of pixels does not make one.
pub fn shrunk(valid: &Tensor, height: usize, width: usize) -> Result<Tensor> {
    let [batch, _, high, wide] = valid.dims_n::<4>()?;
    if (high, wide) == (height, width) {
        return Ok(valid.clone());
    }
    if !high.is_multiple_of(height) || !wide.is_multiple_of(width) {
        plugin_api::bail!("latents of {height}x{width} do not divide pictures of {high}x{wide}");
    }
    valid
        .reshape([batch, height, high / height, width, wide / width])?
        .min([2usize, 4])?
        .unsqueeze(1)
}
