//! The bag of named data that travels from the dataset through the hooks.

use std::collections::BTreeMap;

use crate::{Error, Result, Tensor, message::message};

message! {
    /// What one step works on, by name. Hooks may add names; a plugin prefixes its own with its id (`diff_tuning.memory`).
    ///
    /// Names the host uses:
    ///
    /// | name | in | shape, dtype | meaning |
    /// |---|---|---|---|
    /// | `images` | tensors | `[B, 3, H, W]` f32 in -1..1 | the pictures; in training always present |
    /// | `latents` | tensors | `[B, C, h, w]` f32 | latents to train on, where a `batch` hook brought some: the pictures are then not encoded |
    /// | `class_labels` | tensors | `[B]` u32 | classes; the value `num_classes` of the backbone means "no class" |
    /// | `loss_mask` | tensors | `[B, 1, h, w]` f32 in 0..1, latent size | where the default objective counts; default: the noise mask |
    /// | `encoder_hidden_states` | tensors | `[B, S, D]` f32 | encoded captions, once the host has encoded them (after slot `batch`); a plugin that sets them is not overruled |
    /// | `text_embeds`, `time_ids` | tensors | `[B, P]`, `[B, 6]` f32 | of Stable Diffusion XL, beside the former |
    /// | `captions` | texts | B strings | captions; an empty one is no text |
    /// | `origins` | texts | B strings | which part of a larger picture an image shows: `HEIGHTxWIDTH+TOP+LEFT` of that picture, and of the crop in it once resized |
    /// | `names` | texts | B strings | where each sample came from, for messages |
    ///
    /// Further pictures of the dataset (`source`, `reference_1`, ...) appear under their own names, `[B, 3, H, W]` f32 in -1..1 and of the size of `images`; those
    /// called `mask`, `mask_..` or `.._mask` are masks, `[B, 1, H, W]` in 0..1; `depth` is `[B, 1, H, W]` in 0..1 with 0 where nothing is known, `normals` are vectors `[B, 3, H, W]` of
    /// unit length to the precision of 8 bits (x right, y up, z towards the camera) with zero vectors where nothing is known. In sampling they are in the bag of `sample_begin`, beside `images`.
    pub struct Batch {
        /// Tensors; the first dimension is the sample.
        pub tensors: BTreeMap<String, Tensor>,
        /// One text a sample.
        pub texts: BTreeMap<String, Vec<String>>,
        /// Facts about the whole batch.
        pub meta: BTreeMap<String, String>,
    }
}

impl Default for Batch {
    fn default() -> Self {
        Batch::new()
    }
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Batch {
            tensors: BTreeMap::new(),
            texts: BTreeMap::new(),
            meta: BTreeMap::new(),
        }
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// [`Error::NotInBatch`], which lists the names there are.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors
            .get(name)
            .ok_or_else(|| not_in_batch(name, self.tensors.keys()))
    }

    /// Adds or replaces the tensor called `name`.
    pub fn set(&mut self, name: impl Into<String>, tensor: Tensor) {
        self.tensors.insert(name.into(), tensor);
    }

    /// The texts called `name`, one a sample.
    ///
    /// # Errors
    /// [`Error::NotInBatch`], which lists the names there are.
    pub fn texts(&self, name: &str) -> Result<&[String]> {
        let texts = self
            .texts
            .get(name)
            .ok_or_else(|| not_in_batch(name, self.texts.keys()))?;
        Ok(texts)
    }

    /// The pictures, `[B, 3, H, W]` f32 in -1..1.
    ///
    /// # Errors
    /// [`Error::NotInBatch`] when sampling without input pictures.
    pub fn images(&self) -> Result<&Tensor> {
        self.get("images")
    }

    /// The class labels, `[B]` u32, or `None` for data without classes.
    pub fn class_labels(&self) -> Option<&Tensor> {
        self.tensors.get("class_labels")
    }

    /// Number of samples; 0 for an empty batch.
    pub fn len(&self) -> usize {
        let tensor = self
            .tensors
            .get("images")
            .or_else(|| self.tensors.values().next());
        let rows = tensor.and_then(|tensor| tensor.dims().first().copied());
        rows.or_else(|| self.texts.values().next().map(Vec::len))
            .unwrap_or(0)
    }

    /// Whether there is no sample.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn not_in_batch<'a>(name: &str, present: impl Iterator<Item = &'a String>) -> Error {
    let mut present = present.map(String::as_str).collect::<Vec<_>>().join(", ");
    if present.is_empty() {
        present.push_str("nothing");
    }
    Error::NotInBatch {
        name: name.to_owned(),
        present,
    }
}
