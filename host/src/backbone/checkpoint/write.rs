//! Writes a model folder: tensors are converted and streamed one at a time, and no file is replaced before its successor is complete.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use serde_json::{Map, Value, json};

use super::super::Error;

/// Writes `config.json` and `diffusion_pytorch_model.safetensors` into a folder, making it if needed.
pub(crate) fn write_folder(
    dir: &Path,
    config: &str,
    tensors: &BTreeMap<String, &Tensor>,
    dtype: DType,
) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        path: dir.to_owned(),
        source,
    })?;
    replace(&dir.join("diffusion_pytorch_model.safetensors"), |file| {
        write_safetensors(file, tensors, dtype)
    })?;
    replace(&dir.join("config.json"), |file| {
        Ok(file.write_all(config.as_bytes())?)
    })
}

/// Fills a temporary neighbour, flushes it to the disk, then renames it into place.
fn replace(
    path: &Path,
    fill: impl FnOnce(&mut dyn Write) -> candle_core::Result<()>,
) -> Result<(), Error> {
    let io = |source| Error::Io {
        path: path.to_owned(),
        source,
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    let temporary = tempfile::NamedTempFile::new_in(dir).map_err(io)?;
    let mut buffered = BufWriter::new(temporary);
    fill(&mut buffered).map_err(|error| match error {
        candle_core::Error::Io(source) => io(source),
        other => other.into(),
    })?;
    let temporary = buffered
        .into_inner()
        .map_err(|error| io(error.into_error()))?;
    temporary.as_file().sync_all().map_err(io)?;
    let file = temporary.persist(path).map_err(|error| io(error.error))?;
    readable_by_all(&file).map_err(io)
}

/// Temporary files are private; checkpoints are ordinary files.
#[cfg(unix)]
fn readable_by_all(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn readable_by_all(_file: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

fn write_safetensors(
    file: &mut dyn Write,
    tensors: &BTreeMap<String, &Tensor>,
    dtype: DType,
) -> candle_core::Result<()> {
    let name = match dtype {
        DType::F32 => "F32",
        DType::F16 => "F16",
        DType::BF16 => "BF16",
        other => candle_core::bail!("weights are saved as f32, f16 or bf16, not {other:?}"),
    };
    let mut header = Map::new();
    // Loaders of the ecosystem refuse a file that does not say which framework laid it out.
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut end = 0;
    for (tensor, value) in tensors {
        let start = end;
        end += value.elem_count() * dtype.size_in_bytes();
        let entry = json!({ "dtype": name, "shape": value.dims(), "data_offsets": [start, end] });
        header.insert(tensor.clone(), entry);
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    // Spaces, so that the tensors begin aligned.
    header.resize(header.len().next_multiple_of(8), b' ');
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    for value in tensors.values() {
        let flat = value
            .to_device(&Device::Cpu)?
            .to_dtype(dtype)?
            .flatten_all()?;
        write_values(file, &flat)?;
    }
    Ok(())
}

fn write_values(file: &mut dyn Write, flat: &Tensor) -> candle_core::Result<()> {
    match flat.dtype() {
        DType::F32 => {
            for value in flat.to_vec1::<f32>()? {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        DType::F16 => {
            for value in flat.to_vec1::<half::f16>()? {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        DType::BF16 => {
            for value in flat.to_vec1::<half::bf16>()? {
                file.write_all(&value.to_le_bytes())?;
            }
        }
        other => candle_core::bail!("weights are saved as f32, f16 or bf16, not {other:?}"),
    }
    Ok(())
}
