//! The network that brings a hint picture to the shape of the backbone's embedded input (Zhang et al. 2023, section 3.2, as diffusers'
//! `ControlNetConditioningEmbedding`): 3x3 convolutions with SiLU, some of which halve the picture, and at the end one that begins at zero.

use plugin_api::{Conv2d, Init, Result, Tensor, bail};

use crate::maker::Maker;
use crate::settings::ChannelOrder;

/// The channels of the published networks.
const CHANNELS: [usize; 4] = [16, 32, 96, 256];

/// How the names of its parameters begin.
const PATH: &str = "controlnet_cond_embedding";

/// What the embedded input is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Tokens, `[B, T, D]`.
    Tokens,
    /// A map, `[B, C, H, W]`.
    Map,
}

/// The shape of the network: channels after each stage, and by how much the picture shrinks before each stage but the first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) channels: Vec<usize>,
    pub(crate) strides: Vec<usize>,
}

impl Plan {
    /// A network that shrinks pictures `factor` times. One for maps halves them before every stage, as diffusers' does, so the number of stages follows;
    /// one for tokens has the published stages or more, of which the first halve.
    ///
    /// # Errors
    /// A factor that no number of halvings makes, or channels that are too few or too many for it.
    pub(crate) fn new(form: Form, factor: usize, channels: Option<&[usize]>) -> Result<Self> {
        if !factor.is_power_of_two() {
            bail!(
                "a hint has to shrink {factor} times to fit the backbone's input, which halving does not reach; ControlNet needs a backbone with a power of two"
            );
        }
        let halvings = factor.ilog2() as usize;
        let stages = match form {
            Form::Tokens => CHANNELS.len().max(halvings + 1),
            Form::Map => halvings + 1,
        };
        let usual = |stage: usize| CHANNELS[stage.min(CHANNELS.len() - 1)];
        let channels = match channels {
            None => (0..stages).map(usual).collect(),
            Some(given) => {
                let fits = match form {
                    Form::Tokens => given.len() > halvings,
                    Form::Map => given.len() == stages,
                };
                if !fits {
                    let least = if form == Form::Tokens {
                        "at least "
                    } else {
                        ""
                    };
                    bail!(
                        "`embedding_channels` has {} entries; to shrink hints {factor} times it needs {least}{}",
                        given.len(),
                        halvings + 1
                    );
                }
                given.to_vec()
            }
        };
        let strides = (1..channels.len())
            .map(|stage| if stage <= halvings { 2 } else { 1 })
            .collect();
        Ok(Self { channels, strides })
    }
}

/// How a convolution begins.
#[derive(Clone, Copy)]
enum Begins {
    /// At zero, weight and bias.
    Zero,
    /// So that its output is about as large as its input (He et al. 2015).
    Full,
    /// As the published networks, by PyTorch's default, at which a hint fades from stage to stage.
    Published,
}

/// A 3x3 convolution that keeps the size, or halves it.
struct Conv {
    weight: Tensor,
    bias: Tensor,
    stride: usize,
}

impl Conv {
    fn make(
        maker: &mut Maker<'_>,
        name: &str,
        [inputs, outputs, stride]: [usize; 3],
        begins: Begins,
    ) -> Result<Self> {
        let (weight, bias) = match begins {
            Begins::Zero => (Init::Zeros, Init::Zeros),
            Begins::Full => (Init::KaimingUniform { a: 0.0 }, Init::Zeros),
            Begins::Published => {
                let bound = 1.0 / ((inputs * 9) as f64).sqrt();
                let bias = Init::Uniform {
                    low: -bound,
                    high: bound,
                };
                (Init::KaimingUniform { a: 5f64.sqrt() }, bias)
            }
        };
        let shape = [outputs, inputs, 3, 3];
        Ok(Self {
            weight: maker.parameter(&format!("{PATH}.{name}.weight"), &shape, weight)?,
            bias: maker.parameter(&format!("{PATH}.{name}.bias"), &[outputs], bias)?,
            stride,
        })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let how = Conv2d {
            stride: self.stride,
            padding: 1,
            ..Conv2d::default()
        };
        x.conv2d(&self.weight, Some(&self.bias), how)
    }
}

/// The network.
pub(crate) struct Embedding {
    layers: Vec<Conv>,
    out: Conv,
    form: Form,
    order: ChannelOrder,
}

impl Embedding {
    /// Makes it for embedded inputs of `features` features.
    ///
    /// # Errors
    /// A ControlNet to go on from that does not fit.
    pub(crate) fn make(
        maker: &mut Maker<'_>,
        plan: &Plan,
        form: Form,
        features: usize,
        order: ChannelOrder,
    ) -> Result<Self> {
        let begins = match form {
            Form::Tokens => Begins::Full,
            Form::Map => Begins::Published,
        };
        let mut before = plan.channels[0];
        let mut layers = vec![Conv::make(maker, "conv_in", [3, before, 1], begins)?];
        for (stage, (&channels, &stride)) in
            plan.channels[1..].iter().zip(&plan.strides).enumerate()
        {
            for (place, shape) in [[before, before, 1], [before, channels, stride]]
                .into_iter()
                .enumerate()
            {
                let name = format!("blocks.{}", 2 * stage + place);
                layers.push(Conv::make(maker, &name, shape, begins)?);
            }
            before = channels;
        }
        let out = Conv::make(maker, "conv_out", [before, features, 1], Begins::Zero)?;
        Ok(Self {
            layers,
            out,
            form,
            order,
        })
    }

    /// Hints `[B, 3, H, W]` in 0..1 to what is added to the embedded input, `[B, T, D]` or `[B, C, H, W]`.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn forward(&self, hints: &Tensor) -> Result<Tensor> {
        let mut x = match self.order {
            ChannelOrder::Rgb => hints.clone(),
            ChannelOrder::Bgr => hints.flip(1)?,
        };
        for layer in &self.layers {
            x = layer.forward(&x)?.silu()?; // [B, C_i, H_i, W_i]
        }
        let map = self.out.forward(&x)?; // [B, D, h, w]
        match self.form {
            Form::Map => Ok(map),
            Form::Tokens => map.flatten_from(2)?.transpose(1, 2), // [B, T, D], row by row
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(form: Form, factor: usize, channels: &[usize], strides: &[usize]) {
        let plan = Plan::new(form, factor, None).unwrap();
        assert_eq!((&*plan.channels, &*plan.strides), (channels, strides));
    }

    #[test]
    fn stable_diffusion_gets_the_published_network() {
        check(Form::Map, 8, &[16, 32, 96, 256], &[2, 2, 2]);
    }

    #[test]
    fn a_map_halves_before_every_stage_and_tokens_keep_the_published_stages() {
        check(Form::Map, 1, &[16], &[]);
        check(Form::Map, 32, &[16, 32, 96, 256, 256, 256], &[2; 5]);
        check(Form::Tokens, 2, &[16, 32, 96, 256], &[2, 1, 1]);
        check(Form::Tokens, 16, &[16, 32, 96, 256, 256], &[2; 4]);
    }

    #[test]
    fn what_cannot_shrink_as_needed_is_refused() {
        let refused = |form, factor, channels: Option<&[usize]>| {
            Plan::new(form, factor, channels).unwrap_err().to_string()
        };
        assert!(refused(Form::Map, 6, None).contains("6 times"));
        assert!(refused(Form::Map, 8, Some(&[16, 32])).contains("needs 4"));
        assert!(refused(Form::Tokens, 4, Some(&[16, 32])).contains("at least 3"));
        assert!(Plan::new(Form::Tokens, 4, Some(&[8, 8, 8])).is_ok());
    }
}
