//! The parts of an exported pipeline beside its network: scheduler, autoencoder, text encoders, and the index that names them.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};
use serde_json::{Value, json};

use super::{Error, Session};
use crate::backbone::{Overlay, only_variant};
use crate::encode::Vae;
use crate::{fs, pretrained, text};

/// Writes what makes a pipeline of a network: its scheduler, its index, and the other parts of the pipeline that it came from.
pub(super) fn parts(
    dir: &Path,
    session: &Session,
    source: Option<&Path>,
    dtype: DType,
) -> Result<(), Error> {
    let root = source.and_then(pipeline_root);
    let mut index = match &root {
        Some(root) => read_json(&root.join("model_index.json"))?,
        None => without_index(session),
    };
    if root.is_none() && source.is_none() {
        let names = pretrained::embedded_classes();
        let labels: serde_json::Map<String, Value> = (0..)
            .zip(names)
            .map(|(label, name): (usize, String)| (label.to_string(), json!(name)))
            .collect();
        index["id2label"] = Value::Object(labels);
    }
    let network = session.backbone.config();
    index[network.folder()] = json!(["diffusers", network.class_name()]);
    let config = session.process.config();
    if let Some(root) = &root {
        let parts = index.as_object().into_iter().flatten();
        let folders = parts.filter(|(name, class)| class.is_array() && *name != network.folder());
        for (name, _) in folders {
            let from = root.join(name);
            if from.is_dir() {
                copy_part(&from, &dir.join(name))?;
            }
        }
    }
    // Not every index names the autoencoder that lies beside the network.
    if let Some(from) = source.and_then(pretrained::vae_folder) {
        let to = dir.join("vae");
        if !to.is_dir() {
            match from.is_file() {
                // The file of a whole pipeline.
                true => {
                    let vae = Vae::open(&from, &Device::Cpu)?;
                    let scale = vae.config().scaling_factor;
                    vae.save(&to, &Overlay::new(), scale, dtype)?;
                }
                false => copy_part(&from, &to)?,
            }
            index["vae"] = json!(["diffusers", "AutoencoderKL"]);
        }
    }
    // Of the file of a whole pipeline; a folder's were copied.
    for encoder in source.map_or(Ok(Vec::new()), |file| {
        text::write_encoders(file, dir, dtype)
    })? {
        index[encoder.part] = json!(["transformers", encoder.class]);
        let beside = source.map(|file| file.with_file_name(encoder.tokenizer));
        if let Some(beside) = beside.filter(|beside| beside.is_dir()) {
            copy_tree(&beside, &dir.join(encoder.tokenizer))?;
            index[encoder.tokenizer] = json!(["transformers", "CLIPTokenizer"]);
        }
    }
    let scheduler = dir.join("scheduler");
    if !scheduler.is_dir() {
        create(&scheduler)?;
        config.write(&scheduler.join("scheduler_config.json"))?;
        index["scheduler"] = json!(["diffusers", config.class_name]);
    }
    // diffusers asks for every part of a DiT's pipeline, and takes this for "there is none".
    if index["_class_name"] == "DiTPipeline" && index["vae"].is_null() {
        index["vae"] = json!([null, null]);
    }
    Ok(fs::write_atomic(
        &dir.join("model_index.json"),
        format!("{index:#}\n").as_bytes(),
    )?)
}

/// The index of a network that came without one. diffusers asks for every part of a pipeline, and takes two nulls for "there is none".
fn without_index(session: &Session) -> Value {
    let info = session.backbone.info();
    let (class, parts): (&str, &[&str]) = match (info.cross_attention, info.text_embeds) {
        (None, _) => ("DiTPipeline", &["vae"]),
        (Some(_), None) => (
            "StableDiffusionPipeline",
            &[
                "vae",
                "text_encoder",
                "tokenizer",
                "safety_checker",
                "feature_extractor",
            ],
        ),
        (Some(_), Some(_)) => (
            "StableDiffusionXLPipeline",
            &[
                "vae",
                "text_encoder",
                "text_encoder_2",
                "tokenizer",
                "tokenizer_2",
            ],
        ),
    };
    let mut index = json!({ "_class_name": class });
    for part in parts {
        index[*part] = json!([null, null]);
        if *part == "safety_checker" {
            index["requires_safety_checker"] = json!(false);
        }
    }
    index
}

/// The pipeline that a path is of: itself, or the folder above its network's.
fn pipeline_root(path: &Path) -> Option<PathBuf> {
    [Some(path), path.parent()]
        .into_iter()
        .flatten()
        .find(|root| root.join("model_index.json").is_file())
        .map(Path::to_path_buf)
}

/// Copies a part's folder. Weights of which there is only a variant, such as `.fp16`, lose its name: the network beside them is of none, and diffusers asks all parts for the same.
fn copy_part(from: &Path, to: &Path) -> Result<(), Error> {
    copy_tree(from, to)?;
    let Some(variant) = only_variant(from) else {
        return Ok(());
    };
    let plain = |name: &str| name.replacen(&format!(".{variant}"), "", 1);
    let entries = std::fs::read_dir(from).map_err(|error| fs::Error::io("read", from, error))?;
    for entry in entries {
        let name = entry
            .map_err(|error| fs::Error::io("read", from, error))?
            .file_name();
        let Some(name) = name.to_str().filter(|name| plain(name) != **name) else {
            continue;
        };
        let (old, new) = (to.join(name), to.join(plain(name)));
        if name.ends_with(".json") {
            let mut index = read_json(&old)?;
            for shard in index["weight_map"].as_object_mut().into_iter().flatten() {
                *shard.1 = json!(plain(shard.1.as_str().unwrap_or_default()));
            }
            fs::write_atomic(&new, index.to_string().as_bytes())?;
            std::fs::remove_file(&old).map_err(|error| fs::Error::io("remove", &old, error))?;
        } else {
            std::fs::rename(&old, &new).map_err(|error| fs::Error::io("rename", &old, error))?;
        }
    }
    Ok(())
}

fn read_json(path: &Path) -> Result<Value, Error> {
    let unreadable = |reason: String| Error::Unreadable {
        path: path.to_path_buf(),
        reason,
    };
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))
}

fn create(dir: &Path) -> Result<(), Error> {
    Ok(std::fs::create_dir_all(dir).map_err(|error| fs::Error::io("create", dir, error))?)
}

/// Copies a folder with all that is in it.
///
/// # Errors
/// A disk that refuses.
pub(super) fn copy_tree(from: &Path, to: &Path) -> Result<(), Error> {
    create(to)?;
    let entries = std::fs::read_dir(from).map_err(|error| fs::Error::io("read", from, error))?;
    for entry in entries {
        let path = entry
            .map_err(|error| fs::Error::io("read", from, error))?
            .path();
        let target = to.join(path.file_name().unwrap_or_default());
        match path.is_dir() {
            true => copy_tree(&path, &target)?,
            false => {
                std::fs::copy(&path, &target)
                    .map_err(|error| fs::Error::io("copy", &path, error))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The names of the files in the copy of a folder that has these.
    fn copied(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        std::fs::create_dir(&from).unwrap();
        for (name, content) in files {
            std::fs::write(from.join(name), content).unwrap();
        }
        copy_part(&from, &dir.path().join("to")).unwrap();
        let entries = std::fs::read_dir(dir.path().join("to")).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        (dir, names)
    }

    #[test]
    fn weights_of_a_variant_alone_lose_its_name_in_a_copy() {
        let (_dir, names) = copied(&[("config.json", "{}"), ("model.fp16.safetensors", "")]);
        assert_eq!(names, ["config.json", "model.safetensors"]);
        let both = [("model.fp16.safetensors", ""), ("model.safetensors", "")];
        assert_eq!(copied(&both).1, both.map(|(name, _)| name));

        let shard = "model.fp16-00001-of-00001.safetensors";
        let index = format!(r#"{{"weight_map": {{"a.fp16.weight": "{shard}"}}}}"#);
        let (dir, names) = copied(&[("model.safetensors.index.fp16.json", &index), (shard, "")]);
        assert_eq!(
            names,
            [
                "model-00001-of-00001.safetensors",
                "model.safetensors.index.json"
            ]
        );
        let index = read_json(&dir.path().join("to/model.safetensors.index.json")).unwrap();
        assert_eq!(index["weight_map"]["a.fp16.weight"], names[0]);
    }
}
