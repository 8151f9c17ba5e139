//! What a UNet is told apart from pixels: the timestep, the text, and for SDXL the whole text's embedding and the picture's size.

use candle_core::{DType, Tensor, bail};

use super::super::layers::Linear;
use super::super::timesteps::Sinusoids;
use super::super::{Assembly, Conditioning, Error, Input, Pass, Result};
use super::config::UnetConfig;
use crate::ops;

/// What every block of one pass is told.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    /// The timestep's embedding after its activation, `[B, T]`.
    pub(crate) time: Tensor,
    /// The text's tokens, `[B, S, D]`.
    pub(crate) text: Tensor,
}

/// Two linear layers with SiLU between them.
#[derive(Clone, Debug)]
struct Mlp {
    linear_1: Linear,
    linear_2: Linear,
}

impl Mlp {
    fn load(
        net: &mut Assembly<'_>,
        path: &str,
        inputs: usize,
        outputs: usize,
    ) -> Result<Self, Error> {
        Ok(Self {
            linear_1: net.linear(&format!("{path}.linear_1"), inputs, outputs, true)?,
            linear_2: net.linear(&format!("{path}.linear_2"), outputs, outputs, true)?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let hidden = ops::silu(&self.linear_1.forward(x, pass)?)?;
        self.linear_2.forward(&hidden, pass)
    }
}

/// SDXL's addition to the timestep.
#[derive(Clone, Debug)]
struct Added {
    sinusoids: Sinusoids,
    width: usize,
    mlp: Mlp,
}

impl Added {
    fn forward(
        &self,
        conditioning: &Conditioning,
        batch: usize,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let text = conditioning.get("text_embeds")?; // [B, P]
        let sizes = conditioning.get("time_ids")?; // [B, N]
        let (&[texts, width], &[pictures, numbers]) = (text.dims(), sizes.dims()) else {
            bail!(
                "text_embeds must be [B, P] and time_ids [B, 6]; they are {:?} and {:?}",
                text.dims(),
                sizes.dims()
            )
        };
        if (texts, pictures) != (batch, batch)
            || width + numbers * self.sinusoids.width != self.width
        {
            bail!(
                "text_embeds {:?} and time_ids {:?} do not fit a batch of {batch} and a width of {}: each number of time_ids takes {} of it, text_embeds the rest",
                text.dims(),
                sizes.dims(),
                self.width,
                self.sinusoids.width
            )
        }
        let dtype = self.mlp.linear_1.dtype();
        let sizes = self.sinusoids.of(&sizes.flatten_all()?)?; // [B N, F]
        let sizes = sizes.reshape((batch, numbers * self.sinusoids.width))?; // [B, N F]
        let all = Tensor::cat(&[text.to_dtype(dtype)?, sizes.to_dtype(dtype)?], 1)?; // [B, P + N F]
        self.mlp.forward(&all, pass) // [B, T]
    }
}

/// From the conditioning to what blocks are told.
#[derive(Clone, Debug)]
pub(crate) struct Embedder {
    sinusoids: Sinusoids,
    time: Mlp,
    added: Option<Added>,
    text_width: usize,
}

impl Embedder {
    pub(crate) fn load(net: &mut Assembly<'_>, config: &UnetConfig) -> Result<Self, Error> {
        let sinusoids = |width: usize| Sinusoids {
            width,
            shift: config.freq_shift,
            cosines_first: config.flip_sin_to_cos,
        };
        let (features, outputs) = (config.block_out_channels[0], config.time_width());
        let time = Mlp::load(net, "time_embedding", features, outputs)?;
        let added = match config.added() {
            None => None,
            Some((features, width)) => Some(Added {
                sinusoids: sinusoids(features),
                width,
                mlp: Mlp::load(net, "add_embedding", width, outputs)?,
            }),
        };
        Ok(Self {
            sinusoids: sinusoids(features),
            time,
            added,
            text_width: config.text_width(),
        })
    }

    pub(crate) fn forward(&self, input: &Input<'_>, pass: &Pass<'_>) -> Result<Context> {
        let (batch, dtype) = (input.latents.dim(0)?, self.dtype());
        if input.timesteps.dims() != [batch] {
            bail!(
                "timesteps must be [{batch}], one a sample; they are {:?}",
                input.timesteps.dims()
            )
        }
        let text = input.conditioning.get("encoder_hidden_states")?;
        match *text.dims() {
            [texts, tokens, width] if (texts, width) == (batch, self.text_width) && tokens > 0 => {}
            _ => bail!(
                "encoder_hidden_states must be [{batch}, S, {}]; they are {:?}",
                self.text_width,
                text.dims()
            ),
        }
        let features = self.sinusoids.of(input.timesteps)?.to_dtype(dtype)?; // [B, F]
        let mut time = self.time.forward(&features, pass)?; // [B, T]
        if let Some(added) = &self.added {
            let added = added.forward(input.conditioning, batch, pass)?; // [B, T]
            time = ops::add_scaled(&time, &added, 1.0)?;
        }
        Ok(Context {
            time: ops::silu(&time)?,
            text: text.to_dtype(dtype)?,
        })
    }

    /// The type that the network computes in.
    pub(crate) fn dtype(&self) -> DType {
        self.time.linear_1.dtype()
    }
}
