//! Between pictures and latents. A pixel-space model has no autoencoder: its latents are the pictures.

mod cached;
pub mod vae;

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{Result, Tensor};

use crate::backbone;
pub use cached::CachedVae;
pub use vae::{Vae, VaeConfig};

/// Why an autoencoder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A configuration that cannot be read or is not implemented.
    #[error("cannot use the autoencoder of {file}: {reason}")]
    Config {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Its weights.
    #[error("the autoencoder: {0}")]
    Weights(#[from] backbone::Error),
    /// The autoencoder is another model's.
    #[error(
        "the autoencoder in {} makes latents of {latents} channels, and the network takes {network}: they are not of one model", path.display()
    )]
    Channels {
        /// The autoencoder's folder.
        path: PathBuf,
        /// Its latents' channels.
        latents: usize,
        /// The network's input channels.
        network: usize,
    },
}

/// What turns pictures into latents and back.
#[derive(Clone, Debug, Default)]
pub enum Encoder {
    /// Latents are pictures: for a backbone folder without `vae/`.
    #[default]
    Pixels,
    /// A frozen autoencoder.
    Vae(Arc<Vae>),
    /// The same, which encodes each image of the data once.
    Cached(Arc<CachedVae>),
}

impl Encoder {
    /// Pictures `[B, 3, H, W]` in `-1..=1` to latents `[B, C, h, w]`: the posterior's mean, scaled. Gradients flow.
    ///
    /// # Errors
    /// Pictures whose sides do not fit.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        match self.vae() {
            None => Ok(images.clone()),
            Some(vae) => vae.scaled(&vae.posterior(images)?.mean),
        }
    }

    /// The same, but drawn from the posterior with `normal` noise of the shape it is asked for, as diffusion models are trained; nothing is drawn where
    /// latents are pictures.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    pub fn sample(
        &self,
        images: &Tensor,
        normal: impl FnOnce(&[usize]) -> Result<Tensor>,
    ) -> Result<Tensor> {
        let (vae, posterior) = match self {
            Self::Pixels => return Ok(images.clone()),
            Self::Vae(vae) => (&**vae, vae.posterior(images)?),
            Self::Cached(cached) => (cached.vae(), cached.posterior(images)?),
        };
        let noise = normal(posterior.mean.dims())?;
        vae.scaled(&(posterior.mean + (posterior.std * noise)?)?)
    }

    /// Latents `[B, C, h, w]` to pictures `[B, 3, H, W]`; gradients flow. The values are not clamped.
    ///
    /// # Errors
    /// Latents of another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        match self.vae() {
            None => Ok(latents.clone()),
            Some(vae) => vae.decode(latents),
        }
    }

    /// Pictures are this many times as high and wide as their latents.
    pub fn factor(&self) -> usize {
        self.vae().map_or(1, |vae| vae.config().factor())
    }

    /// The autoencoder, if there is one.
    pub fn vae(&self) -> Option<&Vae> {
        match self {
            Self::Pixels => None,
            Self::Vae(vae) => Some(vae),
            Self::Cached(cached) => Some(cached.vae()),
        }
    }

    /// Channels of latents.
    pub fn latent_channels(&self) -> usize {
        self.vae().map_or(3, |vae| vae.config().latent_channels)
    }

    /// Whether latents are pictures.
    pub fn is_pixels(&self) -> bool {
        matches!(self, Self::Pixels)
    }
}
