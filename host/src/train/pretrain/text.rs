//! Pretraining a text encoder by contrast with pictures (Radford et al. 2021, section 2.3): of a batch, a caption is to lie nearest to its own picture, and a
//! picture to its own caption. The tokenizer is learned from the captions first.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{D, DType, Device, Tensor};
use serde::{Deserialize, Serialize};

use super::super::{Ending, Error};
use super::module::{Loss, Module};
use super::tower::Tower;
use super::{Recipe, Sections, resumed};
use crate::backbone::{Overlay, Pass};
use crate::cancel::Cancel;
use crate::config::{DataSection, RunSection, SampleSection, TrainSection};
use crate::data::{Batch, Dataset};
use crate::report::Progress;
use crate::text::{ClipConfig, ClipText, Tokenizer, make_tokenizer};

/// Captions that the tokenizer is learned from.
const READ: usize = 20_000;
/// The name of the logarithm of what the likenesses are multiplied by, and its start.
const SCALE: (&str, f32) = ("logit_scale", 2.659_26); // ln(1 / 0.07)
/// The folder of the tokenizer beside the encoder's.
const TOKENIZER: &str = "tokenizer";

/// What a recipe file for a text encoder holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TextRecipe {
    /// Where the run goes.
    pub run: RunSection,
    /// The encoder to make; the size of its vocabulary and the token that ends a text come from the tokenizer.
    pub text_encoder: ClipConfig,
    /// What to train it on: pictures with captions.
    pub data: DataSection,
    /// How.
    pub train: TrainSection,
}

impl Recipe for TextRecipe {
    const MAKES: &'static str = "text encoder";
    const FOLDER: &'static str = "text_encoder";

    fn sections(&mut self) -> Sections<'_> {
        Sections {
            run: &mut self.run,
            data: &self.data,
            train: &mut self.train,
            sample: SampleSection::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.text_encoder.check().map_err(|reason| Error::Recipe {
            key: "text_encoder",
            expected: format!("one that can be built: {reason}"),
        })?;
        let dataset = super::dataset(&self.data, 64)?;
        match dataset.get(0)?.caption {
            Some(_) => Ok(()),
            None => Err(Error::Recipe {
                key: "data.source",
                expected: "pictures with captions".to_owned(),
            }),
        }
    }

    fn follow(
        &self,
        run: &Path,
        resume: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Ending, Error> {
        let dataset = super::dataset(&self.data, 64)?;
        let resumed = resumed(run, resume)?;
        let longest = self.text_encoder.max_position_embeddings;
        let place = run.join(TOKENIZER);
        make_tokenizer(captions(&dataset).into_iter(), longest, &place)?;
        let tokenizer = Tokenizer::open(&place, longest)?;
        let pair = Pair::init(self, tokenizer)?;
        let source = (dataset, self.data.workers);
        let start = pair.parameters();
        let mut module = Module::new(start, self.train.clone(), source, resumed.as_ref())?;
        let ending = module.fit(run, progress, cancel, &|overlay, batch, _| {
            pair.loss(overlay, batch)
        })?;
        if ending == Ending::Finished {
            let place = run.join(TextRecipe::FOLDER);
            pair.text.save(&place, &module.best(), DType::F16)?;
        }
        Ok(ending)
    }
}

/// Captions from all over the data.
fn captions(dataset: &Arc<dyn Dataset>) -> Vec<String> {
    let read = READ.min(dataset.len());
    let at = |index: usize| index * (dataset.len() / read);
    // An item that cannot be read teaches no words; the training says so.
    (0..read)
        .filter_map(|index| dataset.get(at(index)).ok()?.caption)
        .collect()
}

/// Both halves of CLIP.
struct Pair {
    tokenizer: Tokenizer,
    text: ClipText,
    tower: Tower,
    scale: Tensor,
}

impl Pair {
    fn init(recipe: &TextRecipe, tokenizer: Tokenizer) -> Result<Self, Error> {
        let config = ClipConfig {
            vocab_size: tokenizer.vocabulary(),
            bos_token_id: tokenizer.begin(),
            eos_token_id: tokenizer.end(),
            ..recipe.text_encoder.clone()
        };
        let seed = recipe.train.seed;
        Ok(Self {
            tower: Tower::init(config.hidden_size, seed)?,
            text: ClipText::init(config, seed)?,
            tokenizer,
            scale: Tensor::new(SCALE.1, &Device::Cpu)?,
        })
    }

    fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        let halves = self.text.parameters().iter().chain(&self.tower.parameters);
        (halves.map(|(name, tensor)| (name.as_str(), tensor))).chain([(SCALE.0, &self.scale)])
    }

    fn loss(&self, overlay: &Overlay, batch: &Batch) -> Result<Loss, Error> {
        let pass = Pass {
            overlay: Some(overlay),
            ..Pass::default()
        };
        let pictures = batch.tensors.get("images").ok_or(Error::NoImages)?; // [B, 3, H, W]
        let captions = batch.meta.get("captions").map(String::as_str);
        let captions: Vec<String> =
            serde_json::from_str(captions.unwrap_or("[]")).unwrap_or_default();
        let count = pictures.dim(0)?;
        if captions.len() != count {
            return Err(Error::Recipe {
                key: "data.source",
                expected: "pictures that all have captions".to_owned(),
            });
        }
        let mut ids = Vec::new();
        for caption in &captions {
            ids.extend(self.tokenizer.encode(caption)?.ids);
        }
        let ids = Tensor::from_vec(ids, (count, self.tokenizer.length()), pictures.device())?;
        let texts = unit(&self.text.forward(&ids, &pass)?.pooled)?; // [B, D]
        let pictures = unit(&self.tower.forward(pictures, &pass)?)?; // [B, D]
        let scale = overlay.get(SCALE.0).unwrap_or(&self.scale).exp()?;
        let likeness = texts.matmul(&pictures.t()?)?.broadcast_mul(&scale)?; // [B, B]
        let own = Tensor::arange(0u32, count as u32, likeness.device())?;
        let by_text = candle_nn::loss::cross_entropy(&likeness, &own)?;
        let by_picture = candle_nn::loss::cross_entropy(&likeness.t()?.contiguous()?, &own)?;
        let told = likeness.argmax(D::Minus1)?.eq(&own)?.to_dtype(DType::F32)?;
        let right = f64::from(told.mean_all()?.to_scalar::<f32>()?);
        Ok(Loss {
            total: ((by_text + by_picture)? * 0.5)?,
            parts: BTreeMap::from([("accuracy".to_owned(), right)]),
        })
    }
}

/// Rows of length one, `[B, D]`.
fn unit(x: &Tensor) -> candle_core::Result<Tensor> {
    let length = x
        .sqr()?
        .sum_keepdim(D::Minus1)?
        .affine(1.0, 1e-12)?
        .sqrt()?;
    x.broadcast_div(&length)
}
