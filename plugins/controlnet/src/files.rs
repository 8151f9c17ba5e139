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

/// Those that are one number in a ControlNet's configuration, and may be one a level in a UNet's.
const SINGLE: [&str; 2] = ["layers_per_block", "cross_attention_dim"];

/// The number that a list has at every level; anything else as it is.
fn single(value: Value) -> Value {
    match value.as_array().map(Vec::as_slice) {
        Some([first, rest @ ..]) if rest.iter().all(|other| other == first) => first.clone(),
        _ => value,
    }
}

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
                let value = match SINGLE.contains(&key.as_str()) {
                    true => single(value),
                    false => value,
                };
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_configuration_has_what_a_control_net_knows_and_one_number_for_all_levels() {
        let backbone = r#"{"_class_name": "UNet2DConditionModel", "sample_size": 8, "layers_per_block": [2, 2], "attention_head_dim": [1, 2]}"#;
        let facts = Facts {
            backbone,
            unet: true,
            blocks: 7,
            channels: &[16, 32],
            order: "rgb",
        };
        let config = facts.config().unwrap();
        assert_eq!(config["_class_name"], "ControlNetModel");
        assert_eq!(config["layers_per_block"], 2);
        assert_eq!(config["attention_head_dim"], json!([1, 2]));
        assert_eq!(
            config["conditioning_embedding_out_channels"],
            json!([16, 32])
        );
        assert!(config.get("sample_size").is_none() && config.get("copied_blocks").is_none());
    }
}
