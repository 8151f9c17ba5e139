//! A run's result for other programs, from its folder: a whole diffusers pipeline with everything trained merged in, or the adapter in another format.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::adapter::write::{self, Format, Written};
use crate::adapter::{AdapterWeights, LayerUpdate, spread};
use crate::backbone::Overlay;
use crate::cancel::Cancel;
use crate::config::{Precision, Resolved};
use crate::fs;
use crate::plugin::services::AdapterFile;
use crate::report::Progress;

use super::from_run::{Restored, Saved, restore};
use super::parts::parts;
use super::{Error, Session, export};

/// What to make of a run.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// A pipeline folder with everything merged into the network.
    Pipeline {
        /// The number format of its weights.
        dtype: DType,
    },
    /// The adapter that the run trained, in a format of others.
    Adapter(Format),
    /// The networks of their own that the run trained, such as a ControlNet.
    Networks,
}

/// What was written.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Exported {
    /// Steps of training behind it.
    pub step: u64,
    /// What was merged or rewritten, in words.
    pub merged: Vec<String>,
    /// Files, relative to the folder, of tensors that no known format merges.
    pub beside: Vec<String>,
}

/// Writes what a run trained into a new folder.
///
/// # Errors
/// A run that cannot be restored, one of which nothing can be merged or rewritten, or a disk that refuses; no part of a folder is ever left.
pub fn export_run(
    resolved: &Resolved,
    saved: &Saved,
    target: Target,
    out: &Path,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Exported, Error> {
    // What was computed in halves is merged into the weights as they were before.
    let mut resolved = resolved.clone();
    resolved.config.backbone.dtype = Precision::F32;
    let Restored {
        session,
        overlay,
        step,
    } = restore(&resolved, saved, progress, cancel)?;
    let (merged, beside) = fs::publish_dir(out, |dir| match target {
        Target::Pipeline { dtype } => pipeline(
            dir,
            &session,
            overlay,
            dtype,
            resolved.config.backbone.path.as_deref(),
        ),
        Target::Adapter(format) => adapters(dir, &session, format),
        Target::Networks => networks(dir, &session),
    })?;
    Ok(Exported {
        step,
        merged,
        beside,
    })
}

/// What was merged, and the files beside it.
type Told = (Vec<String>, Vec<String>);

fn pipeline(
    dir: &Path,
    session: &Session,
    overlay: Overlay,
    dtype: DType,
    source: Option<&Path>,
) -> Result<Told, Error> {
    let backbone = &session.backbone;
    let mut merged = Vec::new();
    let mut overlay = session.scales.borrow().folded(backbone, overlay)?;
    if !overlay.is_empty() {
        merged.push(format!(
            "{} trained parameters of the backbone",
            overlay.len()
        ));
    }
    let own = overlay.clone();
    let frozen: BTreeMap<&str, &Tensor> = backbone.parameters().collect();
    let declared = session.adapters.borrow();
    let mut beside = Vec::new();
    let mut done: HashSet<(String, String)> = HashSet::new();
    for (plugin, file) in declared.iter() {
        let updates = match updates(file, session)? {
            Ok(updates) => updates,
            Err(reason) => {
                tracing::warn!(
                    "`{}` of plugin `{plugin}` is not merged: {reason}",
                    file.file
                );
                export::declared_file(&dir.join(plugin), file, session)?;
                beside.push(format!("{plugin}/{}", file.file));
                continue;
            }
        };
        // A plugin may declare one adapter in several formats; it counts once.
        let updates: Vec<LayerUpdate> = updates
            .into_iter()
            .filter(|update| done.insert((plugin.clone(), update.path.clone())))
            .collect();
        if updates.is_empty() {
            continue;
        }
        for update in &updates {
            for (parameter, is_weight) in [("weight", true), ("bias", false)] {
                let name = format!("{}.{parameter}", update.path);
                let Some(&base) = frozen.get(name.as_str()) else {
                    continue;
                };
                let value = overlay.get(&name).unwrap_or(base).detach();
                let value = value.to_dtype(DType::F32)?;
                let changed = match is_weight {
                    // Plugins were trained beside one network, not on top of each other.
                    true => {
                        let trained = own.get(&name).unwrap_or(base).detach();
                        update.weight_over(&value, &trained.to_dtype(DType::F32)?, 1.0)?
                    }
                    false => update.bias(&value, 1.0)?,
                };
                overlay.insert(name, changed.detach());
            }
        }
        merged.push(format!(
            "`{}` of plugin `{plugin}`, {} layers",
            file.file,
            updates.len()
        ));
    }
    for (plugin, tensors) in export::undeclared(&session.parameters.borrow(), &declared) {
        tracing::warn!(
            "{} tensors of plugin `{plugin}` are in no format that merges into a network; they are written beside it",
            tensors.len()
        );
        let file = format!("{plugin}.safetensors");
        export::write(&dir.join(&file), &BTreeMap::new(), &tensors)?;
        beside.push(file);
    }
    if merged.is_empty() {
        return Err(Error::NothingMerges {
            plugins: beside.join(", "),
        });
    }
    backbone.save(dir, &overlay, dtype)?;
    parts(dir, session, source, dtype)?;
    Ok((merged, beside))
}

/// The updates in a declared file, or why it has none; read back as any other program would read it.
fn updates(
    file: &AdapterFile,
    session: &Session,
) -> Result<Result<Vec<LayerUpdate>, String>, Error> {
    if file.is_network() {
        return Ok(Err("it is a network of its own".to_owned()));
    }
    let staged = tempfile::tempdir()
        .map_err(|error| fs::Error::io("create", std::env::temp_dir(), error))?;
    let name = Path::new(&file.file).file_name().unwrap_or_default();
    let plain = AdapterFile {
        file: name.to_string_lossy().into_owned(),
        texts: file
            .texts
            .iter()
            .filter_map(|(path, text)| {
                Some((
                    Path::new(path).file_name()?.to_str()?.to_owned(),
                    text.clone(),
                ))
            })
            .collect(),
        ..file.clone()
    };
    let path = staged.path().join(name);
    export::write(&path, &plain.metadata, &plain.written()?)?;
    for (name, text) in &plain.texts {
        fs::write_atomic(&staged.path().join(name), text.as_bytes())?;
    }
    let matched =
        AdapterWeights::read(&path).and_then(|weights| weights.matched(session.backbone.layers()));
    Ok(match matched {
        Ok(matched) if matched.report.unmatched.is_empty() => Ok(matched.updates),
        Ok(matched) => Err(format!(
            "{} of its keys fit no layer, such as `{}`",
            matched.report.unmatched.len(),
            matched.report.unmatched[0]
        )),
        Err(error) => {
            // The sentence is about a file that is gone by now.
            let place = staged.path().display().to_string();
            Err(error.to_string().replace(&format!("{place}/"), ""))
        }
    })
}

/// Writes the run's adapters in another format, each plugin's in a folder of its own where there are several.
fn adapters(dir: &Path, session: &Session, format: Format) -> Result<Told, Error> {
    let declared = session.adapters.borrow();
    let backbone = &session.backbone;
    let layers = backbone.adapter_layers();
    let mut merged = Vec::new();
    let mut reasons = Vec::new();
    // A plugin may declare one adapter in several formats; any of them says all.
    let mut written: Vec<(&str, Written)> = Vec::new();
    for (plugin, file) in declared.iter() {
        if written.iter().any(|(known, _)| known == plugin) {
            continue;
        }
        let outcome = updates(file, session)?.and_then(|updates| {
            let updates = match backbone.info().shared_embedders {
                true => spread(updates, backbone.info().depth),
                false => updates,
            };
            let part = backbone.config().folder();
            Ok((
                updates.len(),
                write::write(&updates, &layers, part, format)?,
            ))
        });
        match outcome {
            Ok((count, file)) => {
                merged.push(format!("the adapter of plugin `{plugin}`, {count} layers"));
                written.push((plugin, file));
            }
            Err(reason) => reasons.push(format!("`{}` of plugin `{plugin}`: {reason}", file.file)),
        }
    }
    if written.is_empty() {
        return Err(Error::NothingToRewrite {
            reasons: match reasons.is_empty() {
                true => "no plugin of it declares a file".to_owned(),
                false => reasons.join("; "),
            },
        });
    }
    for reason in &reasons {
        tracing::warn!("not written in this format: {reason}");
    }
    let several = written.len() > 1;
    for (plugin, file) in &written {
        let dir = match several {
            true => dir.join(plugin),
            false => dir.to_path_buf(),
        };
        export::write(&dir.join(file.file), &file.metadata, &file.tensors)?;
        if let Some((name, text)) = &file.text {
            fs::write_atomic(&dir.join(name), text.as_bytes())?;
        }
    }
    Ok((merged, Vec::new()))
}

/// Writes the run's networks of their own, each plugin's in a folder of its own where there are several.
fn networks(dir: &Path, session: &Session) -> Result<Told, Error> {
    let declared = session.adapters.borrow();
    let networks: Vec<_> = declared
        .iter()
        .filter(|(_, file)| file.is_network())
        .collect();
    if networks.is_empty() {
        return Err(Error::NoNetwork {
            plugins: session.facts.plugins.join(", "),
        });
    }
    let several = networks.len() > 1;
    let mut written = Vec::new();
    for (plugin, file) in networks {
        let dir = match several {
            true => dir.join(plugin),
            false => dir.to_path_buf(),
        };
        export::declared_file(&dir, file, session)?;
        written.push(format!("the network of plugin `{plugin}`"));
    }
    Ok((written, Vec::new()))
}

/// Updates of layers that all blocks share, for every block.
fn spread(updates: Vec<LayerUpdate>, depth: usize) -> Vec<LayerUpdate> {
    let for_all = |update: LayerUpdate| {
        // A layer's path ends where a parameter's name goes on.
        let copies = spread::copies(&update.path, depth);
        let copies: Vec<LayerUpdate> = copies
            .into_iter()
            .map(|path| LayerUpdate {
                path,
                ..update.clone()
            })
            .collect();
        std::iter::once(update).chain(copies)
    };
    updates.into_iter().flat_map(for_all).collect()
}
