//! The networks whose features images are compared by: the scene classifier inside the program, and Inception-v3 from a file.

mod inception;
mod resize;
pub mod scenes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{Device, Tensor};
use image::RgbImage;
use sha2::{Digest, Sha256};

use self::inception::Inception;
use self::scenes::SceneClassifier;
use super::Error;
use super::features::Features;
use crate::data::transform;
use crate::ops::autograd::no_grad;

const EMBEDDED: &[u8] = include_bytes!("../../../assets/scene_classifier.safetensors");

/// A network that turns images into features, and what it is called.
#[derive(Debug)]
pub struct Network {
    kind: Kind,
    /// Where the weights come from: a path, or "embedded".
    pub source: String,
    /// SHA-256 of the weights file: distances compare only where it is the same.
    pub sha256: String,
}

#[derive(Debug)]
enum Kind {
    Scenes(SceneClassifier),
    Inception(Box<Inception>),
}

impl Network {
    /// The scene classifier inside the program.
    ///
    /// # Errors
    /// None in a program that was built and tested.
    pub fn embedded() -> Result<Self, Error> {
        Self::from_bytes(EMBEDDED, "embedded")
    }

    /// A network from a safetensors file: Inception-v3, or a classifier of `host pretrain`.
    ///
    /// # Errors
    /// A file that cannot be read, or holds another network.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|error| Error::Unreadable {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
        Self::from_bytes(&bytes, &path.display().to_string())
    }

    fn from_bytes(bytes: &[u8], source: &str) -> Result<Self, Error> {
        let tensors = candle_core::safetensors::load_buffer(bytes, &Device::Cpu);
        let tensors = tensors.map_err(|error| Error::Unreadable {
            path: source.into(),
            reason: format!("it is no safetensors file ({error})"),
        })?;
        let tensors: BTreeMap<String, Tensor> = tensors.into_iter().collect();
        let other = |error: candle_core::Error| Error::OtherNetwork {
            path: source.into(),
            reason: error.to_string(),
        };
        let kind = match tensors.contains_key(inception::MARK) {
            true => Kind::Inception(Box::new(Inception::new(&tensors).map_err(other)?)),
            false => Kind::Scenes(SceneClassifier::new(tensors).map_err(other)?),
        };
        Ok(Self {
            kind,
            source: source.to_owned(),
            sha256: Sha256::digest(bytes)
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
        })
    }

    /// What it is.
    pub fn name(&self) -> &'static str {
        match &self.kind {
            Kind::Scenes(_) => "scene classifier",
            Kind::Inception(network) if network.is_published() => "Inception-v3 (FID)",
            Kind::Inception(_) => "Inception-v3 (other weights)",
        }
    }

    /// How many features an image has.
    pub fn dimensions(&self) -> usize {
        match &self.kind {
            Kind::Scenes(_) => scenes::FEATURES,
            Kind::Inception(network) => network.dimensions(),
        }
    }

    /// The features of pictures of any size. `done` hears how many are finished, and ends the work by an error.
    ///
    /// # Errors
    /// [`Error::NotFinite`], and what `done` returns.
    pub fn features(
        &self,
        pictures: &[RgbImage],
        done: &mut dyn FnMut(usize) -> Result<(), Error>,
    ) -> Result<Features, Error> {
        let batch = match &self.kind {
            Kind::Scenes(_) => 64,
            Kind::Inception(_) => inception::BATCH,
        };
        let mut values = Vec::with_capacity(pictures.len() * self.dimensions());
        for (index, pictures) in pictures.chunks(batch).enumerate() {
            done(index * batch)?;
            let images = pictures
                .iter()
                .map(|picture| self.prepared(picture))
                .collect::<Result<Vec<_>, Error>>()?;
            let images = Tensor::stack(&images, 0)?; // [B, 3, H, W]
            let features = no_grad(|| match &self.kind {
                Kind::Scenes(network) => network.features(&images),
                Kind::Inception(network) => network.features(&images),
            })?; // [B, dimensions]
            values.extend(
                features
                    .flatten_all()?
                    .to_vec1::<f32>()?
                    .into_iter()
                    .map(f64::from),
            );
        }
        done(pictures.len())?;
        Features::new(values, self.dimensions())
    }

    /// A picture as the network takes it, `[3, H, W]` in -1..=1.
    fn prepared(&self, picture: &RgbImage) -> Result<Tensor, Error> {
        let at_size = match &self.kind {
            Kind::Scenes(_) => transform::fitted(picture, scenes::SIDE),
            // It resizes tensors, as the published numbers want it.
            Kind::Inception(_) => picture.clone(),
        };
        Ok(transform::from_rgb8(&at_size, &Device::Cpu)?)
    }
}
