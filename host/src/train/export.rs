//! What a run trained, in the formats that other tools read.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::adapter::spread;
use crate::adapter::write::kohya_named;
use crate::fs;
use crate::plugin::services::AdapterFile;

use super::{Error, Owner, Parameters, Session};

/// Writes `adapter/`: the backbone with its trained parts merged in as a diffusers folder, if any of it trained, and what the plugins trained: the
/// files they declared, and as `PLUGIN.safetensors` what those do not hold. Values are the parameters' as they stand.
///
/// # Errors
/// Anything the disk refuses; an earlier `adapter/` stays until its successor is complete.
pub(super) fn adapter(run: &Path, session: &Session, dtype: DType) -> Result<(), Error> {
    let overlay = session
        .scales
        .borrow()
        .folded(&session.backbone, session.overlay())?;
    let declared = session.adapters.borrow();
    let undeclared = undeclared(&session.parameters.borrow(), &declared);
    fs::publish_dir(&run.join("adapter"), |dir| {
        if !overlay.is_empty() {
            session.backbone.save(dir, &overlay, dtype)?;
            let scheduler = dir.join("scheduler");
            std::fs::create_dir_all(&scheduler)
                .map_err(|error| fs::Error::io("create", &scheduler, error))?;
            session
                .process
                .config()
                .write(&scheduler.join("scheduler_config.json"))?;
        }
        let contested = contested(&declared);
        for (plugin, file) in declared.iter() {
            let dir = match contested {
                true => dir.join(plugin),
                false => dir.to_path_buf(),
            };
            declared_file(&dir, file, session)?;
        }
        for (plugin, tensors) in &undeclared {
            let name = match declared.iter().any(|(declaring, _)| declaring == plugin) {
                true => format!("{plugin}.rest.safetensors"),
                false => format!("{plugin}.safetensors"),
            };
            write(&dir.join(name), &BTreeMap::new(), tensors)?;
        }
        Ok(())
    })
}

/// Writes a file that a plugin declared, with its texts. Layers that all blocks share are written for each, and kohya's names of Stable Diffusion XL's layers are
/// those of the original code, as the readers of these formats know them; a network of its own has its own names.
pub(super) fn declared_file(
    dir: &Path,
    file: &AdapterFile,
    session: &Session,
) -> Result<(), Error> {
    let depth = match session.backbone.info() {
        info if info.shared_embedders && !file.is_network() => info.depth,
        _ => 1,
    };
    let tensors = spread::tensors(&file.written()?, depth);
    let tensors = kohya_named(tensors, session.backbone.layers());
    let metadata = file
        .metadata
        .iter()
        .map(|(key, text)| (key.clone(), spread::text(text, depth)))
        .collect();
    write(&dir.join(&file.file), &metadata, &tensors)?;
    for (path, content) in &file.texts {
        fs::write_atomic(&dir.join(path), spread::text(content, depth).as_bytes())?;
    }
    Ok(())
}

/// For each plugin its parameters, by their own names, that are in none of its files.
pub(super) fn undeclared(
    parameters: &Parameters,
    declared: &[(String, AdapterFile)],
) -> BTreeMap<String, BTreeMap<String, Tensor>> {
    let held: HashSet<_> = declared
        .iter()
        .flat_map(|(_, file)| file.tensors.values())
        .map(Tensor::id)
        .collect();
    let mut rest: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
    for parameter in parameters.iter() {
        let Owner::Plugin(plugin) = &parameter.owner else {
            continue;
        };
        if held.contains(&parameter.var.as_tensor().id()) {
            continue;
        }
        let own = parameter
            .name
            .strip_prefix(&format!("{plugin}."))
            .unwrap_or(&parameter.name);
        rest.entry(plugin.clone())
            .or_default()
            .insert(own.to_owned(), parameter.var.as_tensor().clone());
    }
    rest
}

/// Whether two plugins want one path.
pub(super) fn contested(declared: &[(String, AdapterFile)]) -> bool {
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    declared.iter().any(|(plugin, file)| {
        let mut paths = std::iter::once(&file.file).chain(file.texts.keys());
        paths.any(|path| *owners.entry(path).or_insert(plugin) != plugin)
    })
}

/// Writes a file of tensors: halves as halves, all else as f32.
pub(super) fn write(
    path: &Path,
    metadata: &BTreeMap<String, String>,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(), Error> {
    let tensors = tensors
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor))
        .collect();
    let dtype = |tensor: &Tensor| match tensor.dtype() {
        half @ (DType::F16 | DType::BF16) => half,
        _ => DType::F32,
    };
    Ok(fs::write_atomic_with(path, |file| {
        fs::tensors::write(file, metadata, &tensors, dtype).map_err(|error| match error {
            candle_core::Error::Io(error) => error,
            error => std::io::Error::other(error.to_string()),
        })
    })?)
}
