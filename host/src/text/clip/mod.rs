//! The text half of CLIP (Radford et al. 2021, section 2.4), as transformers computes it: what Stable Diffusion is conditioned on.
//!
//! Our own because the ready one of candle-transformers knows four fixed configurations, gives no hidden state but the last, and has no projection: Stable
//! Diffusion XL needs the last but one and the projected summary.

mod config;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{D, DType, Device, Result, Tensor};

pub use config::{Activation, ClipConfig};

use super::Error;
use crate::backbone::{
    self, Assembly, Embedding, Initial, LayerNorm, Linear, ModelFolder, Overlay, Parameter, Pass,
    Source, write_folder,
};
use crate::ops;

/// A text model with frozen weights.
#[derive(Debug)]
pub struct ClipText {
    config: ClipConfig,
    tokens: Embedding,
    positions: Parameter,
    blocks: Vec<Block>,
    final_norm: LayerNorm,
    projection: Option<Linear>,
    parameters: Vec<(String, Tensor)>,
}

/// What the model makes of texts, `B` of them of `S` tokens.
#[derive(Clone, Debug)]
pub struct Encoded {
    /// After the last block and the final norm, `[B, S, D]`: Stable Diffusion 1 and 2.
    pub last: Tensor,
    /// Before the last block, without the norm, `[B, S, D]`: Stable Diffusion XL.
    pub penultimate: Tensor,
    /// `last` at the token that ends the text, projected where the model has a projection, `[B, P]`.
    pub pooled: Tensor,
}

impl ClipText {
    /// Reads a `text_encoder/` folder as transformers writes it: `config.json` beside the weights, whole or in shards, in full or half precision.
    ///
    /// # Errors
    /// What cannot be read, and a configuration that the host does not implement or that the weights do not fit.
    pub fn open(dir: &Path, device: &Device, dtype: DType) -> std::result::Result<Self, Error> {
        let config = read_config(dir)?;
        let folder = ModelFolder::open(dir, device, dtype, &full_name)?;
        Ok(Self::load(config, &folder)?)
    }

    /// One that has learned nothing, for pretraining.
    ///
    /// # Errors
    /// A device that fails.
    pub fn init(config: ClipConfig, seed: u64) -> std::result::Result<Self, backbone::Error> {
        let initial = Initial {
            seed,
            device: &Device::Cpu,
            zeros: &|_| false,
        };
        Self::load(config, &initial)
    }

    /// Builds the model from parameters by transformers' names (`text_model.encoder.layers.0.self_attn.q_proj.weight`).
    pub(crate) fn load(
        config: ClipConfig,
        source: &dyn Source,
    ) -> std::result::Result<Self, backbone::Error> {
        let mut net = Assembly::new(source);
        let width = config.hidden_size;
        let eps = config.layer_norm_eps;
        let rows = (config.vocab_size, config.max_position_embeddings);
        let tokens = net.embedding("text_model.embeddings.token_embedding", rows.0, width)?;
        let positions = net.parameter(
            "text_model.embeddings.position_embedding.weight".to_owned(),
            &[rows.1, width],
        )?;
        let blocks = (0..config.num_hidden_layers)
            .map(|index| {
                Block::load(
                    &mut net,
                    &format!("text_model.encoder.layers.{index}"),
                    &config,
                )
            })
            .collect::<std::result::Result<_, _>>()?;
        let final_norm = net.layer_norm("text_model.final_layer_norm", width, eps)?;
        let projects = config.says_projection() || source.shape("text_projection.weight").is_some();
        let projection = match projects {
            true => Some(net.linear("text_projection", width, config.projection_dim, false)?),
            false => None,
        };
        let parameters = net.finish()?.parameters;
        Ok(Self {
            config,
            tokens,
            positions,
            blocks,
            final_norm,
            projection,
            parameters,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &ClipConfig {
        &self.config
    }

    /// Every parameter with its name, in the order of the network.
    pub fn parameters(&self) -> &[(String, Tensor)] {
        &self.parameters
    }

    /// Writes a `text_encoder/` folder as transformers reads it, with `trained` in place of the parameters of the same names.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn save(
        &self,
        dir: &Path,
        trained: &Overlay,
        dtype: DType,
    ) -> std::result::Result<(), Error> {
        let tensors: BTreeMap<String, &Tensor> = (self.parameters.iter())
            .map(|(name, tensor)| (name.clone(), trained.get(name).unwrap_or(tensor)))
            .collect();
        let config = ClipConfig {
            architectures: vec![self.class().to_owned()],
            ..self.config.clone()
        };
        let config = config.to_json();
        Ok(write_folder(dir, "model", &config, &tensors, dtype)?)
    }

    /// transformers' class for it.
    pub fn class(&self) -> &'static str {
        match self.projection {
            Some(_) => "CLIPTextModelWithProjection",
            None => "CLIPTextModel",
        }
    }

    /// Width of [`Encoded::pooled`].
    pub fn summary_width(&self) -> usize {
        match self.projection {
            Some(_) => self.config.projection_dim,
            None => self.config.hidden_size,
        }
    }

    /// Encodes tokens `[B, S]` u32, `S` at most [`ClipConfig::max_position_embeddings`]; every token sees those before it. Gradients flow to what `pass`
    /// stands in for the parameters.
    ///
    /// # Errors
    /// Too many tokens, or one that the table lacks.
    pub fn forward(&self, ids: &Tensor, pass: &Pass<'_>) -> Result<Encoded> {
        let (batch, length) = ids.dims2()?;
        let longest = self.config.max_position_embeddings;
        if length == 0 || length > longest {
            candle_core::bail!(
                "texts of {length} tokens cannot be encoded: the model takes 1 to {longest}"
            );
        }
        let ids = ids.to_dtype(DType::U32)?;
        let rows = ids.to_vec2::<u32>()?;
        let known = self.config.vocab_size;
        if let Some(id) = rows.iter().flatten().find(|id| **id as usize >= known) {
            candle_core::bail!("token {id} cannot be encoded: the model knows {known}");
        }
        let width = self.config.hidden_size;
        let words = self.tokens.forward(&ids.flatten_all()?, pass)?; // [B S, D]
        let words = words.reshape((batch, length, width))?;
        let places = self.positions.resolve(pass)?.narrow(0, 0, length)?; // [S, D]
        let mask = causal(length, words.dtype(), words.device())?; // [S, S]
        let mut hidden = words.broadcast_add(&places)?; // [B, S, D]
        let mut penultimate = hidden.clone();
        for block in &self.blocks {
            penultimate = hidden;
            hidden = block.forward(&penultimate, &mask, pass)?;
        }
        let last = self.final_norm.forward(&hidden, pass)?;
        let pooled = self.pool(&last, &rows)?; // [B, D]
        let pooled = match &self.projection {
            Some(projection) => projection.forward(&pooled, pass)?, // [B, P]
            None => pooled,
        };
        Ok(Encoded {
            last,
            penultimate,
            pooled,
        })
    }

    /// The states at the tokens that end the texts, `[B, D]`.
    fn pool(&self, last: &Tensor, rows: &[Vec<u32>]) -> Result<Tensor> {
        let (batch, length, width) = last.dims3()?;
        let ends = rows.iter().enumerate().map(|(row, ids)| {
            let end = match self.config.eos_token_id {
                // Old files say 2 for what is the highest number of any vocabulary; the first of the highest, as PyTorch's argmax.
                2 => (1..ids.len()).fold(0, |best, at| if ids[at] > ids[best] { at } else { best }),
                eos => ids.iter().position(|id| *id == eos).unwrap_or(0),
            };
            (row * length + end) as u32
        });
        let ends = Tensor::from_iter(ends, last.device())?; // [B]
        last.reshape((batch * length, width))?
            .index_select(&ends, 0)
    }
}

/// The configuration in a text encoder's folder.
///
/// # Errors
/// As [`ClipConfig::from_json`], and a file that is missing.
pub fn read_config(dir: &Path) -> std::result::Result<ClipConfig, Error> {
    let file = dir.join("config.json");
    let text = std::fs::read_to_string(&file).map_err(|error| Error::Config {
        file: file.display().to_string(),
        reason: error.to_string(),
    })?;
    ClipConfig::from_json(&text, &file.display().to_string())
}

/// The name to use for a stored parameter: since transformers 5 a model without projection is saved without the prefix. Old files also hold a buffer, and
/// some the temperature of CLIP's loss, of which the encoder has no use.
fn full_name(stored: &str) -> Option<String> {
    if stored.ends_with("position_ids") || stored == "logit_scale" {
        return None;
    }
    let bare = ["embeddings.", "encoder.", "final_layer_norm."];
    Some(match bare.iter().any(|prefix| stored.starts_with(prefix)) {
        true => format!("text_model.{stored}"),
        false => stored.to_owned(),
    })
}

/// Nothing where a token may look, negative infinity where it may not, `[S, S]`.
fn causal(length: usize, dtype: DType, device: &Device) -> Result<Tensor> {
    let value = |at: usize| match at % length > at / length {
        true => f32::NEG_INFINITY,
        false => 0.0,
    };
    let values: Vec<f32> = (0..length * length).map(value).collect();
    Tensor::from_vec(values, (length, length), device)?.to_dtype(dtype)
}

/// A transformer block: attention, then a feed-forward part, each behind a norm and beside a shortcut.
#[derive(Debug)]
struct Block {
    norm1: LayerNorm,
    attention: Attention,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl Block {
    fn load(
        net: &mut Assembly<'_>,
        path: &str,
        config: &ClipConfig,
    ) -> std::result::Result<Self, backbone::Error> {
        let (width, eps) = (config.hidden_size, config.layer_norm_eps);
        let inner = config.intermediate_size;
        let mut project = |name: &str| {
            let path = format!("{path}.self_attn.{name}_proj");
            net.linear(&path, width, width, true)
        };
        let attention = Attention {
            q: project("q")?,
            k: project("k")?,
            v: project("v")?,
            out: project("out")?,
            heads: config.num_attention_heads,
        };
        Ok(Self {
            norm1: net.layer_norm(&format!("{path}.layer_norm1"), width, eps)?,
            attention,
            norm2: net.layer_norm(&format!("{path}.layer_norm2"), width, eps)?,
            fc1: net.linear(&format!("{path}.mlp.fc1"), width, inner, true)?,
            fc2: net.linear(&format!("{path}.mlp.fc2"), inner, width, true)?,
            activation: config.hidden_act,
        })
    }

    /// `x` `[B, S, D]`.
    fn forward(&self, x: &Tensor, mask: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let attended = self
            .attention
            .forward(&self.norm1.forward(x, pass)?, mask, pass)?;
        let x = ops::add_scaled(x, &attended, 1.0)?;
        let inner = self.fc1.forward(&self.norm2.forward(&x, pass)?, pass)?; // [B, S, 4 D]
        let inner = match self.activation {
            Activation::Gelu => ops::gelu_erf(&inner)?,
            // x sigmoid(a x) = silu(a x) / a
            Activation::QuickGelu => {
                let scaled = ops::silu(&ops::affine(&inner, QUICK, 0.0)?)?;
                ops::affine(&scaled, 1.0 / QUICK, 0.0)?
            }
        };
        ops::add_scaled(&x, &self.fc2.forward(&inner, pass)?, 1.0)
    }
}

/// The slope of the quick GELU (Hendrycks and Gimpel 2016, section 2).
const QUICK: f64 = 1.702;

/// Attention of each token to itself and those before it. Texts are short, so the scores are kept whole.
#[derive(Debug)]
struct Attention {
    q: Linear,
    k: Linear,
    v: Linear,
    out: Linear,
    heads: usize,
}

impl Attention {
    /// `x` `[B, S, D]`, `mask` `[S, S]`.
    fn forward(&self, x: &Tensor, mask: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (batch, length, width) = x.dims3()?;
        let head = width / self.heads;
        let split = |x: Tensor| {
            x.reshape((batch, length, self.heads, head))?
                .transpose(1, 2)?
                .contiguous() // [B, H, S, D/H]
        };
        let q = split(self.q.forward(x, pass)?)?;
        let k = split(self.k.forward(x, pass)?)?;
        let v = split(self.v.forward(x, pass)?)?;
        let q = ops::affine(&q, 1.0 / (head as f64).sqrt(), 0.0)?;
        let scores = ops::matmul(&q, &k.transpose(2, 3)?)?; // [B, H, S, S]
        let weights = ops::softmax(&scores.broadcast_add(mask)?, D::Minus1)?;
        let mixed = ops::matmul(&weights, &v)?
            .transpose(1, 2)?
            .reshape((batch, length, width))?; // [B, S, D]
        self.out.forward(&mixed, pass)
    }
}
