//! The backbone and the codecs: what they are, and passes through them.

use super::{Backbone, Decode, Denoise, Encode, EncodeTexts, Layers, Parameters};
use crate::{
    Batch, Host, Result, Tensor,
    abi::{Value, ValueKind},
    message::{FieldValue, list_items, message},
};

message! {
    /// A question without content.
    pub struct NoIn {}
}

message! {
    /// A tensor.
    pub struct TensorIn {
        /// The tensor.
        pub tensor: Tensor,
    }
}

message! {
    /// A tensor.
    pub struct TensorOut {
        /// The tensor.
        pub tensor: Tensor,
    }
}

message! {
    /// Texts, one a sample.
    pub struct TextsIn {
        /// The texts.
        pub texts: Vec<String>,
    }
}

message! {
    /// A bag of conditioning tensors.
    pub struct BatchOut {
        /// The bag.
        pub batch: Batch,
    }
}

/// Which weights a pass uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Model {
    /// The pretrained backbone alone: no trained weights, no plugin's layers or residuals. Never records gradients for weights.
    Frozen,
    /// The backbone as it is now, with every plugin's layers and residuals. From within a hook of a plugin that has layers or
    /// residuals of its own this is [`Error::Reentrant`](crate::Error::Reentrant).
    Current,
}

impl FieldValue for Model {
    const EXPECTED: &'static str = "0 (frozen) or 1 (current)";
    fn into_value(self) -> Value {
        u32::from(self == Model::Current).into_value()
    }
    fn from_value(value: Value) -> Option<Self> {
        match u32::from_value(value)? {
            0 => Some(Model::Frozen),
            1 => Some(Model::Current),
            _ => None,
        }
    }
}

message! {
    /// Asks for a prediction.
    pub struct DenoiseIn {
        /// Which weights.
        pub model: Model,
        /// What the network sees, `[B, C, H, W]`.
        pub latents: Tensor,
        /// `[B]`.
        pub timesteps: Tensor,
        /// Conditioning by name; a network conditioned on classes needs `class_labels`.
        pub batch: Batch,
    }
}

message! {
    /// What the backbone is.
    pub struct BackboneInfo {
        /// Family, as in `dit` or `unet`.
        pub architecture: String,
        /// Number of weights.
        pub parameters: u64,
        /// Channels of the network's input.
        pub in_channels: usize,
        /// Channels of the network's output, learned variance included.
        pub out_channels: usize,
        /// Channels of latents; of pictures for a pixel-space model.
        pub latent_channels: usize,
        /// Height and width of latents the model was trained at.
        pub sample_size: usize,
        /// Height and width of pictures: `sample_size` times the codec's factor.
        pub image_size: usize,
        /// Number of classes; missing for a model without class labels.
        pub num_classes: Option<u32>,
        /// The class label that means "no class": the unconditional branch. Missing when the model has none.
        pub null_class: Option<u32>,
        /// Whether half of the output channels are a learned variance.
        pub learned_variance: bool,
        /// Whether captions condition it.
        pub text: bool,
        /// Number of places where [`ResidualsHook`](crate::hooks::ResidualsHook) may add: for a DiT, after each block.
        pub residual_sites: usize,
        /// Hash of the weights, hexadecimal.
        pub fingerprint: String,
    }
}

/// What a layer computes. Open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LayerKind(pub u32);

impl LayerKind {
    /// `x w^T + b`, over the last dimension.
    pub const LINEAR: LayerKind = LayerKind(1);
    /// 2-D convolution.
    pub const CONV2D: LayerKind = LayerKind(2);
    /// A table looked up by whole numbers.
    pub const EMBEDDING: LayerKind = LayerKind(3);
}

impl FieldValue for LayerKind {
    const EXPECTED: &'static str = "a layer kind";
    fn into_value(self) -> Value {
        self.0.into_value()
    }
    fn from_value(value: Value) -> Option<Self> {
        debug_assert!(value.kind == ValueKind::INT || value.tensor.is_none());
        u32::from_value(value).map(LayerKind)
    }
}

message! {
    /// One adaptable layer of the backbone.
    pub struct LayerInfo {
        /// Its number, stable within a run.
        pub id: u32,
        /// Its path, as in `transformer_blocks.3.attn1.to_q`.
        pub path: String,
        /// What it computes.
        pub kind: LayerKind,
        /// Input features or channels; rows of an embedding.
        pub in_features: usize,
        /// Output features or channels.
        pub out_features: usize,
        /// Shape of its weight: `[O, I]`, or `[O, I / groups, KH, KW]`.
        pub weight_shape: Vec<usize>,
        /// Whether it has a bias.
        pub bias: bool,
        /// Stride, padding, dilation and groups of a convolution; empty otherwise.
        pub conv: Vec<usize>,
    }
}

impl LayerInfo {
    /// Name of its weight among the backbone's parameters.
    pub fn weight_name(&self) -> String {
        format!("{}.weight", self.path)
    }
}

message! {
    /// The adaptable layers.
    pub struct LayersOut {
        /// In forward order.
        pub layers: Vec<LayerInfo>,
    }
}

message! {
    /// One parameter of the backbone.
    pub struct ParameterInfo {
        /// Its name: the key in checkpoints.
        pub name: String,
        /// Its shape.
        pub shape: Vec<usize>,
    }
}

message! {
    /// The backbone's parameters.
    pub struct ParametersOut {
        /// All of them.
        pub parameters: Vec<ParameterInfo>,
    }
}

list_items!(LayerInfo, ParameterInfo);

impl Host {
    /// What the backbone is.
    ///
    /// # Errors
    /// When the host fails.
    pub fn backbone(&self) -> Result<BackboneInfo> {
        self.call::<Backbone>(NoIn {})
    }

    /// The backbone's adaptable layers, in forward order.
    ///
    /// # Errors
    /// When the host fails.
    pub fn layers(&self) -> Result<Vec<LayerInfo>> {
        Ok(self.call::<Layers>(NoIn {})?.layers)
    }

    /// Names and shapes of the backbone's parameters.
    ///
    /// # Errors
    /// When the host fails.
    pub fn parameters(&self) -> Result<Vec<ParameterInfo>> {
        Ok(self.call::<Parameters>(NoIn {})?.parameters)
    }

    /// Latents `[B, C, h, w]` of pictures `[B, 3, H, W]` in -1..1, with gradients; for a pixel-space model the pictures themselves.
    ///
    /// # Errors
    /// When the shape does not fit the codec.
    pub fn encode(&self, images: &Tensor) -> Result<Tensor> {
        Ok(self
            .call::<Encode>(TensorIn {
                tensor: images.clone(),
            })?
            .tensor)
    }

    /// Pictures `[B, 3, H, W]` of latents `[B, C, h, w]`, unclamped, with gradients through the frozen decoder.
    ///
    /// # Errors
    /// When the shape does not fit the codec.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        Ok(self
            .call::<Decode>(TensorIn {
                tensor: latents.clone(),
            })?
            .tensor)
    }

    /// Conditioning tensors (such as `encoder_hidden_states`) of captions.
    ///
    /// # Errors
    /// When the model takes no text.
    pub fn encode_texts(&self, texts: Vec<String>) -> Result<Batch> {
        Ok(self.call::<EncodeTexts>(TextsIn { texts })?.batch)
    }

    /// The network's prediction for `latents [B, C, H, W]` at `timesteps [B]`, without learned variance: `[B, C, H, W]`.
    /// With [`Model::Frozen`] this is the teacher: gradients flow to `latents` alone.
    ///
    /// # Errors
    /// When shapes do not fit, or [`Error::Reentrant`](crate::Error::Reentrant) (see [`Model::Current`]).
    pub fn denoise(
        &self,
        model: Model,
        latents: &Tensor,
        timesteps: &Tensor,
        batch: &Batch,
    ) -> Result<Tensor> {
        let request = DenoiseIn {
            model,
            latents: latents.clone(),
            timesteps: timesteps.clone(),
            batch: batch.clone(),
        };
        Ok(self.call::<Denoise>(request)?.tensor)
    }
}
