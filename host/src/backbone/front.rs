//! The front of a backbone: everything up to its first residual sites, as a network that can run by itself. A ControlNet is a copy of it.

use std::collections::HashSet;

use candle_core::Tensor;

use super::{Backbone, Error, Input, Model, Pass, Result};

/// What the front of a backbone is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Front {
    /// Features of the hidden states at each of the sites that it covers, from the first on: a DiT's width, the channels of a UNet's skips.
    pub features: Vec<usize>,
    /// Shape of the embedded input without the batch, at the size that the backbone was trained at: `[T, D]` for a DiT, `[C, H, W]` for a UNet.
    pub embedding: Vec<usize>,
    /// The parameters that it computes with.
    pub parameters: HashSet<String>,
}

impl Backbone {
    /// The front that ends at the first `sites` residual sites; without a number what is usual: half of a DiT's blocks, a UNet's way down and middle.
    ///
    /// # Errors
    /// Sites that the backbone does not have, and a part of a UNet's.
    pub fn front(&self, sites: Option<usize>) -> Result<Front, Error> {
        let there = self.info.residual_sites;
        if let Some(asked) = sites.filter(|asked| !(1..=there).contains(asked)) {
            return Err(Error::Sites { asked, there });
        }
        let names = self.parameters().map(|(name, _)| name);
        match &self.model {
            Model::Dit(dit) => Ok(dit.front(sites.unwrap_or(there.div_ceil(2)), names)),
            Model::Unet(unet) => match sites {
                Some(asked) if asked != there => Err(Error::PartOfUnet { asked, there }),
                _ => Ok(unet.front(names)),
            },
        }
    }

    /// The hidden states at the first `sites` residual sites, in order: of a DiT `[B, T, D]` after each block; of a UNet, which gives all,
    /// `[B, C, H, W]` of each skip from the input inwards and of the middle. `hint`, of the embedded input's shape, is
    /// added to the embedded input. A pass's residuals have no part in it.
    ///
    /// # Errors
    /// As [`Backbone::forward`], and for a hint of another shape.
    pub fn run_front(
        &self,
        sites: usize,
        input: &Input<'_>,
        hint: Option<&Tensor>,
        pass: &Pass<'_>,
    ) -> Result<Vec<Tensor>> {
        match &self.model {
            Model::Dit(dit) => dit.run_front(sites, input, hint, pass),
            Model::Unet(unet) => unet.run_front(input, hint, pass),
        }
    }
}

/// The embedded input with the hint added to it.
///
/// # Errors
/// A hint of another shape.
pub(super) fn hinted(embedded: Tensor, hint: Option<&Tensor>) -> Result<Tensor> {
    let Some(hint) = hint else {
        return Ok(embedded);
    };
    if hint.dims() != embedded.dims() {
        candle_core::bail!(
            "the hint is {:?} where the embedded input is {:?}",
            hint.dims(),
            embedded.dims()
        )
    }
    &embedded + hint.to_dtype(embedded.dtype())?
}
