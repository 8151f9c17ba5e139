//! What a run trained, in the formats that other tools read.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Tensor};

use crate::fs;

use super::{Error, Owner, Session};

/// Writes `adapter/`: the backbone with its trained parts merged in as a diffusers folder, if any of it trained, and each plugin's own parameters as
/// `PLUGIN.safetensors`. Values are the parameters' as they stand.
///
/// # Errors
/// Anything the disk refuses; an earlier `adapter/` stays until its successor is complete.
pub(super) fn adapter(run: &Path, session: &Session, dtype: DType) -> Result<(), Error> {
    let overlay = session.overlay();
    let mut plugins: BTreeMap<String, BTreeMap<String, Tensor>> = BTreeMap::new();
    for parameter in session.parameters.borrow().iter() {
        if let Owner::Plugin(plugin) = &parameter.owner {
            let own = parameter
                .name
                .strip_prefix(&format!("{plugin}."))
                .unwrap_or(&parameter.name);
            plugins
                .entry(plugin.clone())
                .or_default()
                .insert(own.to_owned(), parameter.var.as_detached_tensor());
        }
    }
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
        for (plugin, tensors) in &plugins {
            let path = dir.join(format!("{plugin}.safetensors"));
            let bytes = safetensors::serialize(tensors.iter(), None).map_err(|error| {
                Error::Unwritable {
                    path: path.clone(),
                    reason: error.to_string(),
                }
            })?;
            fs::write_atomic(&path, &bytes)?;
        }
        Ok(())
    })
}
