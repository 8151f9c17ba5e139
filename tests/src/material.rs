//! A tiny backbone with something to say, a few pictures, and readers for what runs leave behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use host::backbone::{Backbone, Config, DitConfig, Overlay};
use host::diffusion::SchedulerConfig;
use host::random::Stream;
use host::text::{ClipConfig, ClipText, make_tokenizer};
use image::{Rgb, RgbImage};
use serde_json::{Value, json};

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

/// Captions that the tokenizer of [`write_text_pipeline`] is made of, and those of [`write_captioned`].
const CAPTIONS: [&str; 4] = [
    "dark stripes",
    "light stripes",
    "dark blobs on a floor",
    "light blobs on a floor",
];

/// Writes a pipeline as Stable Diffusion's: a UNet of 8x8 latents that attends to texts of 12 tokens, an autoencoder whose pictures are twice as high and wide, a
/// text encoder, its tokenizer, and a scheduler.
pub(crate) fn write_text_pipeline(folder: &Path) {
    let golden = goldens("unet/sd1/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    config["cross_attention_dim"] = json!(16);
    let config = Config::from_json(&config.to_string(), "config.json").unwrap();
    let fresh = Backbone::init(config, 1, &Device::Cpu).unwrap();
    // What is added starts at zero in a fresh network: nothing would depend on anything.
    let mut overlay = Overlay::new();
    for (name, tensor) in fresh.parameters().filter(|(_, t)| t.rank() > 1) {
        let fan_in: usize = tensor.dims()[1..].iter().product();
        let random = Stream::new(2, name)
            .normal(tensor.shape(), &Device::Cpu)
            .unwrap();
        let scaled = (random * (1.0 / fan_in as f64).sqrt()).unwrap();
        overlay.insert(name.to_owned(), scaled);
    }
    fresh.save(folder, &overlay, DType::F32).unwrap();
    copy(&goldens("vae/plain"), &folder.join("vae"));
    let texts = CAPTIONS.iter().map(|text| (*text).to_owned());
    let tokens = make_tokenizer(texts, 12, &folder.join("tokenizer")).unwrap();
    let config = ClipConfig {
        vocab_size: tokens,
        hidden_size: 16,
        intermediate_size: 32,
        projection_dim: 16,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        max_position_embeddings: 12,
        eos_token_id: tokens as u32 - 1,
        architectures: vec!["CLIPTextModel".to_owned()],
        ..ClipConfig::default()
    };
    let encoder = ClipText::init(config, 3).unwrap();
    let place = folder.join("text_encoder");
    encoder.save(&place, &Overlay::new(), DType::F32).unwrap();
    let scheduler = folder.join("scheduler");
    std::fs::create_dir_all(&scheduler).unwrap();
    SchedulerConfig::default()
        .write(&scheduler.join("scheduler_config.json"))
        .unwrap();
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
    });
    std::fs::write(folder.join("model_index.json"), index.to_string()).unwrap();
}

/// Writes four pictures without classes, 24 pixels wide and 16 high but for one square, each with a text file of its name.
pub(crate) fn write_captioned(folder: &Path) {
    for (number, caption) in CAPTIONS.into_iter().enumerate() {
        let shade = |x: u32, y: u32| {
            let stripe = match number {
                0 | 1 => x / 3 % 2,
                _ => (x / 5 + y / 4) % 2,
            };
            let level = (stripe * 100) as u8 + 120 * (number % 2) as u8;
            [level, 255 - level, (10 * x) as u8]
        };
        let width = if number == 3 { 16 } else { 24 };
        let file = folder.join(format!("{number}.png"));
        sized_picture(&file, (width, 16), shade);
        std::fs::write(file.with_extension("txt"), caption).unwrap();
    }
}

/// Copies a folder.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
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
    sized_picture(file, (SIDE, SIDE), colour);
}

/// Writes a PNG of this width and height; the folders above it are made.
fn sized_picture(file: &Path, (width, height): (u32, u32), colour: impl Fn(u32, u32) -> [u8; 3]) {
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    RgbImage::from_fn(width, height, |x, y| Rgb(colour(x, y)))
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
