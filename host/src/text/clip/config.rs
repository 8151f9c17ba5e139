//! The shape of a CLIP text model, as the `config.json` of transformers states it.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::text::Error;

/// The configuration of a `CLIPTextModel` or `CLIPTextModelWithProjection`; the defaults are transformers'.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClipConfig {
    /// Rows of the table of tokens.
    pub vocab_size: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Width inside a block's feed-forward part.
    pub intermediate_size: usize,
    /// Width of the projected pooled output, where there is a projection.
    pub projection_dim: usize,
    /// Blocks.
    pub num_hidden_layers: usize,
    /// Heads of each block's attention.
    pub num_attention_heads: usize,
    /// Most tokens of a text.
    pub max_position_embeddings: usize,
    /// The activation of the feed-forward part.
    pub hidden_act: Activation,
    /// Added to the variance in the norms.
    pub layer_norm_eps: f64,
    /// The token that begins a text; the host takes it from the tokenizer.
    pub bos_token_id: u32,
    /// The token that ends a text; 2 in old files, whatever their tokenizer says.
    pub eos_token_id: u32,
    /// The class it was saved from.
    pub architectures: Vec<String>,
}

/// An activation by transformers' name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `x sigmoid(1.702 x)`: OpenAI's.
    QuickGelu,
    /// The exact GELU: OpenCLIP's.
    Gelu,
}

impl Default for ClipConfig {
    fn default() -> Self {
        Self {
            vocab_size: 49408,
            hidden_size: 512,
            intermediate_size: 2048,
            projection_dim: 512,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            max_position_embeddings: 77,
            hidden_act: Activation::QuickGelu,
            layer_norm_eps: 1e-5,
            bos_token_id: 49406,
            eos_token_id: 49407,
            architectures: Vec::new(),
        }
    }
}

const MODEL_TYPE: &str = "clip_text_model";

impl ClipConfig {
    /// Reads the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it is not JSON, describes another kind of model, or asks for what is not implemented.
    pub fn from_json(text: &str, file: &str) -> Result<Self, Error> {
        let refuse = |reason: String| Error::Config {
            file: file.to_owned(),
            reason,
        };
        let value: Value = serde_json::from_str(text).map_err(|error| refuse(error.to_string()))?;
        if value["model_type"] != MODEL_TYPE {
            let found = value["architectures"][0]
                .as_str()
                .or(value["model_type"].as_str())
                .unwrap_or("no model type");
            return Err(refuse(format!(
                "it describes `{found}`, and the host reads `CLIPTextModel` and `CLIPTextModelWithProjection`"
            )));
        }
        if value["use_attention_mask"] == true {
            return Err(refuse(
                "its `use_attention_mask` is true, and the host lets texts see their padding, as Stable Diffusion does".to_owned(),
            ));
        }
        let config: Self =
            serde_json::from_value(value).map_err(|error| refuse(error.to_string()))?;
        config.check().map_err(refuse)?;
        Ok(config)
    }

    /// Whether it was saved as a model with a projection.
    pub(super) fn says_projection(&self) -> bool {
        (self.architectures.iter()).any(|class| class.ends_with("WithProjection"))
    }

    /// The text of a `config.json` that transformers reads.
    pub fn to_json(&self) -> String {
        let mut value = serde_json::json!(self);
        value["model_type"] = MODEL_TYPE.into();
        // What transformers is to compute in. Left to itself it takes the type of the weights, and diffusers f32 for the rest of the pipeline, whatever is stored.
        value["dtype"] = "float32".into();
        format!("{value:#}")
    }

    /// Whether the host can build it.
    ///
    /// # Errors
    /// What does not fit together.
    pub(crate) fn check(&self) -> Result<(), String> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("intermediate_size", self.intermediate_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(format!("`{name}` is 0"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(format!(
                "`hidden_size` {} does not divide into {} heads",
                self.hidden_size, self.num_attention_heads
            ));
        }
        // A text has a beginning, an end, and something between them.
        if self.max_position_embeddings < 3 {
            return Err(format!(
                "`max_position_embeddings` is {}, expected 3 or more",
                self.max_position_embeddings
            ));
        }
        Ok(())
    }
}
