//! Adapter files that others wrote, read for a plugin that goes on from one: a LoRA of diffusers, PEFT or kohya.

use std::collections::BTreeMap;

use super::ReadAdapter;
use crate::{
    Host, Result, Tensor,
    message::{list_items, message},
};

message! {
    /// Asks for an adapter file's content.
    pub struct ReadAdapterIn {
        /// The file, or the folder that PEFT or a run wrote.
        pub path: String,
    }
}

message! {
    /// What an adapter file holds for one layer of the backbone, under PEFT's names whatever the file's own format.
    pub struct LayerUpdate {
        /// Path of the layer, as [`LayerInfo::path`](crate::LayerInfo) has it.
        pub path: String,
        /// `lora`, `loha`, `lokr` or `ia3`; `full` for a weight or bias that the file replaces.
        pub kind: String,
        /// Rank; 0 for a kind without one.
        pub rank: usize,
        /// The file's alpha; the rank where it says none.
        pub alpha: f64,
        /// What the update is multiplied by: `alpha / rank`, `alpha / sqrt(rank)` with rsLoRA, 1 for a kind without a rank.
        pub scale: f64,
        /// f32 tensors by PEFT's part names, in PEFT's shapes.
        ///
        /// - `lora`: `lora_A` `[r, I]`, `lora_B` `[O, r]`; of a convolution `[r, I, KH, KW]` and `[O, r, 1, 1]`; of an embedding
        ///   `lora_embedding_A` `[r, rows]`, `lora_embedding_B` `[O, r]`. `lora_magnitude_vector` `[O]` with DoRA, `lora_B.bias` `[O]` if there.
        /// - `loha`: `hada_w1_a`, `hada_w1_b`, `hada_w2_a`, `hada_w2_b`, and `hada_t1`, `hada_t2` of an effective convolution.
        /// - `lokr`: `lokr_w1` or `lokr_w1_a` and `lokr_w1_b`; `lokr_w2` or `lokr_w2_a` and `lokr_w2_b`, with `lokr_t2` of an effective convolution.
        /// - `ia3`: `ia3_l`, `[O]` of outputs; `ia3_l_inputs`, `[I]` of inputs (PEFT's feed-forward layers).
        /// - `full`: `weight`, `bias`.
        pub tensors: BTreeMap<String, Tensor>,
    }
}

message! {
    /// An adapter file's content.
    pub struct AdapterUpdates {
        /// One entry for each layer of the backbone that the file has something for, in the backbone's order; never empty.
        pub layers: Vec<LayerUpdate>,
        /// Keys of the file that are for the denoiser and fit no layer of this backbone.
        pub unmatched: Vec<String>,
        /// How many keys are for another part of a pipeline, such as a text encoder.
        pub other_parts: usize,
    }
}

list_items!(LayerUpdate);

impl Host {
    /// Reads an adapter file for the backbone's layers, to go on training from it: diffusers' `pytorch_lora_weights.safetensors`, a folder of PEFT's, or a
    /// kohya or LyCORIS file. The tensors carry no gradient; start a parameter from one with [`Init::Value`](super::Init::Value).
    ///
    /// Relative paths are relative to the working directory; a plugin's setting that is a path should be made absolute by its user.
    ///
    /// # Errors
    /// A file that is missing, damaged, a pickle or no adapter; one of which no key fits a layer of this backbone, with near paths; shapes that do not fit.
    pub fn read_adapter(&self, path: &std::path::Path) -> Result<AdapterUpdates> {
        self.call::<ReadAdapter>(ReadAdapterIn {
            path: path.to_string_lossy().into_owned(),
        })
    }
}
