//! Finds an adapter's file in what a user points at, and reads it into tensors by module.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use sha2::{Digest, Sha256};

use super::config::PeftConfig;
use super::error::Error;
use super::keys::{self, Key, Module};

/// PEFT's names for an adapter and what says how it is meant.
const PEFT_WEIGHTS: &str = "adapter_model.safetensors";
const PEFT_CONFIG: &str = "adapter_config.json";
/// The name of diffusers, also in a run's `adapter/`.
const DIFFUSERS_WEIGHTS: &str = "pytorch_lora_weights.safetensors";
/// Where diffusers puts PEFT's configuration in a file's header.
const METADATA: &str = "lora_adapter_metadata";

/// An adapter file as read: tensors by module, before any backbone.
#[derive(Debug)]
pub struct AdapterWeights {
    /// The file of tensors.
    pub path: PathBuf,
    /// SHA-256 of that file and of the configuration beside it, hexadecimal.
    pub sha256: String,
    pub(super) config: PeftConfig,
    /// The parts of each module of the denoiser.
    pub(super) modules: BTreeMap<Module, Parts>,
    /// Keys that name no part of an adapter.
    pub(super) strange: Vec<String>,
    /// Keys for other parts of a pipeline.
    pub(super) elsewhere: usize,
}

/// One module's tensors as stored, by part.
#[derive(Debug, Default)]
pub(super) struct Parts {
    pub(super) tensors: BTreeMap<&'static str, Tensor>,
    /// The keys in the file.
    pub(super) keys: Vec<String>,
}

impl AdapterWeights {
    /// Reads an adapter: a `.safetensors` file, a folder of PEFT's or diffusers', or a run folder.
    ///
    /// # Errors
    /// When there is none, or it is a pickle, damaged, a model's weights, or of a method that is not read.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let path = locate(path)?;
        let bytes = read(&path)?;
        let mut hash = Sha256::new();
        hash.update(&bytes);
        let (header, metadata) = SafeTensors::read_metadata(&bytes)
            .map_err(|error| no_safetensors(&path, &bytes, &error))?;
        let available = bytes.len().saturating_sub(header + size_of::<u64>());
        if metadata.data_len() != available {
            let promised = metadata.data_len();
            return Err(Error::Unreadable {
                path,
                reason: format!(
                    "its header promises {promised} bytes of tensors and {available} are there"
                ),
            });
        }
        let inside = metadata
            .metadata()
            .as_ref()
            .and_then(|texts| texts.get(METADATA));
        let beside = path.with_file_name(PEFT_CONFIG);
        let config = match inside {
            Some(text) => config(text, &path)?,
            None if path.ends_with(PEFT_WEIGHTS) && beside.is_file() => {
                let text = read(&beside)?;
                hash.update(&text);
                config(&String::from_utf8_lossy(&text), &beside)?
            }
            None => PeftConfig::default(),
        };
        let digest: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let mut weights = Self {
            path,
            sha256: digest,
            config,
            modules: BTreeMap::new(),
            strange: Vec::new(),
            elsewhere: 0,
        };
        let data = &bytes[header + size_of::<u64>()..];
        for (key, info) in metadata.tensors() {
            match keys::parse(&key) {
                None => weights.strange.push(key),
                Some(Key {
                    module: Module::Elsewhere,
                    ..
                }) => weights.elsewhere += 1,
                Some(Key { module, part }) => {
                    let tensor = weights.tensor(&key, info, data)?;
                    let parts = weights.modules.entry(module).or_default();
                    parts.tensors.insert(part, tensor);
                    parts.keys.push(key);
                }
            }
        }
        weights.strange.sort_unstable();
        for parts in weights.modules.values_mut() {
            parts.keys.sort_unstable();
        }
        weights.refuse_models()?;
        Ok(weights)
    }

    fn tensor(
        &self,
        key: &str,
        info: &safetensors::tensor::TensorInfo,
        data: &[u8],
    ) -> Result<Tensor, Error> {
        let dtype = match info.dtype {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            // Some tools keep alpha as a whole number.
            Dtype::I64 => DType::I64,
            other => {
                return Err(Error::Unreadable {
                    path: self.path.clone(),
                    reason: format!(
                        "`{key}` is stored as {other:?}; expected f32, f16, bf16 or f64"
                    ),
                });
            }
        };
        let (from, to) = info.data_offsets;
        let stored = Tensor::from_raw_buffer(&data[from..to], dtype, &info.shape, &Device::Cpu)?;
        Ok(stored.to_dtype(DType::F32)?)
    }

    /// A file without a single adapter's part is a model's weights.
    fn refuse_models(&self) -> Result<(), Error> {
        let parts = self.modules.values().flat_map(|parts| parts.tensors.keys());
        if self.elsewhere > 0 || parts.copied().any(keys::is_adapter) {
            return Ok(());
        }
        let reason = match self.modules.values().flat_map(|parts| &parts.keys).next() {
            Some(first) => format!(
                "its tensors are weights of a whole model (such as `{first}`); give that as --backbone"
            ),
            None => match self.strange.first() {
                Some(first) => format!("no key of it names a part of one (the first is `{first}`)"),
                None => "it holds no tensors".to_owned(),
            },
        };
        Err(Error::NoAdapter {
            path: self.path.clone(),
            reason,
        })
    }
}

fn config(text: &str, file: &Path) -> Result<PeftConfig, Error> {
    let config = PeftConfig::parse(text).map_err(|reason| Error::Unreadable {
        path: file.to_owned(),
        reason,
    })?;
    match &config.peft_type {
        Some(kind) if !["LORA", "LOHA", "LOKR", "IA3"].contains(&kind.as_str()) => {
            Err(Error::Unsupported {
                path: file.to_owned(),
                found: kind.clone(),
            })
        }
        _ => Ok(config),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(path).map_err(|error| Error::Unreadable {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}

/// What a file is that is not safetensors: pickles are common enough to be told.
fn no_safetensors(path: &Path, bytes: &[u8], error: &safetensors::SafeTensorError) -> Error {
    let path = path.to_owned();
    // A zip of torch's, or a bare pickle of any protocol since 2.
    if bytes.starts_with(b"PK")
        || bytes.starts_with(&[0x80])
            && bytes.get(1).is_some_and(|&byte| (2..=5).contains(&byte))
            && bytes.get(8) != Some(&b'{')
    {
        return Error::Pickle { path };
    }
    let reason = match bytes.is_empty() {
        true => "the file is empty".to_owned(),
        false => format!("it is no complete safetensors file ({error})"),
    };
    Error::Unreadable { path, reason }
}

/// The file of tensors at a path: itself, or the one that the folder has.
fn locate(path: &Path) -> Result<PathBuf, Error> {
    if path.is_file() {
        let pickle = ["bin", "pt", "pth", "ckpt", "pkl"];
        return match path.extension() {
            Some(ending) if pickle.iter().any(|pickle| ending == *pickle) => Err(Error::Pickle {
                path: path.to_owned(),
            }),
            _ => Ok(path.to_owned()),
        };
    }
    if !path.is_dir() {
        return Err(Error::Missing {
            path: path.to_owned(),
        });
    }
    // A run folder keeps its result in `adapter/`.
    let inside = path.join("adapter");
    let dir = match inside.is_dir() {
        true => inside.as_path(),
        false => path,
    };
    for name in [PEFT_WEIGHTS, DIFFUSERS_WEIGHTS] {
        if dir.join(name).is_file() {
            return Ok(dir.join(name));
        }
    }
    let folder = |problem: String| Error::Folder {
        path: dir.to_owned(),
        problem,
    };
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .map_err(|error| folder(format!("cannot be read: {error}")))?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    let files: Vec<&String> = names
        .iter()
        .filter(|name| name.ends_with(".safetensors"))
        .collect();
    if let [file] = files.as_slice()
        && !file.starts_with("diffusion_pytorch_model")
    {
        return Ok(dir.join(file));
    }
    if let Some(pickle) = ["adapter_model.bin", "pytorch_lora_weights.bin"]
        .iter()
        .find(|name| dir.join(name).is_file())
    {
        return Err(Error::Pickle {
            path: dir.join(pickle),
        });
    }
    // A run of which several plugins have adapters keeps each in a folder.
    let below: Vec<String> = names
        .iter()
        .map(|name| dir.join(name))
        .filter(|below| {
            let mut files = [PEFT_WEIGHTS, DIFFUSERS_WEIGHTS].iter();
            files.any(|name| below.join(name).is_file())
        })
        .map(|below| below.display().to_string())
        .collect();
    let whole = ["model_index.json", "transformer", "unet", "config.json"];
    Err(folder(match files.len() {
        0 | 1 if whole.iter().any(|name| dir.join(name).exists()) => {
            "holds a whole model and no adapter; give it as --backbone".to_owned()
        }
        0 if !below.is_empty() => format!(
            "holds the adapters of several plugins; name one: {}",
            below.join(", ")
        ),
        0 => format!(
            "holds no adapter: looked for {PEFT_WEIGHTS}, {DIFFUSERS_WEIGHTS} and any other .safetensors file"
        ),
        _ => {
            let names: Vec<&str> = files.iter().take(3).map(|name| name.as_str()).collect();
            format!(
                "holds {} .safetensors files ({}{}); name one",
                files.len(),
                names.join(", "),
                if files.len() > 3 { ", ..." } else { "" }
            )
        }
    }))
}
