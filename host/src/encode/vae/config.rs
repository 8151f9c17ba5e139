//! The shape of an `AutoencoderKL`, as diffusers' `config.json` states it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Error;

/// The configuration of a diffusers `AutoencoderKL`; the defaults are diffusers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VaeConfig {
    /// Channels of pictures.
    pub in_channels: usize,
    /// Channels of decoded pictures.
    pub out_channels: usize,
    /// Kinds of the encoder's levels; `DownEncoderBlock2D` is the one there is.
    pub down_block_types: Vec<String>,
    /// Kinds of the decoder's levels; `UpDecoderBlock2D` is the one there is.
    pub up_block_types: Vec<String>,
    /// Channels of each level, from the pictures inwards; each level after the first has half the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of a level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// The activation; `silu` (or `swish`) is the one there is.
    pub act_fn: String,
    /// Channels of latents.
    pub latent_channels: usize,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// What latents are multiplied by, so that their variance is about one.
    pub scaling_factor: f64,
    /// What is subtracted from latents before they are scaled.
    pub shift_factor: Option<f64>,
    /// Whether a 1x1 convolution follows the encoder.
    pub use_quant_conv: bool,
    /// Whether a 1x1 convolution precedes the decoder.
    pub use_post_quant_conv: bool,
    /// Whether the middle has attention.
    pub mid_block_add_attention: bool,
}

impl Default for VaeConfig {
    fn default() -> Self {
        Self {
            in_channels: 3,
            out_channels: 3,
            down_block_types: vec![DOWN.to_owned()],
            up_block_types: vec![UP.to_owned()],
            block_out_channels: vec![64],
            layers_per_block: 1,
            act_fn: "silu".to_owned(),
            latent_channels: 4,
            norm_num_groups: 32,
            scaling_factor: 0.18215,
            shift_factor: None,
            use_quant_conv: true,
            use_post_quant_conv: true,
            mid_block_add_attention: true,
        }
    }
}

const CLASS_NAME: &str = "AutoencoderKL";
const DOWN: &str = "DownEncoderBlock2D";
const UP: &str = "UpDecoderBlock2D";

impl VaeConfig {
    /// Reads the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it is not JSON, describes another class of model, or asks for what is not implemented.
    pub fn from_json(text: &str, file: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Config {
            file: file.to_owned(),
            reason,
        };
        let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        let class = value["_class_name"].as_str().unwrap_or("no class");
        if class != CLASS_NAME {
            return Err(refuse(format!(
                "it describes `{class}`, and the host reads `{CLASS_NAME}`"
            )));
        }
        if !value["latents_mean"].is_null() || !value["latents_std"].is_null() {
            return Err(refuse(
                "it normalises latents by `latents_mean` and `latents_std`, which the host does not"
                    .to_owned(),
            ));
        }
        let config: Self =
            serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
        config.check().map_err(refuse)?;
        Ok(config)
    }

    /// Pictures are this many times as high and wide as their latents.
    pub fn factor(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }

    /// The text of a `config.json` that diffusers reads.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!(self);
        value["_class_name"] = CLASS_NAME.into();
        format!("{value:#}")
    }

    /// Whether the host can build it.
    ///
    /// # Errors
    /// What it asks for that is not implemented, or that does not fit together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let levels = self.block_out_channels.len();
        if levels == 0 || self.layers_per_block == 0 || self.latent_channels == 0 {
            return Err(
                "`block_out_channels`, `layers_per_block` and `latent_channels` must not be empty or 0"
                    .to_owned(),
            );
        }
        if self.in_channels != 3 || self.out_channels != 3 {
            return Err(format!(
                "it takes {} channels and gives {}, but pictures have 3",
                self.in_channels, self.out_channels
            ));
        }
        for (kinds, only) in [(&self.down_block_types, DOWN), (&self.up_block_types, UP)] {
            if let Some(other) = kinds.iter().find(|kind| *kind != only) {
                return Err(format!(
                    "it has a level of kind `{other}`, and the host knows `{only}`"
                ));
            }
            if kinds.len() != levels {
                return Err(format!(
                    "it names {} kinds of levels for {levels} levels",
                    kinds.len()
                ));
            }
        }
        if !["silu", "swish"].contains(&self.act_fn.as_str()) {
            return Err(format!(
                "its activation is `{}`, and the host knows `silu`",
                self.act_fn
            ));
        }
        let groups = self.norm_num_groups;
        if groups == 0 || (self.block_out_channels.iter()).any(|width| width % groups != 0) {
            return Err(format!(
                "the channels {:?} do not divide into {groups} groups",
                self.block_out_channels
            ));
        }
        Ok(())
    }
}
