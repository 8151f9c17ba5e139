//! The autoencoder of a whole pipeline in one file of the original layout.

use std::path::Path;

use candle_core::{DType, Device};

use super::super::Error;
use super::coder::{Decoder, Encoder};
use super::{Vae, VaeConfig};
use crate::backbone::ldm::{self, Shapes};
use crate::backbone::{Assembly, ModelFolder, Outline};

/// Scaling factors of Stable Diffusion XL and of its predecessors; files do not state them.
const SCALE_XL: f64 = 0.13025;
const SCALE: f64 = 0.18215;

/// Whether a path is that of such a file with an autoencoder in it.
pub(crate) fn is_within(path: &Path) -> bool {
    ldm::shapes_of(path).is_some_and(|shapes| shapes.contains_key(&key("decoder.conv_in.weight")))
}

/// The configuration of the autoencoder in such a file.
///
/// # Errors
/// An autoencoder of no layout that is known.
pub(super) fn config(path: &Path) -> Result<VaeConfig, Error> {
    let shapes = ldm::shapes_of(path).unwrap_or_default();
    let config = infer(&shapes);
    config.check().map_err(|reason| Error::Config {
        file: path.display().to_string(),
        reason,
    })?;
    Ok(config)
}

/// Reads the autoencoder in such a file.
///
/// # Errors
/// As [`config`], and weights that do not fit it.
pub(super) fn open(path: &Path, device: &Device) -> Result<Vae, Error> {
    let config = config(path)?;
    let levels = config.block_out_channels.len();
    let mut net = Assembly::new(&Outline);
    Encoder::load(&mut net, &config)?;
    Decoder::load(&mut net, &config)?;
    let expected = net.finish()?.shapes;
    let catalog = |shapes: &Shapes| {
        Ok(ldm::catalog(shapes, ldm::VAE, &expected, &|name| {
            ldm::vae_original(name, levels)
        }))
    };
    let source = ModelFolder::within(path, device, DType::F32, &catalog)?;
    Vae::load(config, &source)
}

fn key(name: &str) -> String {
    format!("{}{name}", ldm::VAE)
}

/// Shapes say all but the groups of the norms and the scaling factor, which are the same in every autoencoder of Stable Diffusion.
fn infer(shapes: &Shapes) -> VaeConfig {
    let inside = ldm::below(shapes, ldm::VAE);
    let side = |name: &str, dim: usize| {
        let shape = inside.get(name);
        shape.and_then(|shape| shape.get(dim)).copied().unwrap_or(0)
    };
    let levels = ldm::count(&inside, "encoder.down.");
    let is_xl = shapes.contains_key("model.diffusion_model.label_emb.0.0.weight");
    let usual = VaeConfig::default();
    VaeConfig {
        down_block_types: vec![usual.down_block_types[0].clone(); levels],
        up_block_types: vec![usual.up_block_types[0].clone(); levels],
        block_out_channels: (0..levels)
            .map(|level| side(&format!("encoder.down.{level}.block.0.conv2.weight"), 0))
            .collect(),
        layers_per_block: ldm::count(&inside, "encoder.down.0.block."),
        latent_channels: side("decoder.conv_in.weight", 1),
        scaling_factor: if is_xl { SCALE_XL } else { SCALE },
        use_quant_conv: inside.contains_key("quant_conv.weight"),
        use_post_quant_conv: inside.contains_key("post_quant_conv.weight"),
        mid_block_add_attention: inside.contains_key("encoder.mid.attn_1.q.weight"),
        ..usual
    }
}
