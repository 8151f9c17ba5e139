//! Which layers of a backbone a file's modules are, and what to say about those that are none.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use super::build::Builder;
use super::error::Error;
use super::file::Parts;
use super::keys::Module;
use super::{AdapterWeights, LayerUpdate};
use crate::backbone::LayerInfo;
use crate::backbone::ldm::UnetNames;

/// A file's content by layers of a backbone.
#[derive(Debug)]
pub struct Matched {
    /// One update a layer, in the backbone's order; at least one.
    pub updates: Vec<LayerUpdate>,
    /// What was found and what was not.
    pub report: Report,
}

/// How much of a file fits a backbone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The file.
    pub path: std::path::PathBuf,
    /// Its hash.
    pub sha256: String,
    /// The methods in it and for how many layers each.
    pub kinds: Vec<(&'static str, usize)>,
    /// Keys that fit a layer.
    pub matched: usize,
    /// Keys for the denoiser that fit none.
    pub unmatched: Vec<String>,
    /// How many keys are for another part of a pipeline.
    pub other_parts: usize,
}

impl Report {
    /// Tells the report, as a warning where keys fit no layer.
    pub fn log(&self) {
        match self.unmatched.is_empty() {
            true => tracing::info!("{}", self.sentence()),
            false => tracing::warn!("{}", self.sentence()),
        }
    }

    /// The report in one sentence.
    pub fn sentence(&self) -> String {
        let kinds: Vec<String> = self
            .kinds
            .iter()
            .map(|(kind, layers)| format!("{kind} for {layers} layers"))
            .collect();
        let mut text = format!(
            "the adapter {}: {}, {} of its keys fit",
            self.path.display(),
            kinds.join(", "),
            self.matched
        );
        if !self.unmatched.is_empty() {
            let shown: Vec<String> = self
                .unmatched
                .iter()
                .take(3)
                .map(|key| format!("`{key}`"))
                .collect();
            let more = match self.unmatched.len().saturating_sub(3) {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            text += &format!(
                "; {} fit no layer and change nothing: {}{more}",
                self.unmatched.len(),
                shown.join(", ")
            );
        }
        if self.other_parts > 0 {
            text += &format!("; {} are for another part of a pipeline", self.other_parts);
        }
        text
    }
}

impl AdapterWeights {
    /// The file's updates for these layers.
    ///
    /// # Errors
    /// When no key fits, or one that does has not the layer's shape.
    pub fn matched(&self, layers: &[LayerInfo]) -> Result<Matched, Error> {
        let by_path: HashMap<&str, usize> = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| (layer.path.as_str(), index))
            .collect();
        let by_flat: HashMap<String, usize> = layers
            .iter()
            .enumerate()
            .map(|(index, layer)| (layer.path.replace('.', "_"), index))
            .collect();
        // kohya's tools name the layers of Stable Diffusion XL as the original code does.
        let original = UnetNames::of(layers);
        let by_original: HashMap<String, usize> = layers
            .iter()
            .enumerate()
            .filter_map(|(index, layer)| {
                let name = original.as_ref()?.original(&layer.path)?;
                Some((name.replace('.', "_"), index))
            })
            .collect();
        let place = |module: &Module| match module {
            Module::Path(path) => by_path.get(path.as_str()).copied().or_else(|| {
                // diffusers' own conversion to kohya's form keeps the part's name, and sometimes a dot.
                let flat = path.replace('.', "_");
                let bare = flat.strip_prefix("transformer_").unwrap_or(&flat);
                let places = [
                    by_flat.get(&flat),
                    by_flat.get(bare),
                    by_original.get(&flat),
                ];
                places.into_iter().flatten().next().copied()
            }),
            Module::Flat(path) => by_flat.get(path).or_else(|| by_original.get(path)).copied(),
            Module::Elsewhere => None,
        };
        let mut report = Report {
            path: self.path.clone(),
            sha256: self.sha256.clone(),
            unmatched: self.strange.clone(),
            other_parts: self.elsewhere,
            ..Report::default()
        };
        // Two spellings of one layer are one update.
        let mut given: BTreeMap<usize, Parts> = BTreeMap::new();
        for (module, parts) in &self.modules {
            match place(module) {
                Some(index) => {
                    let layer = given.entry(index).or_default();
                    layer.tensors.extend(parts.tensors.clone());
                    report.matched += parts.keys.len();
                }
                None => report.unmatched.extend_from_slice(&parts.keys),
            }
        }
        let mut updates = Vec::new();
        for (index, parts) in given {
            let builder = Builder {
                file: &self.path,
                config: &self.config,
                layer: &layers[index],
            };
            updates.push(builder.build(&parts)?);
        }
        if updates.is_empty() {
            return Err(self.none_matched(layers));
        }
        report.unmatched.sort_unstable();
        for update in &updates {
            let kind = match update.tensors.contains_key(super::keys::MAGNITUDE) {
                true => "dora",
                false => update.kind.name(),
            };
            match report.kinds.iter_mut().find(|(known, _)| *known == kind) {
                Some((_, layers)) => *layers += 1,
                None => report.kinds.push((kind, 1)),
            }
        }
        Ok(Matched { updates, report })
    }

    fn none_matched(&self, layers: &[LayerInfo]) -> Error {
        const SHOWN: usize = 3;
        let keys: usize = self.modules.values().map(|parts| parts.keys.len()).sum();
        let total = keys + self.strange.len() + self.elsewhere;
        let mut first = "for another part of a pipeline";
        let mut near = String::new();
        if let Some((module, parts)) = self.modules.iter().next() {
            first = parts.keys.first().map_or(first, String::as_str);
            let name = match module {
                Module::Path(path) | Module::Flat(path) => path.replace('_', "."),
                Module::Elsewhere => String::new(),
            };
            let mut likely: Vec<(f64, &str)> = layers
                .iter()
                .map(|layer| {
                    let path = layer.path.replace('_', ".");
                    (strsim::jaro_winkler(&path, &name), layer.path.as_str())
                })
                .collect();
            likely.sort_by(|a, b| b.0.total_cmp(&a.0));
            let paths: Vec<String> = likely
                .iter()
                .take(SHOWN)
                .map(|(_, path)| format!("`{path}`"))
                .collect();
            near = format!("; the backbone has {}", paths.join(", "));
        } else if let Some(strange) = self.strange.first() {
            first = strange;
        }
        Error::NoneMatched {
            path: self.path.clone(),
            keys: total,
            first: first.to_owned(),
            near,
        }
    }
}
