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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn vae() -> Arc<Vae> {
        let golden = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/vae/plain");
        Arc::new(Vae::open(Path::new(golden), &Device::Cpu).unwrap())
    }

    fn images(shade: f32) -> Tensor {
        let values = (0..2 * 3 * 64).map(|at| (at as f32 * 0.37 + shade).sin());
        Tensor::from_iter(values, &Device::Cpu)
            .unwrap()
            .reshape((2, 3, 8, 8))
            .unwrap()
    }

    fn apart(a: &Tensor, b: &Tensor) -> f32 {
        let apart = (a - b).unwrap().abs().unwrap().max_all().unwrap();
        apart.to_scalar::<f32>().unwrap()
    }

    #[test]
    fn what_is_kept_is_what_the_autoencoder_says_of_these_very_pixels() {
        let root = tempfile::tempdir().unwrap();
        let vae = vae();
        let kept = CachedVae::new(vae.clone(), root.path()).unwrap();
        let first = kept.posterior(&images(0.0)).unwrap();
        let plain = vae.posterior(&images(0.0)).unwrap();
        assert!(apart(&first.mean, &plain.mean) < 1e-5);
        assert!(apart(&first.std, &plain.std) < 1e-5);
        // Other pixels are other images; a batch in another order finds its own rows.
        let other = kept.posterior(&images(0.1)).unwrap();
        assert!(apart(&first.mean, &other.mean) > 1e-3);
        let images = images(0.0);
        let turned = Tensor::cat(
            &[
                images.narrow(0, 1, 1).unwrap(),
                images.narrow(0, 0, 1).unwrap(),
            ],
            0,
        )
        .unwrap();
        let again = CachedVae::new(vae, root.path()).unwrap();
        let found = again.posterior(&turned).unwrap().mean;
        assert_eq!(
            apart(&found.get(0).unwrap(), &first.mean.get(1).unwrap()),
            0.0
        );
        assert_eq!(
            apart(&found.get(1).unwrap(), &first.mean.get(0).unwrap()),
            0.0
        );
    }

    #[test]
    fn a_second_run_reads_files_and_an_autoencoder_of_other_weights_does_not() {
        let root = tempfile::tempdir().unwrap();
        let folders = || {
            std::fs::read_dir(root.path().join("latents"))
                .unwrap()
                .count()
        };
        let kept = CachedVae::new(vae(), root.path()).unwrap();
        let first = kept.posterior(&images(0.0)).unwrap().mean;
        // What lies in the files is what is given, not what would be computed.
        for file in files(root.path()) {
            let tensors = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
            let shifted = tensors
                .into_iter()
                .map(|(name, tensor)| (name, (tensor + 1.0).unwrap()))
                .collect();
            candle_core::safetensors::save(&shifted, &file).unwrap();
        }
        let again = CachedVae::new(vae(), root.path()).unwrap();
        let second = again.posterior(&images(0.0)).unwrap().mean;
        assert!(apart(&second, &(first.clone() + 1.0).unwrap()) < 1e-6);
        let mut config = vae().config().clone();
        config.scaling_factor = 0.5;
        let other = Arc::new(Vae::init(config, 5).unwrap());
        let fresh = CachedVae::new(other, root.path()).unwrap();
        assert!(apart(&fresh.posterior(&images(0.0)).unwrap().mean, &second) > 1e-3);
        assert_eq!(folders(), 2);
    }

    fn files(root: &Path) -> Vec<std::path::PathBuf> {
        let mut files = Vec::new();
        let mut folders = vec![root.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path),
                }
            }
        }
        files
    }
}
