//! The result as a folder: for a UNet diffusers' `ControlNetModel`, for a DiT the same in its own names.

use std::collections::BTreeMap;

use plugin_api::{AdapterFile, Error, Result, Tensor};
use serde_json::{Map, Value, json};

/// The keys of a UNet's configuration that diffusers' ControlNet has too.
const SHARED: [&str; 27] = [
    "in_channels",
    "flip_sin_to_cos",
    "freq_shift",
    "down_block_types",
    "mid_block_type",
    "only_cross_attention",
    "block_out_channels",
    "layers_per_block",
    "downsample_padding",
    "mid_block_scale_factor",
    "act_fn",
    "norm_num_groups",
    "norm_eps",
    "cross_attention_dim",
    "transformer_layers_per_block",
    "encoder_hid_dim",
    "encoder_hid_dim_type",
    "attention_head_dim",
    "num_attention_heads",
    "use_linear_projection",
    "class_embed_type",
    "addition_embed_type",
    "addition_time_embed_dim",
    "num_class_embeds",
    "upcast_attention",
    "resnet_time_scale_shift",
    "projection_class_embeddings_input_dim",
];

/// What the configuration says beside the backbone's own.
pub(crate) struct Facts<'a> {
    /// The backbone's `config.json`.
    pub(crate) backbone: &'a str,
    /// Whether the backbone is a UNet.
    pub(crate) unet: bool,
    /// How many blocks of a DiT are copied.
    pub(crate) blocks: usize,
    /// Channels of the embedding's stages.
    pub(crate) channels: &'a [usize],
    /// Order of a hint's channels.
    pub(crate) order: &'a str,
}

impl Facts<'_> {
    /// The `config.json`.
    ///
    /// # Errors
    /// A configuration of the backbone that is no JSON object.
    pub(crate) fn config(&self) -> Result<Value> {
        let backbone: Map<String, Value> = serde_json::from_str(self.backbone)
            .map_err(|error| Error::msg(format!("the backbone's configuration: {error}")))?;
        let mut config = Map::new();
        let class = if self.unet {
            "ControlNetModel"
        } else {
            "DiTControlNet"
        };
        config.insert("_class_name".to_owned(), json!(class));
        for (key, value) in backbone {
            if !key.starts_with('_') && (!self.unet || SHARED.contains(&key.as_str())) {
                config.insert(key, value);
            }
        }
        if !self.unet {
            config.insert("copied_blocks".to_owned(), json!(self.blocks));
        }
        for (key, value) in [
            ("conditioning_channels", json!(3)),
            ("conditioning_embedding_out_channels", json!(self.channels)),
            ("controlnet_conditioning_channel_order", json!(self.order)),
            ("global_pool_conditions", json!(false)),
        ] {
            config.insert(key.to_owned(), value);
        }
        Ok(Value::Object(config))
    }

    /// The folder's files.
    ///
    /// # Errors
    /// As [`Facts::config`].
    pub(crate) fn file(&self, tensors: &BTreeMap<String, Tensor>) -> Result<AdapterFile> {
        let mut file = AdapterFile::new("diffusion_pytorch_model.safetensors");
        for (name, tensor) in tensors {
            file = file.tensor(name, tensor);
        }
        Ok(file.text("config.json", format!("{:#}\n", self.config()?)))
    }
}
