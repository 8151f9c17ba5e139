//! Runs the raw network on inputs from a file: how anyone checks a checkpoint against another framework.

use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::{Backbone, Conditioning, Error, Input, Pass};

/// Reads `latents` `[B, C, H, W]` (any float type), `timesteps` `[B]` (any numeric type) and `class_labels` `[B]` (any integer type; absent means the null class) from a safetensors
/// file, and writes `prediction` `[B, C_out, H, W]` in f32 to another. Returns the prediction.
///
/// # Errors
/// When the file cannot be read, lacks an input, or holds one that the backbone refuses.
pub fn forward_file(backbone: &Backbone, inputs: &Path, output: &Path) -> Result<Tensor, Error> {
    let refuse = |reason: String| Error::Inputs {
        file: inputs.to_owned(),
        reason,
    };
    if !inputs.is_file() {
        return Err(Error::Io {
            path: inputs.to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    let tensors = candle_core::safetensors::load(inputs, &Device::Cpu)
        .map_err(|error| refuse(error.to_string()))?;
    let device = backbone.device();
    let get = |name: &str| match tensors.get(name) {
        Some(tensor) => Ok(tensor.to_device(device)?),
        None => Err(refuse(format!(
            "there is no `{name}` (there is: {})",
            names(&tensors)
        ))),
    };
    let latents = get("latents")?.to_dtype(DType::F32)?; // [B, C, H, W]
    let timesteps = get("timesteps")?; // [B]
    let labels = match tensors.contains_key("class_labels") {
        true => get("class_labels")?,
        false => Tensor::full(
            backbone.info().num_classes as u32,
            timesteps.shape(),
            device,
        )?,
    }; // [B]
    let conditioning = Conditioning::classes(labels);
    let input = Input {
        latents: &latents,
        timesteps: &timesteps,
        conditioning: &conditioning,
    };
    let prediction = backbone
        .forward(&input, &Pass::frozen())
        .map_err(|error| refuse(error.to_string()))?; // [B, C_out, H, W]
    let results = HashMap::from([("prediction", prediction.to_device(&Device::Cpu)?)]);
    candle_core::safetensors::save(&results, output).map_err(|error| Error::Io {
        path: output.to_owned(),
        source: std::io::Error::other(error.to_string()),
    })?;
    Ok(prediction)
}

fn names(tensors: &HashMap<String, Tensor>) -> String {
    let mut names: Vec<&str> = tensors.keys().map(String::as_str).collect();
    names.sort_unstable();
    match names.is_empty() {
        true => "nothing".to_owned(),
        false => names.join(", "),
    }
}
