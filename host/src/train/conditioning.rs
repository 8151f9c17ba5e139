//! What the network is told beside latents and timesteps: classes, texts and sizes, the same in training and in sampling.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::backbone::{CLASS_LABELS, Conditioning};
use crate::data::{Batch, Origin, Size};
use crate::random::Streams;
use crate::text::{EMBEDS, STATES};

use super::{Error, Session};

/// Height and width of the picture before it was resized, of what the crop took off above and on the left, and of the image: `[B, 6]`, in pixels.
pub(super) const TIME_IDS: &str = "time_ids";
/// The texts of a batch that describe its images.
const CAPTIONS: &str = "captions";
/// The texts of a batch that say which part of a picture its images show ([`Origin`]).
const ORIGINS: &str = "origins";

/// Shares of what is left untold in training, so that the network also learns the prediction without it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dropout {
    /// Of class labels.
    pub(super) labels: f64,
    /// Of captions.
    pub(super) captions: f64,
}

impl Session {
    /// Everything that the network reads, for `count` samples whose latents are of this size: what the batch has under the network's names, and else its class
    /// labels, or no class; its captions encoded, or no text; and the sizes of its pictures, or the images' own.
    ///
    /// # Errors
    /// Texts for a network without text encoders, or another number of them than samples.
    pub(super) fn conditioning(
        &self,
        batch: &Batch,
        count: usize,
        latents: Size,
    ) -> Result<Conditioning, Error> {
        let info = self.backbone.info();
        let device = self.backbone.device();
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut encoded = None;
        for name in info.reads() {
            let tensor = match batch.tensors.get(name) {
                Some(given) => given.clone(),
                None if name == CLASS_LABELS => Tensor::full(info.null_class(), count, device)?,
                None if name == TIME_IDS => {
                    let factor = self.encoder.factor();
                    let size = Size {
                        height: latents.height * factor,
                        width: latents.width * factor,
                    };
                    time_ids(&listed(batch, ORIGINS), count, size, device)?
                }
                None => {
                    let rows = match &encoded {
                        Some(rows) => rows,
                        None => encoded.insert(self.encode_texts(&captions(batch, count)?)?),
                    };
                    rows.get(name).cloned().ok_or(Error::NoText)?
                }
            };
            tensors.insert(name.to_owned(), tensor);
        }
        Ok(Conditioning { tensors })
    }

    /// Texts as the network reads them, a row each.
    ///
    /// # Errors
    /// A network that reads none.
    pub(super) fn encode_texts(&self, texts: &[String]) -> Result<BTreeMap<String, Tensor>, Error> {
        let encoders = self.text.as_ref().ok_or(Error::NoText)?;
        Ok(encoders.encode(texts)?)
    }

    /// A batch with some of its labels and captions taken out.
    ///
    /// # Errors
    /// A device that fails.
    pub(super) fn dropped(
        &self,
        batch: &Batch,
        count: usize,
        dropout: Dropout,
        streams: &mut Streams,
    ) -> Result<Batch, Error> {
        let info = self.backbone.info();
        let mut batch = batch.clone();
        let mut draw = |stream: &str, rate: f64| -> Vec<bool> {
            let draws = match rate > 0.0 {
                true => streams.get(stream).uniforms(count),
                false => vec![1.0; count],
            };
            draws.into_iter().map(|draw| draw < rate as f32).collect()
        };
        if info.num_classes.is_some() {
            let drops = draw("label_dropout", dropout.labels);
            if let Some(labels) = batch.tensors.get(CLASS_LABELS) {
                let mut labels = labels.to_dtype(DType::U32)?.to_vec1::<u32>()?;
                for (label, _) in labels.iter_mut().zip(drops).filter(|(_, drop)| *drop) {
                    *label = info.null_class();
                }
                let labels = Tensor::new(labels, self.backbone.device())?;
                batch.tensors.insert(CLASS_LABELS.to_owned(), labels);
            }
        }
        if info.cross_attention.is_some() && !batch.tensors.contains_key(STATES) {
            let drops = draw("caption_dropout", dropout.captions);
            let mut captions = captions(&batch, count)?;
            for (caption, _) in captions.iter_mut().zip(drops).filter(|(_, drop)| *drop) {
                caption.clear();
            }
            set_captions(&mut batch, &captions);
        }
        Ok(batch)
    }
}

/// Puts captions into a batch.
pub(super) fn set_captions(batch: &mut Batch, captions: &[String]) {
    let text = serde_json::json!(captions).to_string();
    batch.meta.insert(CAPTIONS.to_owned(), text);
}

/// The captions that a batch has, if it has any.
pub(super) fn captions_of(batch: &Batch) -> Option<Vec<String>> {
    let captions = listed(batch, CAPTIONS);
    (!captions.is_empty()).then_some(captions)
}

/// The names of conditioning that come from texts and sizes, for the hooks that come after.
pub(super) fn is_of_text(name: &str) -> bool {
    [STATES, EMBEDS, TIME_IDS].contains(&name)
}

/// A batch's captions; empty ones, which are no text, where it has none.
fn captions(batch: &Batch, count: usize) -> Result<Vec<String>, Error> {
    match captions_of(batch) {
        None => Ok(vec![String::new(); count]),
        Some(captions) if captions.len() == count => Ok(captions),
        Some(captions) => Err(Error::Captions {
            captions: captions.len(),
            samples: count,
        }),
    }
}

/// A list of texts of a batch, which travel as JSON; empty where there is none.
fn listed(batch: &Batch, name: &str) -> Vec<String> {
    let text = batch.meta.get(name);
    text.and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

/// What Stable Diffusion XL is told of sizes, `[B, 6]` f32; a sample without an origin shows a whole picture of the image's own size.
fn time_ids(
    origins: &[String],
    count: usize,
    size: Size,
    device: &Device,
) -> candle_core::Result<Tensor> {
    let whole = Origin { size, crop: (0, 0) };
    let mut values = Vec::with_capacity(6 * count);
    for row in 0..count {
        let origin = origins.get(row).and_then(|text| Origin::parse(text));
        let Origin { size: from, crop } = origin.unwrap_or(whole);
        let numbers = [
            from.height,
            from.width,
            crop.0,
            crop.1,
            size.height,
            size.width,
        ];
        values.extend(numbers.map(|number| number as f32));
    }
    Tensor::from_vec(values, (count, 6), device)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_are_those_of_the_picture_of_the_crop_and_of_the_image() {
        let origin = Origin {
            size: Size {
                height: 480,
                width: 640,
            },
            crop: (0, 80),
        };
        assert_eq!(Origin::parse(&origin.to_string()), Some(origin));
        let size = Size {
            height: 64,
            width: 32,
        };
        let origins = [origin.to_string(), String::new()];
        let ids = time_ids(&origins, 3, size, &Device::Cpu).unwrap();
        let whole = vec![64.0, 32.0, 0.0, 0.0, 64.0, 32.0];
        assert_eq!(
            ids.to_vec2::<f32>().unwrap(),
            [
                vec![480.0, 640.0, 0.0, 80.0, 64.0, 32.0],
                whole.clone(),
                whole
            ]
        );
    }
}
