//! A UNet's shape, as diffusers' `config.json` states it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::config::DIFFUSERS_VERSION;
use super::super::dit::invalid;
use super::super::{Error, Result};

/// The class diffusers builds from a UNet's `config.json`.
pub(crate) const CLASS_NAME: &str = "UNet2DConditionModel";

/// A number that is the same at all levels, or one a level, from the input inwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PerLevel {
    /// The same everywhere.
    All(usize),
    /// One a level.
    Each(Vec<usize>),
}

impl PerLevel {
    /// The number of a level.
    pub fn at(&self, level: usize) -> usize {
        match self {
            Self::All(number) => *number,
            Self::Each(numbers) => numbers.get(level).copied().unwrap_or(0),
        }
    }
}

/// A level on the way down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DownBlock {
    /// Residual blocks, each with a transformer after it.
    #[serde(rename = "CrossAttnDownBlock2D")]
    CrossAttention,
    /// Residual blocks alone.
    #[serde(rename = "DownBlock2D")]
    Plain,
}

/// A level on the way up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpBlock {
    /// Residual blocks, each with a transformer after it.
    #[serde(rename = "CrossAttnUpBlock2D")]
    CrossAttention,
    /// Residual blocks alone.
    #[serde(rename = "UpBlock2D")]
    Plain,
}

/// The middle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MidBlock {
    /// A residual block, a transformer, a residual block.
    #[serde(rename = "UNetMidBlock2DCrossAttn")]
    CrossAttention,
    /// One residual block.
    #[serde(rename = "UNetMidBlock2D")]
    Plain,
}

/// What is added to the embedding of the timestep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Addition {
    /// SDXL's: an embedding of the whole text, and six numbers about the size of the picture.
    #[serde(rename = "text_time")]
    TextTime,
}

/// The configuration of a diffusers `UNet2DConditionModel`; the defaults are diffusers', except for `sample_size`.
///
/// A field of `config.json` that is not here must have the value at which it changes nothing, or the configuration is refused. `upcast_attention` is kept for other programs: here the
/// softmax is as exact without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UnetConfig {
    /// Side of the latents it was trained on; 64, that of Stable Diffusion 1, where the file does not say.
    pub sample_size: usize,
    /// Channels of the input.
    pub in_channels: usize,
    /// Channels of the prediction.
    pub out_channels: usize,
    /// Whether the cosines come first among the features of the timestep.
    pub flip_sin_to_cos: bool,
    /// Frequencies of these features are `10000^(-i / (half - freq_shift))`.
    pub freq_shift: f64,
    /// Levels on the way down, from the input inwards.
    pub down_block_types: Vec<DownBlock>,
    /// The middle, if there is one.
    pub mid_block_type: Option<MidBlock>,
    /// Levels on the way up, from the middle outwards.
    pub up_block_types: Vec<UpBlock>,
    /// Channels of each level, from the input inwards; each after the first has half the size.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks of each level on the way down; the way up has one more.
    pub layers_per_block: PerLevel,
    /// Groups of the norms.
    pub norm_num_groups: usize,
    /// Epsilon of the norms of residual blocks and of the output.
    pub norm_eps: f64,
    /// Width of the text's tokens.
    pub cross_attention_dim: PerLevel,
    /// Layers of the transformers of each level.
    pub transformer_layers_per_block: PerLevel,
    /// The same on the way up, where it differs.
    pub reverse_transformer_layers_per_block: Option<PerLevel>,
    /// Attention *heads* of each level, whatever the name says: diffusers kept it for the files that use it so.
    pub attention_head_dim: PerLevel,
    /// Whether linear layers, not 1x1 convolutions, lead in and out of the transformers.
    pub use_linear_projection: bool,
    /// Whether other programs compute attention in f32.
    pub upcast_attention: bool,
    /// What is added to the timestep's embedding.
    pub addition_embed_type: Option<Addition>,
    /// Features of each of the six numbers of `text_time`.
    pub addition_time_embed_dim: Option<usize>,
    /// Width of what `text_time` embeds: that of the text's embedding plus six times the features.
    pub projection_class_embeddings_input_dim: Option<usize>,
}

impl Default for UnetConfig {
    fn default() -> Self {
        use {DownBlock as Down, UpBlock as Up};
        Self {
            sample_size: SAMPLE_SIZE,
            in_channels: 4,
            out_channels: 4,
            flip_sin_to_cos: true,
            freq_shift: 0.0,
            down_block_types: vec![
                Down::CrossAttention,
                Down::CrossAttention,
                Down::CrossAttention,
                Down::Plain,
            ],
            mid_block_type: Some(MidBlock::CrossAttention),
            up_block_types: vec![
                Up::Plain,
                Up::CrossAttention,
                Up::CrossAttention,
                Up::CrossAttention,
            ],
            block_out_channels: vec![320, 640, 1280, 1280],
            layers_per_block: PerLevel::All(2),
            norm_num_groups: 32,
            norm_eps: 1e-5,
            cross_attention_dim: PerLevel::All(1280),
            transformer_layers_per_block: PerLevel::All(1),
            reverse_transformer_layers_per_block: None,
            attention_head_dim: PerLevel::All(8),
            use_linear_projection: false,
            upcast_attention: false,
            addition_embed_type: None,
            addition_time_embed_dim: None,
            projection_class_embeddings_input_dim: None,
        }
    }
}

const SAMPLE_SIZE: usize = 64;

/// Fields of diffusers that change the function computed, with the one value that is computed here; null is always the same as this value.
fn fixed() -> [(&'static str, Value); 24] {
    [
        ("center_input_sample", json!(false)),
        ("only_cross_attention", json!(false)),
        ("mid_block_only_cross_attention", json!(false)),
        ("downsample_padding", json!(1)),
        ("mid_block_scale_factor", json!(1)),
        ("dropout", json!(0)),
        ("act_fn", json!("silu")),
        ("dual_cross_attention", json!(false)),
        ("num_attention_heads", json!(null)),
        ("encoder_hid_dim", json!(null)),
        ("encoder_hid_dim_type", json!(null)),
        ("class_embed_type", json!(null)),
        ("num_class_embeds", json!(null)),
        ("resnet_time_scale_shift", json!("default")),
        ("resnet_skip_time_act", json!(false)),
        ("resnet_out_scale_factor", json!(1)),
        ("time_embedding_type", json!("positional")),
        ("time_embedding_dim", json!(null)),
        ("time_embedding_act_fn", json!(null)),
        ("timestep_post_act", json!(null)),
        ("time_cond_proj_dim", json!(null)),
        ("attention_type", json!("default")),
        ("class_embeddings_concat", json!(false)),
        ("cross_attention_norm", json!(null)),
    ]
}

/// Kernels other than 3x3 exist only in configurations of experiments.
const KERNELS: [&str; 2] = ["conv_in_kernel", "conv_out_kernel"];

impl UnetConfig {
    /// Reads a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it asks for what is not implemented, or makes no sense.
    pub(crate) fn from_value(mut value: Value, file: &str) -> Result<Self, Error> {
        for (key, expected) in fixed() {
            let mut found = &value[key];
            // A list says the same of each level.
            if let Some(all) = found.as_array()
                && let Some(first) = all.first()
                && all.iter().all(|one| one == first)
            {
                found = first;
            }
            let same = match (found.as_f64(), expected.as_f64()) {
                (Some(found), Some(expected)) => found == expected,
                _ => *found == expected,
            };
            // Two names of one function.
            let swish = key == "act_fn" && found == "swish";
            if !found.is_null() && !same && !swish {
                return Err(invalid(key, &found.to_string(), &expected.to_string()));
            }
        }
        for key in KERNELS {
            if !value[key].is_null() && value[key] != 3 {
                return Err(invalid(key, &value[key].to_string(), "3"));
            }
        }
        kinds::<DownBlock>(
            &value,
            "down_block_types",
            "CrossAttnDownBlock2D or DownBlock2D",
        )?;
        kinds::<UpBlock>(&value, "up_block_types", "CrossAttnUpBlock2D or UpBlock2D")?;
        kinds::<MidBlock>(
            &value,
            "mid_block_type",
            "UNetMidBlock2DCrossAttn, UNetMidBlock2D or null",
        )?;
        kinds::<Addition>(&value, "addition_embed_type", "text_time or null")?;
        for key in [
            "transformer_layers_per_block",
            "reverse_transformer_layers_per_block",
        ] {
            let each = value[key].as_array();
            if each.is_some_and(|each| each.iter().any(Value::is_array)) {
                let expected =
                    "one number a level: levels whose transformers differ are not computed here";
                return Err(invalid(key, &value[key].to_string(), expected));
            }
        }
        for key in ["norm_num_groups", "cross_attention_dim"] {
            if value.get(key).is_some_and(Value::is_null) {
                return Err(invalid(key, "null", "a number"));
            }
        }
        square(&mut value)?;
        let config: Self = serde_json::from_value(value).map_err(|error| Error::Json {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        config.check()?;
        Ok(config)
    }

    /// The text of a `config.json` that diffusers reads.
    pub fn to_json(&self) -> String {
        let mut value = json!({
            "_class_name": CLASS_NAME,
            "_diffusers_version": DIFFUSERS_VERSION,
        });
        if let (Some(all), Ok(Value::Object(own))) =
            (value.as_object_mut(), serde_json::to_value(self))
        {
            all.extend(own);
        }
        format!("{value:#}\n")
    }

    /// How many levels there are.
    pub fn levels(&self) -> usize {
        self.block_out_channels.len()
    }

    /// Width of the text's tokens.
    pub fn text_width(&self) -> usize {
        self.cross_attention_dim.at(0)
    }

    /// Width of the timestep's embedding.
    pub(crate) fn time_width(&self) -> usize {
        4 * self.block_out_channels.first().copied().unwrap_or(0)
    }

    /// Width of the embedding of the whole text, where the network takes one.
    pub fn text_embeds(&self) -> Option<usize> {
        let (features, whole) = self.added()?;
        Some(whole - SIZES * features)
    }

    /// Features of each number about the picture, and the width of all that is added to the timestep.
    pub(crate) fn added(&self) -> Option<(usize, usize)> {
        self.addition_embed_type?;
        self.addition_time_embed_dim
            .zip(self.projection_class_embeddings_input_dim)
    }

    /// Layers of the transformers of a level on the way up; level 0 is at the input.
    pub(crate) fn layers_up(&self, level: usize) -> usize {
        match &self.reverse_transformer_layers_per_block {
            // This list is in the order of the way up.
            Some(PerLevel::Each(layers)) => {
                let at = self.levels().checked_sub(level + 1);
                at.and_then(|at| layers.get(at)).copied().unwrap_or(0)
            }
            Some(PerLevel::All(layers)) => *layers,
            None => self.transformer_layers_per_block.at(level),
        }
    }

    /// Skip tensors of the way down, and the middle.
    pub fn residual_sites(&self) -> usize {
        let layers: usize = (0..self.levels())
            .map(|level| self.layers_per_block.at(level))
            .sum();
        1 + layers + self.levels().saturating_sub(1) + 1
    }

    /// Whether the numbers make a network.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let levels = self.levels();
        if levels == 0 {
            return Err(invalid("block_out_channels", "[]", "at least one level"));
        }
        for (key, count) in [
            ("down_block_types", self.down_block_types.len()),
            ("up_block_types", self.up_block_types.len()),
        ] {
            if count != levels {
                return Err(invalid(
                    key,
                    &format!("{count} levels"),
                    &format!("{levels}, as block_out_channels has"),
                ));
            }
        }
        let up = self.reverse_transformer_layers_per_block.as_ref();
        for (key, numbers) in [
            ("layers_per_block", Some(&self.layers_per_block)),
            ("cross_attention_dim", Some(&self.cross_attention_dim)),
            (
                "transformer_layers_per_block",
                Some(&self.transformer_layers_per_block),
            ),
            ("reverse_transformer_layers_per_block", up),
            ("attention_head_dim", Some(&self.attention_head_dim)),
        ] {
            let Some(numbers) = numbers else { continue };
            let found = json!(numbers).to_string();
            if let PerLevel::Each(each) = numbers
                && each.len() != levels
            {
                let expected = format!("one number, or one for each of {levels} levels");
                return Err(invalid(key, &found, &expected));
            }
            if (0..levels).any(|level| numbers.at(level) == 0) {
                return Err(invalid(key, &found, "at least 1"));
            }
        }
        for (key, value) in [
            ("sample_size", self.sample_size),
            ("in_channels", self.in_channels),
            ("out_channels", self.out_channels),
            ("norm_num_groups", self.norm_num_groups),
        ] {
            if value == 0 {
                return Err(invalid(key, "0", "at least 1"));
            }
        }
        let dims = &self.cross_attention_dim;
        if (0..levels).any(|level| dims.at(level) != dims.at(0)) {
            let found = json!(dims).to_string();
            return Err(invalid("cross_attention_dim", &found, "one for all levels"));
        }
        for (level, &channels) in self.block_out_channels.iter().enumerate() {
            let heads = self.attention_head_dim.at(level);
            let found = format!("{channels} at level {level}");
            if channels == 0 || !channels.is_multiple_of(self.norm_num_groups) {
                let expected = format!("a multiple of norm_num_groups, {}", self.norm_num_groups);
                return Err(invalid("block_out_channels", &found, &expected));
            }
            if !channels.is_multiple_of(heads) {
                let expected =
                    format!("a multiple of {heads}, the heads that attention_head_dim says");
                return Err(invalid("block_out_channels", &found, &expected));
            }
        }
        let first = self.block_out_channels[0];
        if !first.is_multiple_of(2) {
            let expected = "an even number of channels at level 0, for the timestep's features";
            return Err(invalid("block_out_channels", &first.to_string(), expected));
        }
        let Some(Addition::TextTime) = self.addition_embed_type else {
            return Ok(());
        };
        let (features, whole) = match self.added() {
            Some(added) => added,
            None => {
                let expected =
                    "addition_time_embed_dim and projection_class_embeddings_input_dim beside it";
                return Err(invalid("addition_embed_type", "text_time", expected));
            }
        };
        if features == 0 || !features.is_multiple_of(2) {
            let expected = "an even number of features";
            return Err(invalid(
                "addition_time_embed_dim",
                &features.to_string(),
                expected,
            ));
        }
        if whole <= SIZES * features {
            let expected = format!(
                "more than {}, the features of {SIZES} numbers",
                SIZES * features
            );
            return Err(invalid(
                "projection_class_embeddings_input_dim",
                &whole.to_string(),
                &expected,
            ));
        }
        Ok(())
    }
}

/// Numbers about the picture that `text_time` takes: original size, crop, target size.
const SIZES: usize = 6;

/// Refuses a kind that is not implemented by its own name.
fn kinds<K: for<'a> Deserialize<'a>>(
    value: &Value,
    key: &'static str,
    known: &str,
) -> Result<(), Error> {
    let named = match &value[key] {
        Value::Array(all) => all.iter().collect(),
        Value::Null => Vec::new(),
        one => vec![one],
    };
    let strange = named
        .into_iter()
        .find(|kind| serde_json::from_value::<K>((*kind).clone()).is_err());
    match strange {
        Some(kind) => Err(invalid(key, &kind.to_string(), known)),
        None => Ok(()),
    }
}

/// A size that is absent, or stated as height and width, as one number.
fn square(value: &mut Value) -> Result<(), Error> {
    let size = match &value["sample_size"] {
        Value::Null => json!(SAMPLE_SIZE),
        Value::Array(sides) => match sides.as_slice() {
            [height, width] if height == width => height.clone(),
            _ => {
                let found = value["sample_size"].to_string();
                return Err(invalid("sample_size", &found, "a square"));
            }
        },
        size => size.clone(),
    };
    value["sample_size"] = size;
    Ok(())
}
