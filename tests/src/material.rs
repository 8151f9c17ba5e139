//! A tiny backbone with something to say, a few pictures, and readers for what runs leave behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use host::backbone::{Backbone, DitConfig, Overlay};
use host::diffusion::SchedulerConfig;
use host::random::Stream;
use image::{Rgb, RgbImage};

/// The classes of the folder of pictures that [`write_pictures`] makes.
const CLASSES: [&str; 2] = ["blobs", "stripes"];

/// The side of the pictures that the tiny backbone takes.
const SIDE: u32 = 8;

/// Writes a DiT of two blocks for 8x8 pictures with learned variance. A fresh one predicts zero, so its last layers get random weights too.
pub(crate) fn write_backbone(folder: &Path) {
    let config = DitConfig {
        num_attention_heads: 2,
        attention_head_dim: 16,
        in_channels: 3,
        out_channels: Some(6),
        num_layers: 2,
        sample_size: SIDE as usize,
        patch_size: 4,
        num_embeds_ada_norm: 4,
        ..DitConfig::default()
    };
    let fresh = Backbone::init(config, 1, &Device::Cpu).unwrap();
    let mut overlay = Overlay::new();
    for (name, tensor) in fresh.parameters() {
        if name.contains("norm1.linear") || name.contains("proj_out") {
            let random = Stream::new(2, name)
                .normal(tensor.shape(), &Device::Cpu)
                .unwrap();
            overlay.insert(name.to_owned(), (random * 0.1).unwrap());
        }
    }
    fresh.save(folder, &overlay, DType::F32).unwrap();
    let scheduler = folder.join("scheduler");
    std::fs::create_dir_all(&scheduler).unwrap();
    SchedulerConfig::default()
        .write(&scheduler.join("scheduler_config.json"))
        .unwrap();
}

/// Writes pictures of two classes in subfolders, six in all, no two alike.
pub(crate) fn write_pictures(folder: &Path) {
    for (class, name) in CLASSES.into_iter().enumerate() {
        for number in 0..3 {
            let shade = |x: u32, y: u32| {
                let stripe = if class == 0 {
                    (x / 3 + y / 3) % 2
                } else {
                    (x + number) % 2
                };
                let level = (stripe * 150) as u8 + 10 * number as u8;
                [level, 255 - level, (20 * x) as u8]
            };
            picture(&folder.join(name).join(format!("{number}.png")), shade);
        }
    }
}

/// Writes an 8x8 PNG; the folders above it are made.
pub fn picture(file: &Path, colour: impl Fn(u32, u32) -> [u8; 3]) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    RgbImage::from_fn(SIDE, SIDE, |x, y| Rgb(colour(x, y)))
        .save(file)
        .unwrap();
}

/// The tensors of a safetensors file.
#[track_caller]
pub fn tensors(file: &Path) -> BTreeMap<String, Tensor> {
    let tensors = candle_core::safetensors::load(file, &Device::Cpu);
    tensors
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()))
        .into_iter()
        .collect()
}

/// The numbers of a tensor.
pub fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .flatten_all()
        .unwrap()
        .to_dtype(DType::F32)
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// A file or folder of `tests/goldens`.
pub fn goldens(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("goldens")
        .join(path)
}
