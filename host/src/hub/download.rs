//! Fetches a model from the hub into the cache, on request only: the files that the host reads, and no others.

use std::path::PathBuf;

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;

use super::{Error, PREFIX, in_cache, parts, root};
use crate::report::{Progress, Task};

/// The folders of a pipeline that the host reads.
const FOLDERS: [&str; 8] = [
    "unet",
    "transformer",
    "vae",
    "text_encoder",
    "text_encoder_2",
    "tokenizer",
    "tokenizer_2",
    "scheduler",
];

/// What a pipeline says of its folders.
const INDEX: &str = "model_index.json";

const MEGABYTE: usize = 1_000_000;

/// Downloads what is not in the cache yet of the model that is named `hf:ORG/NAME` or `hf:ORG/NAME@REVISION`, and gives its folder there. A download that was cut
/// off goes on where it was.
///
/// The hub is the one of `HF_ENDPOINT`, the token that of `HF_TOKEN` or the one that the hub's own tools keep.
///
/// # Errors
/// No such model, one that the host cannot read, a hub that does not answer, or a disk that refuses.
pub fn download(given: &str, progress: &Progress) -> Result<PathBuf, Error> {
    let name = given.strip_prefix(PREFIX).unwrap_or(given);
    let Some((repository, revision)) = parts(name) else {
        return Err(Error::Name(given.to_owned()));
    };
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let root = root(&|name| std::env::var_os(name));
    let cache = Cache::new(root.clone());
    let mut api = ApiBuilder::from_cache(cache.clone()).with_retries(3);
    if let Some(token) = variable("HF_TOKEN") {
        api = api.with_token(Some(token));
    }
    let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
    let refused = |error: ApiError| Error::Download {
        name: given.to_owned(),
        endpoint: endpoint.clone(),
        reason: error.to_string(),
    };
    let api = api
        .with_endpoint(endpoint.clone())
        .build()
        .map_err(refused)?;
    let repo = Repo::with_revision(repository.to_owned(), RepoType::Model, revision.to_owned());
    let cached = cache.repo(repo.clone());
    let remote = api.repo(repo);
    let fetch = |file: &str| match cached.get(file) {
        Some(path) => Ok(path),
        None => fetch(&remote, file, progress).map_err(refused),
    };

    let info = remote.info().map_err(refused)?;
    let files: Vec<&str> = (info.siblings.iter())
        .map(|file| file.rfilename.as_str())
        .collect();
    let wanted = match (files.contains(&INDEX), files.contains(&"config.json")) {
        (true, _) => {
            let text = std::fs::read_to_string(fetch(INDEX)?)
                .map_err(|error| refused(ApiError::IoError(error)))?;
            let index: Value = serde_json::from_str(&text).unwrap_or_default();
            let there = |folder: &&str| index[*folder][1].is_string();
            let folders = FOLDERS.into_iter().filter(there);
            folders.flat_map(|folder| needed(&files, folder)).collect()
        }
        (false, true) => needed(&files, ""),
        (false, false) => return Err(Error::NoModel(given.to_owned())),
    };
    for file in wanted {
        fetch(file)?;
    }
    in_cache(&root, name)
}

/// The files of a folder that the host reads: weights in one format, and what describes them. The weights come first, so that a folder is described only when it is whole.
fn needed<'a>(files: &[&'a str], folder: &str) -> Vec<&'a str> {
    let within = |file: &&'a str| {
        let name = match folder {
            "" => Some(*file),
            folder => (file.strip_prefix(folder)).and_then(|name| name.strip_prefix('/')),
        };
        let name = name.filter(|name| !name.contains('/'))?;
        Some((name, *file))
    };
    let inside: Vec<(&str, &str)> = files.iter().filter_map(within).collect();
    let best = (inside.iter())
        .filter_map(|(name, _)| Weights::of(name))
        .min();
    let of = |wanted: &dyn Fn(&str) -> bool| {
        let chosen = inside.iter().filter(|(name, _)| wanted(name));
        chosen.map(|(_, file)| *file).collect::<Vec<_>>()
    };
    let mut chosen = of(&|name| best.is_some() && Weights::of(name) == best);
    chosen.extend(of(&|name| {
        name.ends_with(".json") || name.ends_with(".txt")
    }));
    chosen
}

/// A format in which a folder has its weights, the best one first: full precision wins over variants, safetensors over pickles.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Weights<'a> {
    pickled: bool,
    /// Such as `fp16`; empty for full precision.
    variant: &'a str,
    stem: &'a str,
}

impl<'a> Weights<'a> {
    /// Of a file such as `model.safetensors`, `model.fp16.safetensors` or `model-00001-of-00002.safetensors`.
    fn of(name: &'a str) -> Option<Self> {
        let (rest, pickled) = match name.strip_suffix(".safetensors") {
            Some(rest) => (rest, false),
            None => (name.strip_suffix(".bin")?, true),
        };
        let stems = ["diffusion_pytorch_model", "pytorch_model", "model"];
        let stem = stems.into_iter().find(|stem| rest.starts_with(stem))?;
        let variant = match rest[stem.len()..].strip_prefix('.') {
            Some(variant) => variant.split('-').next().unwrap_or(variant),
            None => "",
        };
        Some(Self {
            pickled,
            variant,
            stem,
        })
    }
}

fn fetch(remote: &ApiRepo, file: &str, progress: &Progress) -> Result<PathBuf, ApiError> {
    let bar = Bar {
        progress: progress.clone(),
        task: None,
        done: 0,
    };
    remote.download_with_progress(file, bar)
}

/// The progress of one file, in megabytes.
struct Bar {
    progress: Progress,
    task: Option<Task>,
    done: usize,
}

impl hf_hub::api::Progress for Bar {
    fn init(&mut self, size: usize, file: &str) {
        let total = size.div_ceil(MEGABYTE) as u64;
        self.task = Some(self.progress.count(file, "MB", total));
    }

    fn update(&mut self, size: usize) {
        self.done += size;
        if let Some(task) = &mut self.task {
            task.set((self.done / MEGABYTE) as u64);
        }
    }

    fn finish(&mut self) {
        if let Some(mut task) = self.task.take() {
            task.set(self.done.div_ceil(MEGABYTE) as u64);
            task.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_come_in_one_format_and_before_what_describes_them() {
        let check = |files: &[&str], folder: &str, expected: &[&str]| {
            assert_eq!(needed(files, folder), expected);
        };
        let unet = [
            "unet/config.json",
            "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.fp16.safetensors",
            "unet/diffusion_pytorch_model.non_ema.safetensors",
            "unet/diffusion_pytorch_model.safetensors",
            "unet/deeper/model.safetensors",
            "vae/config.json",
            "README.md",
        ];
        let plain = "unet/diffusion_pytorch_model.safetensors";
        check(&unet, "unet", &[plain, "unet/config.json"]);
        check(&unet, "vae", &["vae/config.json"]);
        let variants = [unet[0], unet[1], unet[2], unet[3]];
        check(&variants, "unet", &[unet[2], unet[0]]);
        check(&unet[..2], "unet", &[unet[1], unet[0]]);
        let shards = [
            "config.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "pytorch_model.bin",
        ];
        let expected = [shards[1], shards[2], shards[0], shards[3]];
        check(&shards, "", &expected);
        let tokenizer = ["tokenizer/merges.txt", "tokenizer/vocab.json"];
        check(&tokenizer, "tokenizer", &tokenizer);
    }
}
