//! The autoencoder's answers kept: what it makes of an image depends on its pixels alone, and a run meets each image many times.

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor};
use sha2::{Digest, Sha256};

use super::Vae;
use super::vae::Posterior;
use crate::memo::{self, Kept, Memo};

/// Memory for posteriors, in bytes: 8000 images of 512 by 512 pixels.
const KEPT: usize = 1 << 30;

/// An autoencoder that encodes each image once: it keeps the posterior, so that latents are still drawn anew each time.
///
/// The key is a hash of the image's pixels as the encoder gets them, in a folder named by a hash of the autoencoder. So nothing stale is ever found, whatever
/// crops, mirrors and plugins do to images. Each image is encoded by itself, so that its numbers do not depend on those beside it.
#[derive(Debug)]
pub struct CachedVae {
    vae: Arc<Vae>,
    known: Memo,
}

impl CachedVae {
    /// Keeps the autoencoder's answers in memory and below the cache folder `root`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn new(vae: Arc<Vae>, root: &Path) -> Result<Self> {
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", vae.config()));
        for (name, tensor) in vae.parameters() {
            memo::digest(&mut hash, name, tensor)?;
        }
        let folder = root.join("latents").join(memo::named(hash));
        Ok(Self {
            vae,
            known: Memo::new(KEPT).in_folder(folder),
        })
    }

    /// The autoencoder.
    pub fn vae(&self) -> &Vae {
        &self.vae
    }

    /// As [`Vae::posterior`], for images that have no gradient.
    ///
    /// # Errors
    /// As [`Vae::posterior`].
    pub fn posterior(&self, images: &Tensor) -> Result<Posterior> {
        let (mut means, mut stds) = (Vec::new(), Vec::new());
        for row in 0..images.dim(0)? {
            let image = images.narrow(0, row, 1)?; // [1, 3, H, W]
            let compute = || {
                let Posterior { mean, std } = self.vae.posterior(&image)?;
                Ok(Kept::from([
                    ("mean".to_owned(), mean),
                    ("std".to_owned(), std),
                ]))
            };
            let mut kept = (self.known).get(pixels(&image)?, images.device(), compute)?;
            let mut take = |name: &str| {
                (kept.remove(name)).ok_or_else(|| {
                    candle_core::Error::Msg(format!("a kept posterior has no `{name}`"))
                })
            };
            means.push(take("mean")?);
            stds.push(take("std")?);
        }
        Ok(Posterior {
            mean: Tensor::cat(&means, 0)?,
            std: Tensor::cat(&stds, 0)?,
        })
    }
}

/// A hash of an image's shape and pixels.
fn pixels(image: &Tensor) -> Result<memo::Key> {
    let values = image
        .flatten_all()?
        .to_dtype(DType::F32)?
        .to_device(&Device::Cpu)?;
    let mut bytes = format!("{:?}", image.dims()).into_bytes();
    bytes.extend(
        values
            .to_vec1::<f32>()?
            .iter()
            .flat_map(|v| v.to_le_bytes()),
    );
    Ok(memo::key(&bytes))
}
