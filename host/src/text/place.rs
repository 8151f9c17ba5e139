//! Where a pipeline's text encoder is: a folder of transformers', or a part of a file that holds the whole pipeline in the original layout.

use std::path::{Path, PathBuf};

use candle_core::{DType, Device};

use super::Error;
use super::clip::{self, Activation, ClipConfig, ClipText};
use crate::backbone::ldm::{self, Catalog, Shapes, TextLayout};
use crate::backbone::{ModelFolder, Overlay};

/// Channels of a head in every text encoder of Stable Diffusion.
const HEAD: usize = 64;
/// How the names of Stable Diffusion 2's text encoder begin, of which the last block is not used.
const SECOND: &str = "cond_stage_model.model.";

/// A text encoder that has not been read.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A `text_encoder/` folder.
    Folder(PathBuf),
    /// Below a prefix in a file.
    Within {
        file: PathBuf,
        prefix: &'static str,
        layout: TextLayout,
    },
}

/// The text encoders of a file that holds a whole pipeline, in order, each with the name of its tokenizer's folder; and whether it is Stable Diffusion XL's.
/// Nothing for any other path.
pub(super) fn within(file: &Path) -> (Vec<(Place, &'static str)>, bool) {
    let encoders = ldm::shapes_of(file).map_or_else(Vec::new, |shapes| ldm::text_encoders(&shapes));
    let xl = encoders
        .iter()
        .any(|(prefix, _)| prefix.starts_with("conditioner."));
    let place = |(prefix, layout)| {
        let tokenizer = match (xl, layout) {
            (true, TextLayout::OpenClip) => "tokenizer_2",
            _ => "tokenizer",
        };
        let place = Place::Within {
            file: file.to_owned(),
            prefix,
            layout,
        };
        (place, tokenizer)
    };
    (encoders.into_iter().map(place).collect(), xl)
}

/// A text encoder that was written as a folder of a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrittenEncoder {
    /// The folder.
    pub part: &'static str,
    /// transformers' class for it.
    pub class: &'static str,
    /// The folder of the tokenizer that belongs to it.
    pub tokenizer: &'static str,
}

/// Writes the text encoders of a file that holds a whole pipeline as folders of a pipeline in `dir`, without their tokenizers. There are none in any other path.
///
/// # Errors
/// Weights that cannot be read, or a disk that refuses.
pub fn write_encoders(file: &Path, dir: &Path, dtype: DType) -> Result<Vec<WrittenEncoder>, Error> {
    let encoders = within(file).0.into_iter();
    let written = encoders.map(|(place, tokenizer)| {
        let part = match tokenizer {
            "tokenizer" => "text_encoder",
            _ => "text_encoder_2",
        };
        let model = place.open(&Device::Cpu, DType::F32)?;
        model.save(&dir.join(part), &Overlay::new(), dtype)?;
        Ok(WrittenEncoder {
            part,
            class: model.class(),
            tokenizer,
        })
    });
    written.collect()
}

impl Place {
    /// The encoder's shape, before any weight is read.
    ///
    /// # Errors
    /// A configuration that is missing or not implemented.
    pub(super) fn config(&self) -> Result<ClipConfig, Error> {
        let (file, prefix, layout) = match self {
            Self::Folder(dir) => return clip::read_config(dir),
            Self::Within {
                file,
                prefix,
                layout,
            } => (file, prefix, *layout),
        };
        let shapes = ldm::shapes_of(file).unwrap_or_default();
        let config = infer(&catalog(&shapes, prefix, layout), layout);
        config.check().map_err(|reason| Error::Config {
            file: format!("{} ({prefix})", file.display()),
            reason,
        })?;
        Ok(config)
    }

    /// Reads the encoder.
    ///
    /// # Errors
    /// As [`Place::config`], and weights that do not fit it.
    pub(super) fn open(&self, device: &Device, dtype: DType) -> Result<ClipText, Error> {
        match self {
            Self::Folder(dir) => ClipText::open(dir, device, dtype),
            Self::Within {
                file,
                prefix,
                layout,
            } => {
                let config = self.config()?;
                let places = |shapes: &Shapes| Ok(catalog(shapes, prefix, *layout));
                let source = ModelFolder::within(file, device, dtype, &places)?;
                Ok(ClipText::load(config, &source)?)
            }
        }
    }
}

/// Where the parameters that are used lie.
fn catalog(shapes: &Shapes, prefix: &str, layout: TextLayout) -> Catalog {
    let mut catalog = ldm::text_catalog(shapes, prefix, layout);
    // Old files keep the numbers of the positions.
    catalog.retain(|name, _| !name.ends_with(".position_ids"));
    if prefix == SECOND {
        let last = format!("{LAYERS}{}.", layers(&catalog).saturating_sub(1));
        catalog.retain(|name, _| !name.starts_with(&last) && name != "text_projection.weight");
    }
    catalog
}

const LAYERS: &str = "text_model.encoder.layers.";

fn layers(catalog: &Catalog) -> usize {
    let numbers = catalog.keys().filter_map(|name| {
        let number = name.strip_prefix(LAYERS)?.split('.').next()?;
        number.parse::<usize>().ok()
    });
    numbers.max().map_or(0, |last| last + 1)
}

/// Shapes say all but the heads and the activation, which are the same in every encoder of a layout.
fn infer(catalog: &Catalog, layout: TextLayout) -> ClipConfig {
    let side = |name: &str, dim: usize| {
        let part = catalog.get(name);
        part.and_then(|part| part.shape.get(dim))
            .copied()
            .unwrap_or(0)
    };
    let width = side("text_model.embeddings.token_embedding.weight", 1);
    ClipConfig {
        vocab_size: side("text_model.embeddings.token_embedding.weight", 0),
        hidden_size: width,
        intermediate_size: side(&format!("{LAYERS}0.mlp.fc1.weight"), 0),
        projection_dim: match side("text_projection.weight", 0) {
            0 => width,
            projected => projected,
        },
        num_hidden_layers: layers(catalog),
        num_attention_heads: width / HEAD,
        max_position_embeddings: side("text_model.embeddings.position_embedding.weight", 0),
        hidden_act: match layout {
            TextLayout::Transformers => Activation::QuickGelu,
            TextLayout::OpenClip => Activation::Gelu,
        },
        // The end is the highest number of the vocabulary.
        eos_token_id: 2,
        ..ClipConfig::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::HashMap;

    use candle_core::Tensor;

    use super::super::tests::weights;
    use super::*;
    use crate::backbone::Pass;

    /// A text encoder as a file's shapes can tell it, its tensors by name.
    fn model(act: Activation, projects: bool) -> (ClipConfig, HashMap<String, Tensor>) {
        let config = ClipConfig {
            vocab_size: 30,
            hidden_size: 128,
            intermediate_size: 160,
            projection_dim: if projects { 24 } else { 128 },
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 7,
            hidden_act: act,
            eos_token_id: 2,
            ..ClipConfig::default()
        };
        let mut tensors = HashMap::new();
        let mut add = |name: &str, shape: &[usize]| {
            tensors.insert(name.to_owned(), weights(name, shape));
        };
        add("text_model.embeddings.token_embedding.weight", &[30, 128]);
        add("text_model.embeddings.position_embedding.weight", &[7, 128]);
        for layer in 0..2 {
            let path = |part: &str| format!("{LAYERS}{layer}.{part}");
            for part in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                add(&path(&format!("self_attn.{part}.weight")), &[128, 128]);
                add(&path(&format!("self_attn.{part}.bias")), &[128]);
            }
            for norm in ["layer_norm1", "layer_norm2"] {
                add(&path(&format!("{norm}.weight")), &[128]);
                add(&path(&format!("{norm}.bias")), &[128]);
            }
            add(&path("mlp.fc1.weight"), &[160, 128]);
            add(&path("mlp.fc1.bias"), &[160]);
            add(&path("mlp.fc2.weight"), &[128, 160]);
            add(&path("mlp.fc2.bias"), &[128]);
        }
        add("text_model.final_layer_norm.weight", &[128]);
        add("text_model.final_layer_norm.bias", &[128]);
        if projects {
            add("text_projection.weight", &[24, 128]);
        }
        (config, tensors)
    }

    /// The same tensors as OpenCLIP keeps them: stacked, renamed, the projection transposed, and one block more than is used where `extra`.
    fn open_clip(tensors: &HashMap<String, Tensor>, extra: bool) -> HashMap<String, Tensor> {
        let mut stored = HashMap::new();
        for (name, tensor) in tensors {
            let place = ldm::text::open_clip(name).unwrap();
            let tensor = match place.transposed {
                true => tensor.t().unwrap().contiguous().unwrap(),
                false => tensor.clone(),
            };
            let whole = match place.third {
                None => tensor,
                Some(0) => {
                    let part = |own: &str| &tensors[&name.replace("q_proj", own)];
                    let parts = ["q_proj", "k_proj", "v_proj"].map(part);
                    Tensor::cat(&parts, 0).unwrap()
                }
                Some(_) => continue,
            };
            stored.insert(place.name, whole);
        }
        if extra {
            let block = |name: &String| name.contains("resblocks.1.");
            let unused: Vec<_> = stored.keys().filter(|name| block(name)).cloned().collect();
            for name in unused {
                let copy = name.replace("resblocks.1.", "resblocks.2.");
                stored.insert(copy, stored[&name].ones_like().unwrap());
            }
            stored.insert("text_projection".to_owned(), weights("unused", &[128, 24]));
        }
        let scale = Tensor::zeros((), DType::F32, &Device::Cpu).unwrap();
        stored.insert("logit_scale".to_owned(), scale);
        stored
    }

    /// A file with these tensors below a prefix, and what tells it from others.
    fn file(dir: &Path, parts: &[(&str, HashMap<String, Tensor>)]) -> PathBuf {
        let mut all = HashMap::new();
        for (prefix, tensors) in parts {
            for (name, tensor) in tensors {
                all.insert(format!("{prefix}{name}"), tensor.clone());
            }
        }
        let sign = "model.diffusion_model.input_blocks.0.0.weight";
        all.insert(sign.to_owned(), weights(sign, &[2, 2]));
        let path = dir.join("model.safetensors");
        candle_core::safetensors::save(&all, &path).unwrap();
        path
    }

    #[track_caller]
    fn check(place: &Place, (config, tensors): (ClipConfig, HashMap<String, Tensor>)) {
        assert_eq!(place.config().unwrap(), config);
        let ids = Tensor::new(&[[1u32, 5, 9, 29, 0, 0, 0]], &Device::Cpu).unwrap();
        let run = |model: &ClipText| {
            let encoded = model.forward(&ids, &Pass::frozen()).unwrap();
            let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            [
                flat(&encoded.last),
                flat(&encoded.penultimate),
                flat(&encoded.pooled),
            ]
        };
        let expected = ClipText::load(config, &tensors).unwrap();
        let found = place.open(&Device::Cpu, DType::F32).unwrap();
        assert_eq!(run(&found), run(&expected));
    }

    #[test]
    fn the_encoder_of_stable_diffusion_1_is_transformers_own_behind_a_prefix() {
        let (config, tensors) = model(Activation::QuickGelu, false);
        let mut stored = tensors.clone();
        let positions = Tensor::arange(0i64, 7, &Device::Cpu).unwrap();
        let name = "text_model.embeddings.position_ids".to_owned();
        stored.insert(name, positions.unsqueeze(0).unwrap());
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &[("cond_stage_model.transformer.", stored)]);
        let (places, xl) = within(&path);
        assert_eq!((places.len(), places[0].1, xl), (1, "tokenizer", false));
        check(&places[0].0, (config, tensors));
    }

    #[test]
    fn the_encoder_of_stable_diffusion_2_is_open_clips_without_its_last_block() {
        let (config, tensors) = model(Activation::Gelu, false);
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &[(SECOND, open_clip(&tensors, true))]);
        let (places, xl) = within(&path);
        assert_eq!((places.len(), places[0].1, xl), (1, "tokenizer", false));
        check(&places[0].0, (config, tensors));
    }

    #[test]
    fn stable_diffusion_xl_has_one_of_each_kind() {
        let first = model(Activation::QuickGelu, false);
        let second = model(Activation::Gelu, true);
        let dir = tempfile::tempdir().unwrap();
        let path = file(
            dir.path(),
            &[
                ("conditioner.embedders.0.transformer.", first.1.clone()),
                (
                    "conditioner.embedders.1.model.",
                    open_clip(&second.1, false),
                ),
            ],
        );
        let (places, xl) = within(&path);
        let tokenizers: Vec<&str> = places.iter().map(|(_, part)| *part).collect();
        assert_eq!((tokenizers, xl), (vec!["tokenizer", "tokenizer_2"], true));
        check(&places[0].0, first);
        check(&places[1].0, second);

        let written = dir.path().join("written");
        let encoders = write_encoders(&path, &written, DType::F32).unwrap();
        let classes = encoders.iter().map(|encoder| (encoder.part, encoder.class));
        assert_eq!(
            classes.collect::<Vec<_>>(),
            [
                ("text_encoder", "CLIPTextModel"),
                ("text_encoder_2", "CLIPTextModelWithProjection")
            ]
        );
        for (place, encoder) in places.iter().zip(&encoders) {
            let ids = Tensor::new(&[[1u32, 5, 9, 29]], &Device::Cpu).unwrap();
            let pooled = |place: &Place| {
                let model = place.open(&Device::Cpu, DType::F32).unwrap();
                let encoded = model.forward(&ids, &Pass::frozen()).unwrap();
                encoded.pooled.flatten_all().unwrap().to_vec1::<f32>()
            };
            let folder = Place::Folder(written.join(encoder.part));
            assert_eq!(
                pooled(&folder).unwrap(),
                pooled(&place.0).unwrap(),
                "{}",
                encoder.part
            );
        }

        let error = super::super::inspect(&path).unwrap_err().to_string();
        assert!(
            error.contains("no tokenizer") && error.contains("tokenizer/"),
            "{error}"
        );
        assert!(within(dir.path()).0.is_empty());
    }
}
