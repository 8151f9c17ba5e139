//! Trainable copies of the backbone's first blocks, as ControlNet needs them: the encoder half of a UNet, the first blocks of a DiT.

use std::collections::BTreeMap;

use super::{CopyBlocks, RunBlocks};
use crate::{Batch, Error, Host, Result, Tensor, message::message};

message! {
    /// Asks for a copy.
    pub struct CopyBlocksIn {
        /// Name under which the copy's parameters are saved: `<plugin>.<name>.<key in the backbone>`.
        pub name: String,
        /// How many residual sites to cover, from the input on; missing means what is usual for the architecture (a UNet's encoder
        /// half and middle, half of a DiT's blocks).
        pub sites: Option<usize>,
        /// Whether it trains.
        pub trainable: bool,
        /// Values to begin at, by the backbone's keys; what is missing begins at the backbone's own.
        pub values: Option<BTreeMap<String, Tensor>>,
    }
}

message! {
    /// A copy.
    pub struct CopyBlocksOut {
        /// Its number.
        pub copy: u64,
        /// For each covered site, in order, its number among the backbone's residual sites.
        pub sites: Vec<usize>,
        /// For each covered site, the channels or features of its output.
        pub features: Vec<usize>,
        /// Shape of the input embedding without the batch: `[T, D]` tokens or `[C, H, W]`.
        pub hint: Vec<usize>,
        /// Its parameters by the backbone's keys; missing from hosts before this field.
        pub parameters: Option<BTreeMap<String, Tensor>>,
        /// The `config.json` of the network that it is a copy of; missing from hosts before this field.
        pub config: Option<String>,
    }
}

message! {
    /// Asks for a forward pass through a copy.
    pub struct RunBlocksIn {
        /// The copy's number.
        pub copy: u64,
        /// What the network sees, `[B, C, H, W]`.
        pub latents: Tensor,
        /// `[B]`.
        pub timesteps: Tensor,
        /// Conditioning by name.
        pub batch: Batch,
        /// Added to the input embedding: `[B, T, D]` or `[B, C, H, W]`.
        pub hint: Option<Tensor>,
    }
}

message! {
    /// The outputs of a copy.
    pub struct RunBlocksOut {
        /// One a covered site, in order.
        pub features: Vec<Tensor>,
    }
}

/// A trainable copy of the backbone's first blocks; from [`Host::copy_blocks`].
#[derive(Debug, Clone)]
pub struct BlockCopy {
    copy: u64,
    /// For each covered site, in order, its number among the backbone's residual sites.
    pub sites: Vec<usize>,
    /// For each covered site, the channels or features of its output.
    pub features: Vec<usize>,
    /// Shape of the input embedding without the batch, at the size that the backbone was trained at: `[T, D]` tokens or `[C, H, W]`.
    pub hint: Vec<usize>,
    /// Its parameters by the backbone's keys, f32, for [`Host::adapter`].
    pub parameters: BTreeMap<String, Tensor>,
    /// The `config.json` of the network that it is a copy of.
    pub config: String,
}

impl Host {
    /// Makes a trainable copy of the blocks that lead up to the first `sites` residual sites (see [`CopyBlocksIn::sites`]), starting at the
    /// backbone's own weights. Call it in [`PrepareHook`](crate::hooks::PrepareHook), as [`Host::parameter`]: its parameters are saved, averaged
    /// and restored like any other.
    ///
    /// # Errors
    /// When the backbone has fewer sites, the name is taken, or training has begun.
    pub fn copy_blocks(&self, name: &str, sites: Option<usize>) -> Result<BlockCopy> {
        self.copy_blocks_from(name, sites, BTreeMap::new())
    }

    /// As [`Host::copy_blocks`], but what `values` has, by the backbone's keys, begins there.
    ///
    /// # Errors
    /// As [`Host::copy_blocks`], and for a value that fits no parameter of the copy.
    pub fn copy_blocks_from(
        &self,
        name: &str,
        sites: Option<usize>,
        values: BTreeMap<String, Tensor>,
    ) -> Result<BlockCopy> {
        let out = self.call::<CopyBlocks>(CopyBlocksIn {
            name: name.to_owned(),
            sites,
            trainable: true,
            values: Some(values),
        })?;
        let (Some(parameters), Some(config)) = (out.parameters, out.config) else {
            return Err(Error::Unsupported {
                who: "host".into(),
                what: "the parameters of copied blocks".into(),
                revision: 1,
            });
        };
        Ok(BlockCopy {
            copy: out.copy,
            sites: out.sites,
            features: out.features,
            hint: out.hint,
            parameters,
            config,
        })
    }
}

impl BlockCopy {
    /// Its number, of which no two copies of a run have the same.
    pub fn number(&self) -> u64 {
        self.copy
    }

    /// Runs the copy: the input embedding of `latents`, plus `hint`, through the copied blocks; the output at each covered site. Adapters and
    /// residuals of the run have no part in it. Under `train.gradient_checkpointing` its blocks run again in the backward pass.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(
        &self,
        latents: &Tensor,
        timesteps: &Tensor,
        batch: &Batch,
        hint: Option<&Tensor>,
        host: &Host,
    ) -> Result<Vec<Tensor>> {
        let request = RunBlocksIn {
            copy: self.copy,
            latents: latents.clone(),
            timesteps: timesteps.clone(),
            batch: batch.clone(),
            hint: hint.cloned(),
        };
        Ok(host.call::<RunBlocks>(request)?.features)
    }
}
