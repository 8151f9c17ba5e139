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
    use std::sync::Arc;

    use serde_json::{Value, json};

    use super::*;
    use crate::backbone::{Backbone, Config};
    use crate::cancel::Cancel;
    use crate::diffusion::{Process, SchedulerConfig};
    use crate::encode::Encoder;
    use crate::pretrained::Pretrained;
    use crate::report::Progress;
    use crate::text::TextEncoders;
    use crate::text::tests::write_pipeline;
    use crate::train::{Facts, Parameters};

    /// A session of a small UNet with text encoders of the goldens, which are as wide as `widths` says.
    fn session(models: &[&str], unet: &str, widths: Value) -> Session {
        let dir = tempfile::tempdir().unwrap();
        write_pipeline(dir.path(), models);
        let file = format!(
            "{}/../tests/goldens/unet/{unet}/config.json",
            env!("CARGO_MANIFEST_DIR")
        );
        let mut config: Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        for (key, value) in widths.as_object().unwrap() {
            config[key] = value.clone();
        }
        let config = Config::from_json(&config.to_string(), "config.json").unwrap();
        let model = Pretrained {
            backbone: Backbone::init(config, 1, &Device::Cpu).unwrap(),
            process: Process::new(SchedulerConfig::default(), false).unwrap(),
            encoder: Encoder::Pixels,
            adapters: Vec::new(),
            text: Some(Arc::new(
                TextEncoders::open(dir.path(), &Device::Cpu, DType::F32).unwrap(),
            )),
        };
        Session::new(
            model,
            Facts::default(),
            Parameters::default(),
            Streams::new(3),
            Progress::hidden(),
            Cancel::default(),
        )
    }

    fn values(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn captioned(captions: &[&str]) -> Batch {
        let captions: Vec<String> = captions.iter().map(|text| (*text).to_owned()).collect();
        let mut batch = Batch::default();
        set_captions(&mut batch, &captions);
        batch
    }

    const SIZE: Size = Size {
        height: 8,
        width: 16,
    };

    #[test]
    fn captions_are_encoded_and_some_become_no_text() {
        let session = session(&["plain"], "sd1", json!({ "cross_attention_dim": 24 }));
        let batch = captioned(&["a red cone", "a floor"]);
        let told = session.conditioning(&batch, 2, SIZE).unwrap().tensors;
        assert_eq!(told.keys().collect::<Vec<_>>(), [STATES]);
        let encoders = session.text.clone().unwrap();
        let expected = encoders
            .encode(&["a red cone".to_owned(), "a floor".to_owned()])
            .unwrap();
        assert_eq!(values(&told[STATES]), values(&expected[STATES]));

        let dropout = |captions: f64| Dropout {
            labels: 0.0,
            captions,
        };
        let mut streams = Streams::new(7);
        let mut dropped = |rate: f64| {
            let batch = session
                .dropped(&batch, 2, dropout(rate), &mut streams)
                .unwrap();
            captions_of(&batch).unwrap()
        };
        assert_eq!(dropped(0.0), ["a red cone", "a floor"]);
        assert_eq!(dropped(1.0), ["", ""]);
        let half: Vec<String> = (0..50).flat_map(|_| dropped(0.5)).collect();
        let empty = half.iter().filter(|caption| caption.is_empty()).count();
        assert!((25..75).contains(&empty), "{empty} of 100");
        let nothing = captioned(&["", ""]);
        let told = session.conditioning(&nothing, 2, SIZE).unwrap().tensors;
        let nothing = encoders.unconditional().unwrap();
        assert_eq!(
            values(&told[STATES].get(0).unwrap()),
            values(&nothing[STATES])
        );
    }

    #[test]
    fn what_a_plugin_set_is_kept_and_a_missing_caption_is_told() {
        let session = session(&["plain"], "sd1", json!({ "cross_attention_dim": 24 }));
        let mut batch = captioned(&["a red cone", "a floor"]);
        let own = Tensor::ones((2, 5, 24), DType::F32, &Device::Cpu).unwrap();
        batch.tensors.insert(STATES.to_owned(), own.clone());
        let told = session.conditioning(&batch, 2, SIZE).unwrap().tensors;
        assert_eq!(values(&told[STATES]), values(&own));
        let error = session.conditioning(&captioned(&["a"]), 2, SIZE);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("1 captions for 2 samples"), "{error}");
    }

    #[test]
    fn an_xl_network_is_also_told_the_whole_text_and_sizes() {
        let widths =
            json!({ "cross_attention_dim": 56, "projection_class_embeddings_input_dim": 20 + 36 });
        let session = session(&["plain", "projected"], "sdxl", widths);
        let mut batch = captioned(&["a red cone", ""]);
        batch
            .meta
            .insert(ORIGINS.to_owned(), json!(["480x640+0+80", ""]).to_string());
        let told = session.conditioning(&batch, 2, SIZE).unwrap().tensors;
        assert_eq!(told.keys().collect::<Vec<_>>(), [STATES, EMBEDS, TIME_IDS]);
        assert_eq!(told[STATES].dims(), [2, 20, 56]);
        assert_eq!(told[EMBEDS].dims(), [2, 20]);
        let nothing = values(&told[EMBEDS].get(1).unwrap());
        assert!(nothing.iter().all(|value| *value == 0.0));
        assert_eq!(
            told[TIME_IDS].to_vec2::<f32>().unwrap()[0],
            [480.0, 640.0, 0.0, 80.0, 8.0, 16.0]
        );
    }

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
