//! Runs the raw network on inputs from a file: how anyone checks a checkpoint against another framework.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::{Backbone, CLASS_LABELS, Conditioning, Error, Input, Pass};

/// Reads `latents` `[B, C, H, W]` (any float type), `timesteps` `[B]` (any numeric type) and the conditioning from a safetensors file, and writes `prediction`
/// `[B, C_out, H, W]` in f32 to another. Returns the prediction.
///
/// The conditioning of a DiT is `class_labels` `[B]` (any integer type; absent means the null class); of a UNet `encoder_hidden_states` `[B, S, D]`, and of SDXL's also `text_embeds`
/// `[B, P]` and `time_ids` `[B, 6]`.
///
/// # Errors
/// When the file cannot be read, lacks an input, or holds one that the backbone refuses.
pub fn forward_file(backbone: &Backbone, inputs: &Path, output: &Path) -> Result<Tensor, Error> {
    let inputs = InputsFile::open(inputs, backbone.device())?;
    let latents = inputs.get("latents")?.to_dtype(DType::F32)?; // [B, C, H, W]
    let timesteps = inputs.get("timesteps")?; // [B]
    let mut conditioning = Conditioning::default();
    for name in backbone.info().reads() {
        let tensor = match inputs.has(name) || name != CLASS_LABELS {
            true => inputs.get(name)?,
            false => Tensor::full(
                backbone.info().null_class(),
                timesteps.shape(),
                backbone.device(),
            )?, // [B]
        };
        conditioning.tensors.insert(name.to_owned(), tensor);
    }
    let input = Input {
        latents: &latents,
        timesteps: &timesteps,
        conditioning: &conditioning,
    };
    let prediction = inputs.accepted(backbone.forward(&input, &Pass::frozen()))?; // [B, C_out, H, W]
    write_prediction(&prediction, output)?;
    Ok(prediction)
}

/// A safetensors file of a network's inputs.
pub struct InputsFile {
    path: PathBuf,
    tensors: HashMap<String, Tensor>,
    device: Device,
}

impl InputsFile {
    /// Reads the file.
    ///
    /// # Errors
    /// A file that is missing or is no safetensors file.
    pub fn open(path: &Path, device: &Device) -> Result<Self, Error> {
        if !path.is_file() {
            return Err(Error::Io {
                path: path.to_owned(),
                source: std::io::ErrorKind::NotFound.into(),
            });
        }
        let tensors =
            candle_core::safetensors::load(path, &Device::Cpu).map_err(|error| Error::Inputs {
                file: path.to_owned(),
                reason: error.to_string(),
            })?;
        Ok(Self {
            path: path.to_owned(),
            tensors,
            device: device.clone(),
        })
    }

    /// Whether there is an input of that name.
    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The input of that name, as stored, on the device.
    ///
    /// # Errors
    /// There is none; the sentence lists what there is.
    pub fn get(&self, name: &str) -> Result<Tensor, Error> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor.to_device(&self.device)?),
            None => Err(self.refuse(format!(
                "there is no `{name}` (there is: {})",
                names(&self.tensors)
            ))),
        }
    }

    /// What a network made of the inputs; its refusal names the file.
    ///
    /// # Errors
    /// The network's.
    pub fn accepted<T>(&self, result: candle_core::Result<T>) -> Result<T, Error> {
        result.map_err(|error| self.refuse(error.to_string()))
    }

    fn refuse(&self, reason: String) -> Error {
        Error::Inputs {
            file: self.path.clone(),
            reason,
        }
    }
}

/// Writes a file with a `prediction`.
///
/// # Errors
/// A disk that refuses.
pub fn write_prediction(prediction: &Tensor, output: &Path) -> Result<(), Error> {
    write_outputs(&[("prediction".to_owned(), prediction.clone())], output)
}

/// Writes a file of tensors, in f32.
///
/// # Errors
/// A disk that refuses.
pub fn write_outputs(outputs: &[(String, Tensor)], output: &Path) -> Result<(), Error> {
    let mut results = HashMap::new();
    for (name, tensor) in outputs {
        let tensor = tensor.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
        results.insert(name.as_str(), tensor.contiguous()?);
    }
    candle_core::safetensors::save(&results, output).map_err(|error| Error::Io {
        path: output.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })
}

fn names(tensors: &HashMap<String, Tensor>) -> String {
    let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    names.sort_unstable();
    match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    }
}
