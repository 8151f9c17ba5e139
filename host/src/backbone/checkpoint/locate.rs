//! Finds the configuration and weights of a backbone in what a user points at.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::Error;

/// The names that diffusers and transformers give a model's weights, before the variant and the ending.
const STEMS: [&str; 3] = ["diffusion_pytorch_model", "model", "pytorch_model"];

/// The folders of a pipeline that hold a network that denoises.
const NETWORKS: [&str; 2] = ["transformer", "unet"];

/// What a path turned out to be.
pub(super) enum Found {
    /// A diffusers model folder; several files when sharded.
    Folder {
        config: PathBuf,
        weights: Vec<PathBuf>,
    },
    /// A weights file by itself, and the `config.json` beside it if there is one.
    File {
        config: Option<PathBuf>,
        weights: PathBuf,
    },
}

/// # Errors
/// When nothing is there, or a folder lacks its configuration or weights, or is a pipeline without a network that is known.
pub(super) fn locate(path: &Path) -> Result<Found, Error> {
    if path.is_file() {
        let config = path.with_file_name("config.json");
        return Ok(Found::File {
            config: config.is_file().then_some(config),
            weights: path.to_owned(),
        });
    }
    if !path.is_dir() {
        return Err(Error::Missing {
            path: path.to_owned(),
        });
    }
    let nested = NETWORKS.map(|name| path.join(name));
    let dir = (nested.into_iter())
        .find(|nested| nested.join("config.json").is_file())
        .unwrap_or_else(|| path.to_owned());
    let config = dir.join("config.json");
    if !config.is_file() {
        return Err(no_config(path));
    }
    let weights = weights_in(&dir)?;
    Ok(Found::Folder { config, weights })
}

/// A pipeline of another architecture is worth naming; anything else is a folder without a model.
fn no_config(dir: &Path) -> Error {
    let index = dir.join("model_index.json");
    let pipeline: Option<Value> = std::fs::read_to_string(&index)
        .ok()
        .and_then(|text| serde_json::from_str(&text).ok());
    if let Some(pipeline) = pipeline
        && let Some(class) = pipeline["_class_name"].as_str()
        && NETWORKS.iter().all(|name| pipeline[name].is_null())
    {
        return Error::UnsupportedClass {
            file: index.display().to_string(),
            found: class.to_owned(),
        };
    }
    Error::NoConfig {
        dir: dir.to_owned(),
        looked_for: "transformer/config.json, unet/config.json, config.json".to_owned(),
    }
}

/// One file, or the shards an index names. Full precision wins over variants (`fp16`), safetensors over pickles.
pub(super) fn weights_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let named = |ending: &str| {
        let files = STEMS.map(|stem| dir.join(format!("{stem}.{ending}")));
        files.into_iter().find(|file| file.is_file())
    };
    if let Some(single) = named("safetensors") {
        return Ok(vec![single]);
    }
    if let Some(index) = named("safetensors.index.json") {
        return shards(dir, &index);
    }
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(|source| Error::Io {
            path: dir.to_owned(),
            source,
        })?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| STEMS.iter().any(|stem| name.starts_with(stem)))
        .collect();
    names.sort();
    let is_index = |name: &&String| name.contains(".index.") && name.ends_with(".json");
    if let Some(index) = names.iter().find(is_index) {
        return shards(dir, &dir.join(index));
    }
    let variant = names
        .iter()
        .find(|name| name.ends_with(".safetensors"))
        .or_else(|| names.iter().find(|name| name.ends_with(".bin")));
    match variant {
        Some(name) => Ok(vec![dir.join(name)]),
        None => Err(Error::NoWeights {
            dir: dir.to_owned(),
            looked_for: STEMS[..2]
                .iter()
                .map(|stem| format!("{stem}.safetensors, {stem}.safetensors.index.json, {stem}.<variant>.safetensors, {stem}.bin"))
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The variant, such as `fp16`, that is all a folder has of its weights; nothing where they are in full precision, or missing.
pub(crate) fn only_variant(dir: &Path) -> Option<String> {
    let weights = weights_in(dir).ok()?;
    let name = weights.first()?.file_name()?.to_str()?;
    let stem = STEMS.iter().find(|stem| name.starts_with(**stem))?;
    // `fp16.safetensors`, or of a shard `fp16-00001-of-00002.safetensors`.
    let rest = name.strip_prefix(stem)?.strip_prefix('.')?;
    let end = rest.find(['.', '-'])?;
    Some(rest[..end].to_owned())
}

fn shards(dir: &Path, index: &Path) -> Result<Vec<PathBuf>, Error> {
    let malformed = |reason: String| Error::Json {
        file: index.display().to_string(),
        reason,
    };
    let text = std::fs::read_to_string(index).map_err(|source| Error::Io {
        path: index.to_owned(),
        source,
    })?;
    let value: Value = serde_json::from_str(&text).map_err(|error| malformed(error.to_string()))?;
    let map = value["weight_map"]
        .as_object()
        .ok_or_else(|| malformed("there is no `weight_map`".to_owned()))?;
    let names: BTreeSet<&str> = map.values().filter_map(Value::as_str).collect();
    let mut files = Vec::new();
    for name in names {
        // A shard is a neighbour of its index; anything else is not an index diffusers wrote.
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(malformed(format!("`{name}` is not a file name")));
        }
        let file = dir.join(name);
        if !file.is_file() {
            return Err(malformed(format!(
                "it names the shard `{name}`, which is not there"
            )));
        }
        files.push(file);
    }
    match files.is_empty() {
        true => Err(malformed("its `weight_map` is empty".to_owned())),
        false => Ok(files),
    }
}
