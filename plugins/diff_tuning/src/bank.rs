//! The memory bank: what the pretrained model itself draws, made once and kept as PNG files that anyone can look at.

use std::path::{Path, PathBuf};

use image::RgbImage;
use plugin_api::{Error, Host, Result, SampleRequest, Tensor};

use crate::settings::DiffTuningSettings;

/// Images of the frozen pretrained model, 8 bits a channel, as their files hold them.
#[derive(Debug)]
pub(crate) struct Bank {
    images: Vec<RgbImage>,
}

impl Bank {
    /// Reads the bank from the cache, or draws it there first: `settings.memory` images, over the model's own classes in turn, guided.
    ///
    /// # Errors
    /// A model that cannot be sampled, an interruption, or a cache that cannot be written or read.
    pub(crate) fn open(settings: &DiffTuningSettings, host: &Host) -> Result<Self> {
        let mut entry = host.cache(key(settings))?;
        if entry.is_complete() {
            tracing::info!(images = settings.memory, folder = %entry.path().display(), "reusing the memory bank");
        } else {
            draw(settings, host, entry.path())?;
            entry.commit(host)?;
        }
        let images = (0..settings.memory as usize)
            .map(|number| {
                let path = file(entry.path(), number);
                let image =
                    image::open(&path).map_err(|error| damaged(&path, entry.path(), &error))?;
                Ok(image.into_rgb8())
            })
            .collect::<Result<_>>()?;
        Ok(Self { images })
    }

    /// How many images there are.
    pub(crate) fn len(&self) -> usize {
        self.images.len()
    }

    /// The chosen images: `[N, 3, H, W]` f32 in -1..1.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn select(&self, numbers: &[u32], host: &Host) -> Result<Tensor> {
        let chosen: Vec<&RgbImage> = numbers
            .iter()
            .map(|&number| &self.images[number as usize])
            .collect();
        let (width, height) = self.images[0].dimensions();
        let mut values = Vec::with_capacity(chosen.len() * 3 * (width * height) as usize);
        for image in &chosen {
            for channel in 0..3 {
                values.extend(
                    image
                        .pixels()
                        .map(|pixel| f32::from(pixel[channel]) / 127.5 - 1.0),
                );
            }
        }
        Tensor::from_slice(
            &values,
            [chosen.len(), 3, height as usize, width as usize],
            host,
        )
    }
}

/// Everything the images depend on, but for the backbone, which the host adds.
fn key(settings: &DiffTuningSettings) -> String {
    format!(
        "memory bank 1: count={} sampler={} steps={} guidance={} seed={}",
        settings.memory,
        settings.memory_sampler,
        settings.memory_steps,
        settings.memory_guidance,
        settings.memory_seed
    )
}

fn draw(settings: &DiffTuningSettings, host: &Host, folder: &Path) -> Result<()> {
    let classes = host.backbone()?.num_classes;
    let count = settings.memory as usize;
    let batch = settings.memory_batch as usize;
    for first in (0..count).step_by(batch) {
        host.progress(first as u64, settings.memory, "memory bank")?;
        let numbers = first..count.min(first + batch);
        let images = host.sample(SampleRequest {
            first: first as u64,
            batch_size: batch,
            class_labels: classes.map(|classes| {
                numbers
                    .clone()
                    .map(|number| number as u32 % classes)
                    .collect()
            }),
            steps: settings.memory_steps as usize,
            guidance: settings.memory_guidance,
            seed: settings.memory_seed,
            sampler: settings.memory_sampler.clone(),
            ..SampleRequest::new(numbers.len())
        })?;
        save(&images, first, folder)?;
    }
    host.progress(settings.memory, settings.memory, "memory bank")
}

/// Writes `[N, 3, H, W]` in -1..1 as PNG files numbered from `first`.
fn save(images: &Tensor, first: usize, folder: &Path) -> Result<()> {
    let [count, channels, height, width] = images.dims_n::<4>()?;
    if channels != 3 {
        return Err(Error::msg(format!(
            "the memory bank holds RGB images, but the backbone draws images of {channels} channels; use a backbone with 3"
        )));
    }
    let values = images.to_vec::<f32>()?;
    let plane = height * width;
    for (number, image) in values.chunks_exact(3 * plane).take(count).enumerate() {
        let pixel = |x: u32, y: u32| {
            let at = y as usize * width + x as usize;
            let level = |channel: usize| {
                ((image[channel * plane + at] + 1.0) * 127.5)
                    .round()
                    .clamp(0.0, 255.0) as u8
            };
            image::Rgb([level(0), level(1), level(2)])
        };
        let path = file(folder, first + number);
        RgbImage::from_fn(width as u32, height as u32, pixel)
            .save(&path)
            .map_err(|error| Error::msg(format!("cannot write `{}`: {error}", path.display())))?;
    }
    Ok(())
}

fn file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:06}.png"))
}

fn damaged(path: &Path, folder: &Path, error: &image::ImageError) -> Error {
    Error::msg(format!(
        "cannot read `{}` of the memory bank: {error}; delete the folder `{}` to have it drawn again",
        path.display(),
        folder.display()
    ))
}
