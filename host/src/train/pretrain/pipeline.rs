//! A latent diffusion pipeline whose parts are ready but for the network, which has learned nothing yet: where `host run` begins to pretrain one.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::super::Error;
use super::super::parts::copy_tree;
use crate::backbone::{Backbone, Overlay, UnetConfig};
use crate::config::RunSection;
use crate::diffusion::SchedulerConfig;
use crate::fs;
use crate::pretrained;

/// What a recipe file for a pipeline holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PipelineRecipe {
    /// Where it goes.
    pub run: RunSection,
    /// The network to make.
    pub unet: UnetConfig,
    /// Its diffusion process.
    pub scheduler: SchedulerConfig,
    /// What else belongs to it.
    pub parts: Parts,
}

/// The parts of a pipeline that are ready.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parts {
    /// The folder that holds the autoencoder's `vae/`.
    pub autoencoder: PathBuf,
    /// The folder that holds `text_encoder/` and `tokenizer/`.
    pub text: PathBuf,
    /// Seed of the network's first weights.
    pub seed: u64,
}

/// Writes the pipeline as a folder of diffusers' `StableDiffusionPipeline`, which appears whole or not at all.
///
/// # Errors
/// Parts that are missing or do not go together, a network that makes no sense, a folder that exists, or a disk that refuses.
pub fn make_pipeline(recipe: &PipelineRecipe, out: &Path) -> Result<(), Error> {
    if out.exists() {
        return Err(Error::FolderExists {
            path: out.to_owned(),
        });
    }
    let parts = [
        ("parts.autoencoder", &recipe.parts.autoencoder, "vae"),
        ("parts.text", &recipe.parts.text, "text_encoder"),
        ("parts.text", &recipe.parts.text, "tokenizer"),
    ];
    for (key, folder, part) in parts {
        if !folder.join(part).is_dir() {
            return Err(Error::Recipe {
                key,
                expected: format!(
                    "a folder with a `{part}/`, and there is none in `{}`",
                    folder.display()
                ),
            });
        }
    }
    // Latents have no bounds; diffusers' processes clip what does not say so.
    let process = SchedulerConfig {
        clip_sample: recipe.scheduler.clip_sample.or(Some(false)),
        ..recipe.scheduler.clone()
    };
    let network = Backbone::init(recipe.unet.clone(), recipe.parts.seed, &Device::Cpu)?;
    fs::publish_dir(out, |dir| {
        network.save(dir, &Overlay::new(), DType::F32)?;
        for (_, folder, part) in parts {
            copy_tree(&folder.join(part), &dir.join(part))?;
        }
        let scheduler = dir.join("scheduler");
        std::fs::create_dir(&scheduler)
            .map_err(|error| fs::Error::io("create", &scheduler, error))?;
        process.write(&scheduler.join("scheduler_config.json"))?;
        let index = json!({
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", process.class_name],
            "safety_checker": [null, null],
            "feature_extractor": [null, null],
            "requires_safety_checker": false,
        });
        let text = format!("{index:#}\n");
        fs::write_atomic(&dir.join("model_index.json"), text.as_bytes())?;
        // Whether the parts go together shows in their headers.
        pretrained::inspect(Some(dir))?;
        Ok(())
    })
}
