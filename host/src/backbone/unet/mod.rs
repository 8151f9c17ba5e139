//! The UNet of Stable Diffusion 1, 2 and XL (Rombach et al. 2022, arXiv 2112.10752; Podell et al. 2023, arXiv 2307.01952), as diffusers'
//! `UNet2DConditionModel` computes it.

mod config;
mod embed;
mod front;
mod levels;
mod transformer;

use candle_core::{Tensor, bail};

pub(crate) use config::CLASS_NAME;
pub use config::{Addition, DownBlock, MidBlock, PerLevel, UnetConfig, UpBlock};
pub(crate) use embed::Context;

use super::assembly::{Assembled, Assembly, Conv2d, GroupNorm};
use super::layers::Conv;
use super::source::Outline;
use super::{Error, Input, LayerInfo, ModelInfo, Pass, Result};
use crate::ops;
use embed::Embedder;
use levels::{Down, Mid, Up};

/// A UNet with frozen weights.
#[derive(Debug)]
pub(crate) struct Unet {
    config: UnetConfig,
    embedder: Embedder,
    conv_in: Conv2d,
    down: Vec<Down>,
    mid: Option<Mid>,
    up: Vec<Up>,
    norm_out: GroupNorm,
    conv_out: Conv2d,
}

impl Unet {
    /// Declares and reads every layer.
    pub(crate) fn load(config: UnetConfig, net: &mut Assembly<'_>) -> Result<Self, Error> {
        config.check()?;
        let levels = config.levels();
        let first = config.block_out_channels[0];
        let conv_in = net.conv2d("conv_in", config.in_channels, first, Conv::SAME)?;
        let embedder = Embedder::load(net, &config)?;
        let down = (0..levels)
            .map(|level| Down::load(net, &config, level))
            .collect::<Result<_, Error>>()?;
        let mid = match config.mid_block_type {
            None => None,
            Some(kind) => Some(Mid::load(net, &config, kind)?),
        };
        let up = (0..levels)
            .rev()
            .map(|level| Up::load(net, &config, level))
            .collect::<Result<_, Error>>()?;
        let (groups, eps) = (config.norm_num_groups, config.norm_eps);
        let norm_out = net.group_norm("conv_norm_out", first, groups, eps)?;
        let conv_out = net.conv2d("conv_out", first, config.out_channels, Conv::SAME)?;
        Ok(Self {
            config,
            embedder,
            conv_in,
            down,
            mid,
            up,
            norm_out,
            conv_out,
        })
    }

    pub(crate) fn config(&self) -> &UnetConfig {
        &self.config
    }

    /// The prediction, `[B, C_out, H, W]`.
    pub(crate) fn forward(&self, input: &Input<'_>, pass: &Pass<'_>) -> Result<Tensor> {
        self.check_input(input, pass)?;
        let told = self.embedder.forward(input, pass)?;
        let latents = input.latents.to_dtype(self.embedder.dtype())?; // [B, C, H, W]
        let hidden = self.conv_in.forward(&latents, pass)?; // [B, C_0, H, W]
        let (mut skips, mut hidden) = self.inwards(hidden, &told, pass)?;
        if let Some(residuals) = pass.residuals {
            for (site, (skip, residual)) in skips.iter_mut().zip(residuals).enumerate() {
                add_residual(skip, residual.as_ref(), site)?;
            }
            let last = residuals.last().and_then(Option::as_ref);
            add_residual(&mut hidden, last, skips.len())?;
        }
        for level in &self.up {
            hidden = level.forward(hidden, &mut skips, &told, pass)?;
        }
        let hidden = self.norm_out.silu(&hidden, pass)?; // [B, C_0, H, W]
        self.conv_out
            .forward(&hidden, pass)?
            .to_dtype(input.latents.dtype()) // [B, C_out, H, W]
    }

    /// The way down and the middle, from the output of `conv_in`: what the way up gets beside it, from the input inwards, and the middle's output.
    pub(crate) fn inwards(
        &self,
        hidden: Tensor,
        told: &Context,
        pass: &Pass<'_>,
    ) -> Result<(Vec<Tensor>, Tensor)> {
        let mut skips = vec![hidden.clone()];
        let mut hidden = hidden;
        for level in &self.down {
            hidden = level.forward(hidden, &mut skips, told, pass)?;
        }
        if let Some(mid) = &self.mid {
            hidden = mid.forward(hidden, told, pass)?;
        }
        Ok((skips, hidden))
    }

    fn check_input(&self, input: &Input<'_>, pass: &Pass<'_>) -> Result<()> {
        let &[_, channels, height, width] = input.latents.dims() else {
            bail!(
                "latents must be [B, C, H, W]; they are {:?}",
                input.latents.dims()
            )
        };
        let expected = self.conv_in.channels(pass)?;
        if channels != expected {
            bail!("latents have {channels} channels, the backbone takes {expected}")
        }
        if height == 0 || width == 0 {
            bail!("latents are {height}x{width}; both sides must be positive")
        }
        let sites = self.config.residual_sites();
        match pass.residuals {
            Some(residuals) if residuals.len() != sites => bail!(
                "{} residuals were given, the backbone has {sites} residual sites",
                residuals.len()
            ),
            _ => Ok(()),
        }
    }
}

fn add_residual(hidden: &mut Tensor, residual: Option<&Tensor>, site: usize) -> Result<()> {
    let Some(residual) = residual else {
        return Ok(());
    };
    if hidden.dims() != residual.dims() {
        bail!(
            "residual {site} is {:?}, the hidden states there are {:?}",
            residual.dims(),
            hidden.dims()
        )
    }
    *hidden = ops::add_scaled(hidden, &residual.to_dtype(hidden.dtype())?, 1.0)?;
    Ok(())
}

/// The adaptable layers, in the order of the network.
///
/// # Errors
/// A configuration that makes no network.
pub(crate) fn layers(config: &UnetConfig) -> Result<Vec<LayerInfo>, Error> {
    Ok(outline(config)?.layers)
}

/// What a configuration asks for, without values.
///
/// # Errors
/// A configuration that makes no network.
pub(crate) fn outline(config: &UnetConfig) -> Result<Assembled, Error> {
    let mut net = Assembly::new(&Outline);
    Unet::load(config.clone(), &mut net)?;
    net.finish()
}

/// The weights of a fresh network that are zeros: of the last layer of what a residual block or a transformer adds, and of the network, as the original code starts them.
pub(crate) fn starts_as_zeros(name: &str) -> bool {
    let last = [".conv2.weight", ".proj_out.weight"];
    name == "conv_out.weight" || last.iter().any(|end| name.ends_with(end))
}

/// The facts that follow from the configuration.
pub(crate) fn info(config: &UnetConfig, parameters: usize) -> ModelInfo {
    let attends = |level: &usize| config.down_block_types[*level] == DownBlock::CrossAttention;
    let level = (0..config.levels()).find(attends).unwrap_or(0);
    ModelInfo {
        architecture: "unet".to_owned(),
        parameters,
        in_channels: config.in_channels,
        out_channels: config.out_channels,
        sample_size: config.sample_size,
        patch_size: 1,
        num_classes: None,
        cross_attention: Some(config.text_width()),
        text_embeds: config.text_embeds(),
        learned_variance: config.out_channels == 2 * config.in_channels,
        residual_sites: config.residual_sites(),
        width: config.block_out_channels[0],
        depth: config.levels(),
        heads: config.attention_head_dim.at(level),
        shared_embedders: false,
    }
}
