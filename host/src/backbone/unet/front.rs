//! The way down and the middle of a UNet as a network that runs by itself: what a ControlNet copies.

use candle_core::Tensor;

use super::super::front::hinted;
use super::super::{Front, Input, Pass, Result};
use super::Unet;

/// How the names of its parameters begin.
const PARTS: [&str; 5] = [
    "conv_in.",
    "time_embedding.",
    "add_embedding.",
    "down_blocks.",
    "mid_block.",
];

impl Unet {
    /// What it is made of; `names` are those of all parameters.
    pub(crate) fn front<'a>(&self, names: impl Iterator<Item = &'a str>) -> Front {
        let config = &self.config;
        let mut features = vec![config.block_out_channels[0]];
        for (level, &channels) in config.block_out_channels.iter().enumerate() {
            let halves = usize::from(level + 1 < config.levels());
            features.extend(vec![channels; config.layers_per_block.at(level) + halves]);
        }
        features.extend(config.block_out_channels.last());
        let side = config.sample_size;
        let covered = |name: &&str| PARTS.iter().any(|part| name.starts_with(part));
        Front {
            features,
            embedding: vec![config.block_out_channels[0], side, side],
            parameters: names.filter(covered).map(str::to_owned).collect(),
        }
    }

    /// Each skip from the input inwards, and last the middle's output, `[B, C, H, W]`; `hint` `[B, C_0, H, W]` is added to the output of `conv_in`.
    pub(crate) fn run_front(
        &self,
        input: &Input<'_>,
        hint: Option<&Tensor>,
        pass: &Pass<'_>,
    ) -> Result<Vec<Tensor>> {
        self.check_input(input, pass)?;
        let told = self.embedder.forward(input, pass)?;
        let latents = input.latents.to_dtype(self.embedder.dtype())?; // [B, C, H, W]
        let embedded = hinted(self.conv_in.forward(&latents, pass)?, hint)?; // [B, C_0, H, W]
        let (mut states, middle) = self.inwards(embedded, &told, pass)?;
        states.push(middle);
        Ok(states)
    }
}
