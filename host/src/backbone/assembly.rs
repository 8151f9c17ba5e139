//! Builds a network layer by layer from named parameters: each layer is declared with its shapes as it is built, so that the list of adaptable layers, the
//! check of the weights and the network itself come from one walk.

use std::collections::HashSet;

use candle_core::{DType, Device, Tensor};

use super::layers::{Conv, Embedding, LayerInfo, LayerKind, LayerNorm, Linear, Parameter};
use super::{Error, Pass, Result, Source};
use crate::ops;

/// A network in the making.
pub(crate) struct Assembly<'a> {
    source: &'a dyn Source,
    layers: Vec<LayerInfo>,
    parameters: Vec<(String, Tensor)>,
    shapes: Vec<(String, Vec<usize>)>,
    missing: Vec<String>,
}

/// What was built, in the order of the network.
pub(crate) struct Assembled {
    /// The adaptable layers.
    pub(crate) layers: Vec<LayerInfo>,
    /// The parameters with their names.
    pub(crate) parameters: Vec<(String, Tensor)>,
    /// Their shapes, also where nothing was read.
    pub(crate) shapes: Vec<(String, Vec<usize>)>,
}

impl Assembled {
    /// How many numbers the parameters are.
    pub(crate) fn count(&self) -> usize {
        let sizes = self
            .shapes
            .iter()
            .map(|(_, shape)| shape.iter().product::<usize>());
        sizes.sum()
    }
}

impl<'a> Assembly<'a> {
    pub(crate) fn new(source: &'a dyn Source) -> Self {
        Self {
            source,
            layers: Vec::new(),
            parameters: Vec::new(),
            shapes: Vec::new(),
            missing: Vec::new(),
        }
    }

    /// Ends the building.
    ///
    /// # Errors
    /// When the source lacks parameters, or holds some that no layer asked for.
    pub(crate) fn finish(self) -> Result<Assembled, Error> {
        let known: HashSet<&str> = (self.parameters.iter())
            .map(|(name, _)| name.as_str())
            .collect();
        let mut unexpected: Vec<String> = (self.source.names().into_iter())
            .filter(|name| !known.contains(name.as_str()))
            .collect();
        unexpected.sort();
        match self.missing.is_empty() && unexpected.is_empty() {
            true => Ok(Assembled {
                layers: self.layers,
                parameters: self.parameters,
                shapes: self.shapes,
            }),
            false => Err(Error::Names {
                missing: self.missing,
                unexpected,
            }),
        }
    }

    /// A linear layer, `[outputs, inputs]`.
    pub(crate) fn linear(
        &mut self,
        path: &str,
        inputs: usize,
        outputs: usize,
        bias: bool,
    ) -> Result<Linear, Error> {
        let info = LayerInfo::linear(path.to_owned(), inputs, outputs, bias);
        let (layer, weight, bias) = self.layer(info)?;
        Ok(Linear::new(layer, weight, bias))
    }

    /// A convolution with a bias, `[outputs, inputs, kernel, kernel]`.
    pub(crate) fn conv2d(
        &mut self,
        path: &str,
        inputs: usize,
        outputs: usize,
        conv: Conv,
    ) -> Result<Conv2d, Error> {
        let (layer, weight, bias) = self.layer(LayerInfo {
            path: path.to_owned(),
            kind: LayerKind::Conv2d,
            in_features: inputs,
            out_features: outputs,
            bias: true,
            conv: Some(conv),
        })?;
        Ok(Conv2d {
            layer,
            weight,
            bias,
            conv,
        })
    }

    /// A group norm with scale and shift, `[channels]` each.
    pub(crate) fn group_norm(
        &mut self,
        path: &str,
        channels: usize,
        groups: usize,
        eps: f64,
    ) -> Result<GroupNorm, Error> {
        Ok(GroupNorm {
            weight: self.parameter(format!("{path}.weight"), &[channels])?,
            bias: self.parameter(format!("{path}.bias"), &[channels])?,
            groups,
            eps,
        })
    }

    /// A layer norm with scale and shift, `[width]` each.
    pub(crate) fn layer_norm(
        &mut self,
        path: &str,
        width: usize,
        eps: f64,
    ) -> Result<LayerNorm, Error> {
        let weight = self.parameter(format!("{path}.weight"), &[width])?;
        let bias = self.parameter(format!("{path}.bias"), &[width])?;
        Ok(LayerNorm::new(weight, bias, eps))
    }

    /// A lookup table, `[rows, width]`.
    pub(crate) fn embedding(
        &mut self,
        path: &str,
        rows: usize,
        width: usize,
    ) -> Result<Embedding, Error> {
        let info = LayerInfo::embedding(path.to_owned(), rows, width);
        let (layer, table, _) = self.layer(info)?;
        Ok(Embedding::new(layer, table))
    }

    fn layer(&mut self, info: LayerInfo) -> Result<(usize, Parameter, Option<Parameter>), Error> {
        let mut parameters = Vec::new();
        for (name, shape) in info.parameters() {
            parameters.push(self.parameter(name, &shape)?);
        }
        self.layers.push(info);
        let mut parameters = parameters.into_iter();
        match parameters.next() {
            Some(weight) => Ok((self.layers.len() - 1, weight, parameters.next())),
            None => Err(candle_core::Error::Msg("a layer without a weight".to_owned()).into()),
        }
    }

    /// A parameter that belongs to no layer.
    pub(crate) fn parameter(
        &mut self,
        name: String,
        expected: &[usize],
    ) -> Result<Parameter, Error> {
        let value = match self.source.find(&name, expected)? {
            Some(value) => value,
            None => {
                self.missing.push(name.clone());
                // Never computed with: `finish` refuses.
                Tensor::zeros((), DType::F32, &Device::Cpu)?
            }
        };
        self.shapes.push((name.clone(), expected.to_vec()));
        self.parameters.push((name.clone(), value.clone()));
        Ok(Parameter::new(name, value))
    }
}

/// A convolution with a bias.
#[derive(Clone, Debug)]
pub(crate) struct Conv2d {
    layer: usize,
    weight: Parameter,
    bias: Option<Parameter>,
    conv: Conv,
}

impl Conv2d {
    /// Channels of `x` that the layer takes in this pass.
    pub(crate) fn channels(&self, pass: &Pass<'_>) -> Result<usize> {
        Ok(self.weight.resolve(pass)?.dims4()?.1)
    }

    /// `x` `[B, C, H, W]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let weight = self.weight.resolve(pass)?; // [O, C, k, k]
        let bias = (self.bias.as_ref())
            .map(|bias| bias.resolve(pass))
            .transpose()?; // [O]
        let config = ops::Conv2d {
            stride: self.conv.stride,
            padding: self.conv.padding,
            ..ops::Conv2d::default()
        };
        let y = ops::conv2d(x, &weight, bias.as_ref(), config)?; // [B, O, H', W']
        pass.adapt(self.layer, x, y)
    }
}

/// A group norm with its own scale and shift.
#[derive(Clone, Debug)]
pub(crate) struct GroupNorm {
    weight: Parameter,
    bias: Parameter,
    groups: usize,
    eps: f64,
}

impl GroupNorm {
    /// `x` `[B, C, ..]`.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = (self.weight.resolve(pass)?, self.bias.resolve(pass)?);
        ops::group_norm(x, self.groups, &weight, &bias, self.eps)
    }

    /// The norm, then SiLU.
    pub(crate) fn silu(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let (weight, bias) = (self.weight.resolve(pass)?, self.bias.resolve(pass)?);
        ops::group_norm_silu(x, self.groups, &weight, &bias, self.eps)
    }
}

impl Conv {
    /// A 3x3 convolution that keeps the size.
    pub(crate) const SAME: Self = Self {
        kernel: 3,
        stride: 1,
        padding: 1,
    };
    /// A 3x3 convolution that halves the size, rounding up.
    pub(crate) const HALVE: Self = Self {
        kernel: 3,
        stride: 2,
        padding: 1,
    };
    /// A 1x1 convolution.
    pub(crate) const POINT: Self = Self {
        kernel: 1,
        stride: 1,
        padding: 0,
    };
}
