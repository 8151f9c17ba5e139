//! Writes a model folder: tensors are converted and streamed one at a time, and no file is replaced before its successor is complete.

use std::collections::BTreeMap;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Tensor};

use super::super::Error;

/// What diffusers calls the weights of its models.
pub(crate) const DIFFUSION_WEIGHTS: &str = "diffusion_pytorch_model";

/// Writes `config.json` and `WEIGHTS.safetensors` into a folder, making it if needed.
pub(crate) fn write_folder(
    dir: &Path,
    weights: &str,
    config: &str,
    tensors: &BTreeMap<String, &Tensor>,
    dtype: DType,
) -> Result<(), Error> {
    std::fs::create_dir_all(dir).map_err(|source| Error::Io {
        path: dir.to_owned(),
        source,
    })?;
    replace(&dir.join(format!("{weights}.safetensors")), |file| {
        crate::fs::tensors::write(file, &BTreeMap::new(), tensors, |_| dtype)
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
