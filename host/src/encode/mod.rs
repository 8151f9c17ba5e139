//! Between images and latents. A pixel-space model has no encoder: its latents are the images.

use candle_core::Tensor;

/// What turns images into latents and back.
#[derive(Clone, Debug, Default)]
pub enum Encoder {
    /// Latents are images: for a backbone folder without `vae/`.
    #[default]
    Pixels,
}

impl Encoder {
    /// Images `[B, 3, H, W]` in `-1..=1` to latents `[B, C, H, W]`; gradients flow.
    pub fn encode(&self, images: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Pixels => Ok(images.clone()),
        }
    }

    /// Latents `[B, C, H, W]` to images `[B, 3, H, W]`; gradients flow. The values are not clamped.
    pub fn decode(&self, latents: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Pixels => Ok(latents.clone()),
        }
    }
}
