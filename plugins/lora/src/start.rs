//! Where parameters start when a run goes on from an adapter's file.

use std::collections::BTreeMap;
use std::path::Path;

use plugin_api::{Host, Init, LayerUpdate, Result, bail};

use crate::settings::{Kind, LoraSettings};
use crate::targets::Target;

/// What a file has for the targets; nothing where the run starts afresh.
#[derive(Default)]
pub(crate) struct Start {
    file: String,
    /// By the layer's path.
    updates: BTreeMap<String, LayerUpdate>,
}

impl Start {
    /// Reads the file for the targets, and tells how much of it they take.
    ///
    /// # Errors
    /// A file that cannot be read, that has nothing for any target, or whose updates are not of the settings' kind, rank and alpha.
    pub(crate) fn read(
        path: &Path,
        settings: &LoraSettings,
        targets: &[Target],
        host: &Host,
    ) -> Result<Self> {
        let file = path.display().to_string();
        let content = host.read_adapter(path)?;
        let mut left_out = content.layers.len();
        let mut updates = BTreeMap::new();
        for update in content.layers {
            let Some(target) = targets.iter().find(|one| one.layer.path == update.path) else {
                continue;
            };
            agree(&file, settings, target, &update)?;
            left_out -= 1;
            updates.insert(update.path.clone(), update);
        }
        if updates.is_empty() {
            bail!(
                "{file} has updates for {left_out} layers, and none of them is among the {} that `targets` means",
                targets.len()
            );
        }
        let fresh = targets.len() - updates.len();
        tracing::info!(
            "{} layers go on from {file}; {fresh} are not in it and start afresh",
            updates.len()
        );
        let unmatched = content.unmatched.len();
        if left_out + unmatched > 0 {
            tracing::warn!(
                "{left_out} layers of {file} are not among the targets, and {unmatched} of its keys fit no layer: they are left out"
            );
        }
        Ok(Self { file, updates })
    }

    /// The first values of a parameter, if the file has some.
    ///
    /// # Errors
    /// The file has the layer and not this part of it, or in another shape.
    pub(crate) fn of(&self, target: &Target, part: &str, shape: &[usize]) -> Result<Option<Init>> {
        let path = &target.layer.path;
        let Some(update) = self.updates.get(path) else {
            return Ok(None);
        };
        let part = part.trim_end_matches(".weight");
        let (key, flat) = match part {
            "ia3_l" if target.feedforward => ("ia3_l_inputs", true),
            "ia3_l" | "lora_magnitude_vector" => (part, true),
            _ => (part, false),
        };
        let file = &self.file;
        let Some(tensor) = update.tensors.get(key) else {
            let has: Vec<&str> = update.tensors.keys().map(String::as_str).collect();
            bail!(
                "`{path}` has no `{key}` in {file}, which has {}: it was made with other settings",
                has.join(", ")
            );
        };
        let found = tensor.dims();
        let fits = match flat {
            true => tensor.elem_count() == shape.iter().product::<usize>(),
            false => found == shape,
        };
        match fits {
            true => Ok(Some(Init::Value(tensor.reshape(shape)?))),
            false => bail!("`{path}.{key}` has the shape {found:?} in {file}, and {shape:?} here"),
        }
    }
}

/// Refuses an update that would mean something else under these settings.
fn agree(file: &str, settings: &LoraSettings, target: &Target, update: &LayerUpdate) -> Result<()> {
    let path = &update.path;
    let kind = settings.kind;
    if update.kind != kind.name() {
        bail!(
            "`{path}` has an update of kind {} in {file}, and the settings have kind {}",
            update.kind,
            kind.name()
        );
    }
    let magnitude = update.tensors.contains_key("lora_magnitude_vector");
    if magnitude != settings.dora {
        bail!(
            "`{path}` in {file} is DoRA: {magnitude}, and the settings have dora = {}",
            settings.dora
        );
    }
    let (rank, alpha) = (target.rank, target.alpha);
    let same = |a: f64, b: f64| (a - b).abs() <= 1e-6 * a.abs().max(b.abs());
    let agrees = update.rank == rank && same(update.scale, settings.scale(rank, alpha));
    if kind != Kind::Ia3 && !agrees {
        bail!(
            "`{path}` has rank {} and alpha {} (counting {}) in {file}, and rank {rank} and alpha {alpha} (counting {}) in the settings: set `rank`, `alpha` and `rslora` as the file has them",
            update.rank,
            update.alpha,
            update.scale,
            settings.scale(rank, alpha)
        );
    }
    Ok(())
}
