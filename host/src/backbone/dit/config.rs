//! A DiT's shape, as diffusers' `config.json` states it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::Error;
use super::super::config::DIFFUSERS_VERSION;

/// The activation of the feed-forward layers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// GELU by its tanh approximation: DiT's own.
    #[default]
    #[serde(rename = "gelu-approximate")]
    GeluTanh,
    /// Exact GELU.
    #[serde(rename = "gelu")]
    GeluErf,
    /// One half of the first layer's output, times the exact GELU of the other.
    #[serde(rename = "geglu")]
    Geglu,
}

/// The configuration of a diffusers `DiTTransformer2DModel`; the defaults are diffusers'.
///
/// Fields of `config.json` that do not change the function computed are accepted and dropped (`dropout`, which is zero in every DiT; `upcast_attention`; `norm_num_groups`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DitConfig {
    /// Attention heads in each block.
    pub num_attention_heads: usize,
    /// Features a head; the width is heads times this.
    pub attention_head_dim: usize,
    /// Channels of the latents.
    pub in_channels: usize,
    /// Channels of the prediction; as many as the latents when absent, twice that with learned variance.
    pub out_channels: Option<usize>,
    /// Transformer blocks.
    pub num_layers: usize,
    /// Whether the query, key and value layers have biases (the output layer always has one).
    pub attention_bias: bool,
    /// Side of the latents it was trained on, in latent pixels.
    pub sample_size: usize,
    /// Side of a patch, in latent pixels.
    pub patch_size: usize,
    /// Activation of the feed-forward layers.
    pub activation_fn: Activation,
    /// Classes; the table of class embeddings has one more row, for the null class.
    pub num_embeds_ada_norm: usize,
    /// `ada_norm_zero`: the only kind a DiT has.
    pub norm_type: String,
    /// Whether the norm before the feed-forward layers has its own scale and shift.
    pub norm_elementwise_affine: bool,
    /// Epsilon of the norm before the feed-forward layers (the others use 1e-6).
    pub norm_eps: f64,
}

impl Default for DitConfig {
    fn default() -> Self {
        Self {
            num_attention_heads: 16,
            attention_head_dim: 72,
            in_channels: 4,
            out_channels: None,
            num_layers: 28,
            attention_bias: true,
            sample_size: 32,
            patch_size: 2,
            activation_fn: Activation::GeluTanh,
            num_embeds_ada_norm: 1000,
            norm_type: ADA_NORM_ZERO.to_owned(),
            norm_elementwise_affine: false,
            norm_eps: 1e-5,
        }
    }
}

const ADA_NORM_ZERO: &str = "ada_norm_zero";

/// The class diffusers builds from a DiT's `config.json`.
pub(crate) const CLASS_NAME: &str = "DiTTransformer2DModel";

impl DitConfig {
    /// Reads the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it is not JSON, describes another class of model, or asks for what is not implemented.
    pub fn from_json(text: &str, file: &str) -> Result<Self, Error> {
        let malformed = |reason: serde_json::Error| Error::Json {
            file: file.to_owned(),
            reason: reason.to_string(),
        };
        let value: Value = serde_json::from_str(text).map_err(malformed)?;
        let class = value["_class_name"]
            .as_str()
            .unwrap_or("model without a `_class_name`");
        let norm_type = value["norm_type"].as_str();
        let supported = match class {
            CLASS_NAME => true,
            // Before 0.30 diffusers kept DiT in its general transformer, told apart by the kind of norm.
            "Transformer2DModel" => {
                norm_type == Some(ADA_NORM_ZERO) && !value["patch_size"].is_null()
            }
            _ => false,
        };
        if !supported {
            let found = match (class, norm_type) {
                ("Transformer2DModel", Some(norm)) => format!("{class} with norm_type {norm}"),
                _ => class.to_owned(),
            };
            return Err(Error::UnsupportedClass {
                file: file.to_owned(),
                found,
            });
        }
        if let Some(activation) = value["activation_fn"].as_str()
            && serde_json::from_value::<Activation>(value["activation_fn"].clone()).is_err()
        {
            return Err(invalid(
                "activation_fn",
                activation,
                "gelu-approximate, gelu or geglu",
            ));
        }
        if value["num_embeds_ada_norm"].is_null() && value.get("num_embeds_ada_norm").is_some() {
            return Err(invalid(
                "num_embeds_ada_norm",
                "null",
                "the number of classes",
            ));
        }
        let config: Self = serde_json::from_value(value).map_err(malformed)?;
        config.check()?;
        Ok(config)
    }

    /// The text of a `config.json` that diffusers reads.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!({
            "_class_name": CLASS_NAME,
            "_diffusers_version": DIFFUSERS_VERSION,
            "dropout": 0.0,
            "norm_num_groups": 32,
            "upcast_attention": false,
        });
        if let (Some(all), Ok(Value::Object(own))) =
            (value.as_object_mut(), serde_json::to_value(self))
        {
            all.extend(own);
        }
        format!("{value:#}\n")
    }

    /// Whether the numbers make a network.
    pub(crate) fn check(&self) -> Result<(), Error> {
        for (setting, value) in [
            ("num_attention_heads", self.num_attention_heads),
            ("attention_head_dim", self.attention_head_dim),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels()),
            ("num_layers", self.num_layers),
            ("sample_size", self.sample_size),
            ("patch_size", self.patch_size),
            ("num_embeds_ada_norm", self.num_embeds_ada_norm),
        ] {
            if value == 0 {
                return Err(invalid(setting, "0", "at least 1"));
            }
        }
        if self.norm_type != ADA_NORM_ZERO {
            return Err(invalid("norm_type", &self.norm_type, ADA_NORM_ZERO));
        }
        if !self.sample_size.is_multiple_of(self.patch_size) {
            let expected = format!("a multiple of patch_size, {}", self.patch_size);
            return Err(invalid(
                "sample_size",
                &self.sample_size.to_string(),
                &expected,
            ));
        }
        if !self.width().is_multiple_of(4) {
            let found = format!(
                "{} ({} heads)",
                self.attention_head_dim, self.num_attention_heads
            );
            let expected = "a width (heads times this) divisible by 4, for the position embedding";
            return Err(invalid("attention_head_dim", &found, expected));
        }
        Ok(())
    }

    /// Width of the hidden states.
    pub fn width(&self) -> usize {
        self.num_attention_heads * self.attention_head_dim
    }

    /// Channels of the prediction.
    pub fn out_channels(&self) -> usize {
        self.out_channels.unwrap_or(self.in_channels)
    }

    /// Whether the second half of the prediction's channels is the variance.
    pub fn learned_variance(&self) -> bool {
        self.out_channels() == 2 * self.in_channels
    }

    /// Patches along a side of the latents it was trained on; the unit of the position embedding.
    pub fn base_grid(&self) -> usize {
        self.sample_size / self.patch_size
    }
}

pub(crate) fn invalid(setting: &'static str, found: &str, expected: &str) -> Error {
    Error::Config {
        setting,
        found: found.to_owned(),
        expected: expected.to_owned(),
    }
}
