//! The memory bank: what the pretrained model itself draws, made once and kept as PNG files that anyone can look at.

use std::path::{Path, PathBuf};

use plugin_api::{Error, Host, Result, SampleRequest, Tensor};

use crate::png_file::{self, Picture};
use crate::settings::DiffTuningSettings;

/// Images of the frozen pretrained model, 8 bits a channel, as their files hold them.
#[derive(Debug)]
pub(crate) struct Bank {
    images: Vec<Picture>,
}

impl Bank {
    /// Reads the bank from the cache, or draws it there first: `settings.memory` images, over the model's own classes or the
    /// prompts of the settings in turn, guided.
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
        let images: Vec<Picture> = (0..settings.memory as usize)
            .map(|number| read(entry.path(), number))
            .collect::<Result<_>>()?;
        let size = |number: usize| (images[number].width, images[number].height);
        if let Some(odd) = (1..images.len()).find(|&number| size(number) != size(0)) {
            return Err(damaged(
                entry.path(),
                odd,
                "its size is not that of the first",
            ));
        }
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
        let Picture { width, height, .. } = self.images[0];
        let mut values = Vec::with_capacity(numbers.len() * 3 * width * height);
        for &number in numbers {
            let bytes = &self.images[number as usize].bytes; // [H, W, 3]
            for channel in 0..3 {
                values.extend(
                    bytes
                        .iter()
                        .skip(channel)
                        .step_by(3)
                        .map(|&level| f32::from(level) / 127.5 - 1.0),
                );
            }
        }
        Tensor::from_slice(&values, [numbers.len(), 3, height, width], host)
    }
}

/// Everything the images depend on, but for the backbone, which the host adds.
fn key(settings: &DiffTuningSettings) -> String {
    format!(
        "memory bank 1: count={} sampler={} steps={} guidance={} seed={}{}",
        settings.memory,
        settings.memory_sampler,
        settings.memory_steps,
        settings.memory_guidance,
        settings.memory_seed,
        (settings.memory_prompts.iter())
            .map(|prompt| format!("\nprompt {prompt:?}"))
            .collect::<String>()
    )
}

fn draw(settings: &DiffTuningSettings, host: &Host, folder: &Path) -> Result<()> {
    let backbone = host.backbone()?;
    let classes = backbone.num_classes;
    let prompts = &settings.memory_prompts;
    if !prompts.is_empty() && !backbone.text {
        return Err(Error::msg(
            "diff_tuning.memory_prompts is set, but the backbone is not conditioned on text; leave it out",
        ));
    }
    if prompts.is_empty() && backbone.text {
        tracing::warn!(
            "the memory bank is drawn without text; name what the model is to go on knowing in diff_tuning.memory_prompts"
        );
    }
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
            captions: (!prompts.is_empty()).then(|| {
                let in_turn = |number: usize| prompts[number % prompts.len()].clone();
                numbers.clone().map(in_turn).collect()
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
        let level = |value: f32| ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
        let bytes = (0..3 * plane)
            .map(|at| level(image[at % 3 * plane + at / 3]))
            .collect(); // [3, H, W] -> [H, W, 3]
        let path = file(folder, first + number);
        png_file::write(
            &path,
            &Picture {
                width,
                height,
                bytes,
            },
        )
        .map_err(|error| Error::msg(format!("cannot write `{}`: {error}", path.display())))?;
    }
    Ok(())
}

fn read(folder: &Path, number: usize) -> Result<Picture> {
    png_file::read(&file(folder, number)).map_err(|problem| damaged(folder, number, &problem))
}

fn file(folder: &Path, number: usize) -> PathBuf {
    folder.join(format!("{number:06}.png"))
}

fn damaged(folder: &Path, number: usize, problem: &str) -> Error {
    Error::msg(format!(
        "cannot use `{}` of the memory bank: {problem}; delete the folder `{}` to have it drawn again",
        file(folder, number).display(),
        folder.display()
    ))
}
