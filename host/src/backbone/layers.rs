//! The layers a backbone is built from: each knows its parameters' full names, so that an overlay can stand in for them, and its place in the list of adaptable layers, so that hooks can adapt it.

use candle_core::{DType, Tensor, bail};
use serde::{Deserialize, Serialize};

use super::{Error, Pass, Result, Source};
use crate::ops;

/// What kind of layer an adapter attaches to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LayerKind {
    /// `y = x W^T + b`; the hook sees `[.., in_features]` and `[.., out_features]`.
    Linear,
    /// A convolution; the hook sees `[B, in_features, H, W]` and `[B, out_features, H', W']`.
    Conv2d,
    /// A lookup table; the hook sees u32 indices `[B]` and `[B, out_features]`.
    Embedding,
}

/// The geometry of a convolution; square, without padding unless stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conv {
    /// Side of the kernel, in pixels.
    pub kernel: usize,
    /// Step between outputs, in pixels.
    pub stride: usize,
    /// Zeros added on each side, in pixels.
    pub padding: usize,
}

/// One adaptable layer of a backbone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerInfo {
    /// The path by diffusers' keys, for example `transformer_blocks.3.attn1.to_q`.
    pub path: String,
    /// What kind of layer it is.
    pub kind: LayerKind,
    /// Input features; input channels of a convolution; rows of an embedding.
    pub in_features: usize,
    /// Output features, or output channels of a convolution.
    pub out_features: usize,
    /// Whether the layer has a bias, `[out_features]`.
    pub bias: bool,
    /// The geometry, for a convolution.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conv: Option<Conv>,
}

impl LayerInfo {
    pub(crate) fn linear(
        path: String,
        in_features: usize,
        out_features: usize,
        bias: bool,
    ) -> Self {
        Self {
            path,
            kind: LayerKind::Linear,
            in_features,
            out_features,
            bias,
            conv: None,
        }
    }

    pub(crate) fn embedding(path: String, rows: usize, width: usize) -> Self {
        Self {
            path,
            kind: LayerKind::Embedding,
            in_features: rows,
            out_features: width,
            bias: false,
            conv: None,
        }
    }

    /// The layer's weight: its name and shape.
    pub fn weight(&self) -> (String, Vec<usize>) {
        let shape = match (self.kind, self.conv) {
            (LayerKind::Embedding, _) => vec![self.in_features, self.out_features],
            (_, Some(conv)) => vec![
                self.out_features,
                self.in_features,
                conv.kernel,
                conv.kernel,
            ],
            (_, None) => vec![self.out_features, self.in_features],
        };
        (format!("{}.weight", self.path), shape)
    }

    /// The layer's parameters, weight first: names and shapes.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        let mut parameters = vec![self.weight()];
        if self.bias {
            parameters.push((format!("{}.bias", self.path), vec![self.out_features]));
        }
        parameters
    }
}

/// A frozen tensor and the name by which an overlay replaces it.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    name: String,
    value: Tensor,
}

impl Parameter {
    pub(crate) fn new(name: String, value: Tensor) -> Self {
        Self { name, value }
    }

    /// The overlay's stand-in when there is one, otherwise the frozen tensor.
    pub(crate) fn resolve(&self, pass: &Pass<'_>) -> Result<Tensor> {
        let Some(stand_in) = pass.overlay.and_then(|overlay| overlay.get(&self.name)) else {
            return Ok(self.value.clone());
        };
        if !stands_in(stand_in.dims(), self.value.dims()) {
            bail!(
                "the overlay's `{}` is {:?}, the backbone's is {:?}",
                self.name,
                stand_in.dims(),
                self.value.dims()
            )
        }
        stand_in.to_dtype(self.value.dtype())
    }
}

/// Whether a tensor of one shape can stand in for a parameter of another: of the same, or as the weight of a convolution of more or fewer input channels.
/// Which convolutions may be asked so is for [`Backbone::takes`](super::Backbone::takes) to say.
fn stands_in(shape: &[usize], own: &[usize]) -> bool {
    match (shape, own) {
        (&[outputs, _, height, width], &[own_outputs, _, own_height, own_width]) => {
            (outputs, height, width) == (own_outputs, own_height, own_width)
        }
        _ => shape == own,
    }
}

/// Hands out layers by path, loading each parameter once and numbering the layers as [`LayerInfo`]s are listed.
pub(crate) struct Builder<'a> {
    layers: &'a [LayerInfo],
    source: &'a dyn Source,
    parameters: Vec<(String, Tensor)>,
}

impl<'a> Builder<'a> {
    pub(crate) fn new(layers: &'a [LayerInfo], source: &'a dyn Source) -> Self {
        Self {
            layers,
            source,
            parameters: Vec::new(),
        }
    }

    /// Every parameter handed out, in the order of the network.
    pub(crate) fn into_parameters(self) -> Vec<(String, Tensor)> {
        self.parameters
    }

    pub(crate) fn parameter(&mut self, name: &str) -> Result<Parameter, Error> {
        let value = self.source.load(name)?;
        self.parameters.push((name.to_owned(), value.clone()));
        Ok(Parameter {
            name: name.to_owned(),
            value,
        })
    }

    fn layer(&mut self, path: &str) -> Result<(usize, Parameter, Option<Parameter>), Error> {
        let layers = self.layers;
        let Some(index) = layers.iter().position(|layer| layer.path == path) else {
            return Err(
                candle_core::Error::Msg(format!("the layout has no layer `{path}`")).into(),
            );
        };
        let weight = self.parameter(&format!("{path}.weight"))?;
        let bias = match layers[index].bias {
            true => Some(self.parameter(&format!("{path}.bias"))?),
            false => None,
        };
        Ok((index, weight, bias))
    }

    pub(crate) fn linear(&mut self, path: &str) -> Result<Linear, Error> {
        let (layer, weight, bias) = self.layer(path)?;
        Ok(Linear {
            layer,
            weight,
            bias,
        })
    }

    pub(crate) fn embedding(&mut self, path: &str) -> Result<Embedding, Error> {
        let (layer, table, _) = self.layer(path)?;
        Ok(Embedding { layer, table })
    }

    pub(crate) fn patch_embed(&mut self, path: &str) -> Result<PatchEmbed, Error> {
        let (layer, weight, bias) = self.layer(path)?;
        Ok(PatchEmbed {
            layer,
            weight,
            bias,
        })
    }

    pub(crate) fn layer_norm(&mut self, path: &str, eps: f64) -> Result<LayerNorm, Error> {
        Ok(LayerNorm {
            weight: self.parameter(&format!("{path}.weight"))?,
            bias: self.parameter(&format!("{path}.bias"))?,
            eps,
        })
    }
}

/// `y = x W^T + b`.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    layer: usize,
    weight: Parameter,
    bias: Option<Parameter>,
}

impl Linear {
    pub(crate) fn new(layer: usize, weight: Parameter, bias: Option<Parameter>) -> Self {
        Self {
            layer,
            weight,
            bias,
        }
    }

    /// The type that the layer computes in.
    pub(crate) fn dtype(&self) -> DType {
        self.weight.value.dtype()
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let weight = self.weight.resolve(pass)?; // [O, I]
        let bias = self
            .bias
            .as_ref()
            .map(|bias| bias.resolve(pass))
            .transpose()?; // [O]
        let y = ops::linear(x, &weight, bias.as_ref())?; // [.., O]
        pass.adapt(self.layer, x, y)
    }
}

/// A lookup table.
#[derive(Clone, Debug)]
pub(crate) struct Embedding {
    layer: usize,
    table: Parameter,
}

impl Embedding {
    pub(crate) fn new(layer: usize, table: Parameter) -> Self {
        Self { layer, table }
    }

    pub(crate) fn forward(&self, indices: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let table = self.table.resolve(pass)?; // [rows, D]
        let rows = table.index_select(indices, 0)?; // [B, D]
        pass.adapt(self.layer, indices, rows)
    }
}

/// A convolution whose stride is its kernel, computed as one linear layer over patches.
#[derive(Clone, Debug)]
pub(crate) struct PatchEmbed {
    layer: usize,
    weight: Parameter,
    bias: Option<Parameter>,
}

impl PatchEmbed {
    /// Channels of the image that the layer takes in this pass.
    pub(crate) fn channels(&self, pass: &Pass<'_>) -> Result<usize> {
        Ok(self.weight.resolve(pass)?.dims4()?.1)
    }

    /// Tokens in row-major order of the patches. Both sides of the image must be multiples of the kernel.
    pub(crate) fn forward(&self, image: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let weight = self.weight.resolve(pass)?; // [D, C, p, p]
        let bias = self
            .bias
            .as_ref()
            .map(|bias| bias.resolve(pass))
            .transpose()?; // [D]
        let (width, channels, p, _) = weight.dims4()?;
        let (batch, _, height, image_width) = image.dims4()?;
        let (rows, columns) = (height / p, image_width / p);
        let patches = image
            .reshape(vec![batch, channels, rows, p, columns, p])?
            .permute(vec![0, 2, 4, 1, 3, 5])? // [B, h, w, C, p, p]
            .reshape((batch, rows * columns, channels * p * p))?; // [B, T, C*p*p]
        let weight = weight.reshape((width, channels * p * p))?;
        let tokens = ops::linear(&patches, &weight, bias.as_ref())?; // [B, T, D]
        if pass.layers.is_none() {
            return Ok(tokens);
        }
        // A hook sees this layer as the convolution that it is in every checkpoint.
        let map = tokens
            .transpose(1, 2)?
            .reshape((batch, width, rows, columns))?; // [B, D, h, w]
        pass.adapt(self.layer, image, map)?
            .flatten_from(2)?
            .transpose(1, 2)?
            .contiguous() // [B, T, D]
    }
}

/// Layer norm with its own scale and shift.
#[derive(Clone, Debug)]
pub(crate) struct LayerNorm {
    weight: Parameter,
    bias: Parameter,
    eps: f64,
}

impl LayerNorm {
    pub(crate) fn new(weight: Parameter, bias: Parameter, eps: f64) -> Self {
        Self { weight, bias, eps }
    }

    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = (self.weight.resolve(pass)?, self.bias.resolve(pass)?);
        ops::layer_norm(x, Some(&weight), Some(&bias), self.eps) // [.., D]
    }
}

/// Adds `addend` in f32, then returns to the type of `x`; for tables that are kept in f32 whatever the compute type.
pub(crate) fn add_in_f32(x: &Tensor, addend: &Tensor) -> Result<Tensor> {
    x.to_dtype(DType::F32)?
        .broadcast_add(addend)?
        .to_dtype(x.dtype())
}
