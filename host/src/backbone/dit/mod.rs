//! The diffusion transformer (Peebles and Xie 2022, arXiv 2212.09748), as diffusers' `DiTTransformer2DModel` computes it.

mod block;
mod config;
mod embed;
mod fit;
mod init;
mod layout;

use candle_core::{Tensor, bail};

pub use config::{Activation, DitConfig};
pub(crate) use config::{CLASS_NAME, invalid};
pub(crate) use fit::{POSITION_TABLE, fit};
pub(crate) use init::init;
pub(crate) use layout::{Sharing, copies_of_shared, every_copy, layers, parameters};

use super::front::hinted;
use super::layers::{Builder, LayerInfo, Linear, PatchEmbed, add_in_f32};
use super::{Error, Front, Input, ModelInfo, Pass, Positions, Source};
use crate::ops;
use block::{Block, NORM_EPS};
use embed::{ConditionEmbedder, checked_labels, position_table, timestep_features};
use fit::check_stored_positions;

/// How the names of the blocks' parameters begin.
const BLOCKS: &str = "transformer_blocks.";

/// How the names of the patch embedding's parameters begin.
const PATCH_EMBED: &str = "pos_embed.proj.";

/// A diffusion transformer with frozen weights.
#[derive(Debug)]
pub(crate) struct Dit {
    config: DitConfig,
    patch_embed: PatchEmbed,
    /// Positions at the training size, f32 `[1, T, D]`.
    table: Tensor,
    /// Positions at other sizes.
    positions: Positions,
    /// One that all blocks share, or one a block.
    embedders: Vec<ConditionEmbedder>,
    blocks: Vec<Block>,
    proj_out_1: Linear,
    proj_out_2: Linear,
}

/// A network, its adaptable layers, and its parameters in order.
type Loaded = (Dit, Vec<LayerInfo>, Vec<(String, Tensor)>);

/// What the blocks of one pass are told.
struct Told {
    /// Rows and columns of patches.
    grid: (usize, usize),
    /// The timesteps' sinusoids, `[B, 256]`.
    features: Tensor,
    /// The classes, u32 `[B]`.
    labels: Tensor,
    /// What block 0's embedder makes of them, `[B, D]`.
    first: Tensor,
}

impl Dit {
    /// Builds the network after checking that the source holds exactly what the configuration asks for.
    pub(crate) fn load(config: DitConfig, source: &dyn Source) -> Result<Loaded, Error> {
        config.check()?;
        let sharing = fit(&config, source)?;
        let layers = layers(&config, sharing);
        let mut builder = Builder::new(&layers, source);
        let patch_embed = builder.patch_embed("pos_embed.proj")?;
        let (mut embedders, mut blocks) = (Vec::new(), Vec::new());
        for index in 0..config.num_layers {
            if index == 0 || sharing == Sharing::PerBlock {
                embedders.push(ConditionEmbedder::load(&mut builder, index)?);
            }
            blocks.push(Block::load(&mut builder, &config, index)?);
        }
        let proj_out_1 = builder.linear("proj_out_1")?;
        let proj_out_2 = builder.linear("proj_out_2")?;
        let parameters = builder.into_parameters();
        let device = match parameters.first() {
            Some((_, tensor)) => tensor.device(),
            None => &candle_core::Device::Cpu,
        };
        let grid = config.base_grid();
        let positions = Positions::default();
        let table = position_table(config.width(), grid, (grid, grid), positions, device)?;
        check_stored_positions(source, &table)?;
        let dit = Self {
            config,
            patch_embed,
            table,
            positions,
            embedders,
            blocks,
            proj_out_1,
            proj_out_2,
        };
        Ok((dit, layers, parameters))
    }

    pub(crate) fn set_positions(&mut self, positions: Positions) {
        self.positions = positions;
    }

    pub(crate) fn config(&self) -> &DitConfig {
        &self.config
    }

    pub(crate) fn info(&self, parameters: usize) -> ModelInfo {
        let sharing = match self.embedders.len() {
            1 => Sharing::Shared,
            _ => Sharing::PerBlock,
        };
        info(&self.config, sharing, parameters)
    }

    pub(crate) fn forward(
        &self,
        input: &Input<'_>,
        pass: &Pass<'_>,
    ) -> candle_core::Result<Tensor> {
        self.check_residuals(pass)?;
        let (mut hidden, told) = self.embed(input, pass)?;
        for index in 0..self.blocks.len() {
            hidden = self.block(index, hidden, &told, pass)?; // [B, T, D]
            if let Some(residual) = pass
                .residuals
                .and_then(|residuals| residuals[index].as_ref())
            {
                hidden = add_residual(&hidden, residual, index)?; // [B, T, D]
            }
        }

        // The last layer is conditioned by block 0's embedder.
        let modulation = self.proj_out_1.forward(&told.first, pass)?.chunk(2, 1)?; // 2 x [B, D]
        let hidden = ops::layer_norm_modulate(&hidden, &modulation[0], &modulation[1], NORM_EPS)?; // [B, T, D]
        let patches = self.proj_out_2.forward(&hidden, pass)?; // [B, T, p*p*C_out]
        let (rows, columns) = told.grid;
        self.unpatchify(&patches, rows, columns)?
            .to_dtype(input.latents.dtype()) // [B, C_out, H, W]
    }

    /// What the first `blocks` blocks are made of; `names` are those of all parameters.
    pub(crate) fn front<'a>(&self, blocks: usize, names: impl Iterator<Item = &'a str>) -> Front {
        let base = self.config.base_grid();
        let covered = |name: &&str| match name.strip_prefix(BLOCKS) {
            Some(rest) => {
                let index = rest.split('.').next().and_then(|index| index.parse().ok());
                index.is_some_and(|index: usize| index < blocks)
            }
            None => name.starts_with(PATCH_EMBED),
        };
        Front {
            features: vec![self.config.width(); blocks],
            embedding: vec![base * base, self.config.width()],
            parameters: names.filter(covered).map(str::to_owned).collect(),
        }
    }

    /// The hidden states after each of the first `blocks` blocks, `[B, T, D]`; `hint` `[B, T, D]` is added to the input's tokens.
    pub(crate) fn run_front(
        &self,
        blocks: usize,
        input: &Input<'_>,
        hint: Option<&Tensor>,
        pass: &Pass<'_>,
    ) -> candle_core::Result<Vec<Tensor>> {
        let (tokens, told) = self.embed(input, pass)?;
        let mut hidden = hinted(tokens, hint)?; // [B, T, D]
        let mut states = Vec::with_capacity(blocks);
        for index in 0..blocks.min(self.blocks.len()) {
            hidden = self.block(index, hidden, &told, pass)?; // [B, T, D]
            states.push(hidden.clone());
        }
        Ok(states)
    }

    /// The input as tokens with their positions, `[B, T, D]`, and what the blocks are told.
    fn embed(&self, input: &Input<'_>, pass: &Pass<'_>) -> candle_core::Result<(Tensor, Told)> {
        let (rows, columns) = self.grid(input.latents, self.patch_embed.channels(pass)?)?;
        let batch = input.latents.dim(0)?;
        if input.timesteps.dims() != [batch] {
            bail!(
                "timesteps must be [{batch}], one a sample; they are {:?}",
                input.timesteps.dims()
            )
        }
        let labels = input.conditioning.get("class_labels")?;
        let labels = checked_labels(labels, batch, self.config.num_embeds_ada_norm)?; // [B]

        let dtype = self.dtype();
        let image = input.latents.to_dtype(dtype)?; // [B, C, H, W]
        let tokens = self.patch_embed.forward(&image, pass)?; // [B, T, D]
        let hidden = add_in_f32(&tokens, &self.positions(rows, columns)?)?; // [B, T, D]

        let features = timestep_features(input.timesteps)?.to_dtype(dtype)?; // [B, 256]
        let told = Told {
            grid: (rows, columns),
            first: self.embedders[0].forward(&features, &labels, pass)?, // [B, D]
            features,
            labels,
        };
        Ok((hidden, told))
    }

    /// One block, `[B, T, D]` to `[B, T, D]`.
    fn block(
        &self,
        index: usize,
        hidden: Tensor,
        told: &Told,
        pass: &Pass<'_>,
    ) -> candle_core::Result<Tensor> {
        let conditioning = match self.embedders.get(index) {
            Some(own) if index > 0 => own.forward(&told.features, &told.labels, pass)?,
            _ => told.first.clone(),
        }; // [B, D]
        let block = self.blocks[index].clone();
        pass.piece(move |pass| block.forward(&hidden, &conditioning, pass))
    }

    /// Rows and columns of patches of latents that should have `expected` channels.
    fn grid(&self, latents: &Tensor, expected: usize) -> candle_core::Result<(usize, usize)> {
        let patch = self.config.patch_size;
        let &[_, channels, height, width] = latents.dims() else {
            bail!(
                "latents must be [B, C, H, W]; they are {:?}",
                latents.dims()
            )
        };
        if channels != expected {
            bail!("latents have {channels} channels, the backbone takes {expected}")
        }
        if height == 0
            || width == 0
            || !height.is_multiple_of(patch)
            || !width.is_multiple_of(patch)
        {
            bail!(
                "latents are {height}x{width}; both sides must be positive multiples of the patch size, {patch}, such as {}x{}",
                height.next_multiple_of(patch).max(patch),
                width.next_multiple_of(patch).max(patch)
            )
        }
        Ok((height / patch, width / patch))
    }

    fn check_residuals(&self, pass: &Pass<'_>) -> candle_core::Result<()> {
        match pass.residuals {
            Some(residuals) if residuals.len() != self.blocks.len() => bail!(
                "{} residuals were given, the backbone has {} residual sites",
                residuals.len(),
                self.blocks.len()
            ),
            _ => Ok(()),
        }
    }

    fn positions(&self, rows: usize, columns: usize) -> candle_core::Result<Tensor> {
        let base = self.config.base_grid();
        if (rows, columns) == (base, base) {
            return Ok(self.table.clone());
        }
        position_table(
            self.config.width(),
            base,
            (rows, columns),
            self.positions,
            self.table.device(),
        )
    }

    fn unpatchify(
        &self,
        patches: &Tensor,
        rows: usize,
        columns: usize,
    ) -> candle_core::Result<Tensor> {
        let (batch, patch, channels) = (
            patches.dim(0)?,
            self.config.patch_size,
            self.config.out_channels(),
        );
        patches
            .reshape(vec![batch, rows, columns, patch, patch, channels])?
            .permute(vec![0, 5, 1, 3, 2, 4])? // [B, C_out, h, p, w, p]
            .reshape((batch, channels, rows * patch, columns * patch)) // [B, C_out, H, W]
    }

    fn dtype(&self) -> candle_core::DType {
        self.proj_out_2.dtype()
    }
}

fn add_residual(hidden: &Tensor, residual: &Tensor, site: usize) -> candle_core::Result<Tensor> {
    if hidden.dims() != residual.dims() {
        bail!(
            "residual {site} is {:?}, the hidden states there are {:?}",
            residual.dims(),
            hidden.dims()
        )
    }
    hidden + residual.to_dtype(hidden.dtype())?
}

/// The facts that follow from the configuration.
pub(crate) fn info(config: &DitConfig, sharing: Sharing, parameters: usize) -> ModelInfo {
    ModelInfo {
        architecture: "dit".to_owned(),
        parameters,
        in_channels: config.in_channels,
        out_channels: config.out_channels(),
        sample_size: config.sample_size,
        patch_size: config.patch_size,
        num_classes: Some(config.num_embeds_ada_norm),
        cross_attention: None,
        text_embeds: None,
        learned_variance: config.learned_variance(),
        residual_sites: config.num_layers,
        width: config.width(),
        depth: config.num_layers,
        heads: config.num_attention_heads,
        shared_embedders: sharing == Sharing::Shared,
    }
}
