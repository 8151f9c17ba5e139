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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, HashMap};

    use candle_core::Tensor;

    use super::*;
    use crate::backbone::tests::formula::numbers;
    use crate::backbone::tests::single_file::check_names;

    fn three_levels() -> VaeConfig {
        let usual = VaeConfig::default();
        VaeConfig {
            down_block_types: vec![usual.down_block_types[0].clone(); 3],
            up_block_types: vec![usual.up_block_types[0].clone(); 3],
            block_out_channels: vec![32, 64, 64],
            ..usual
        }
    }

    #[test]
    fn an_autoencoder_in_a_file_is_the_one_of_diffusers_under_other_names() {
        let config = three_levels();
        let own = Vae::init(config.clone(), 5).unwrap();
        let original = |name: &str| {
            let original = ldm::vae_original(name, 3).unwrap();
            format!("{}{original}", ldm::VAE)
        };
        let names: BTreeMap<String, String> = own
            .parameters()
            .map(|(name, _)| (name.to_owned(), original(name)))
            .collect();
        check_names("vae", &names);

        let mut stored = HashMap::new();
        for (name, tensor) in own.parameters() {
            let mut tensor = tensor.clone();
            if name.contains(".attentions.") && tensor.rank() == 2 {
                // A 1x1 convolution there.
                tensor = tensor.unsqueeze(2).unwrap().unsqueeze(3).unwrap();
            }
            stored.insert(names[name].clone(), tensor);
        }
        let sign = "model.diffusion_model.input_blocks.0.0.weight";
        stored.insert(sign.to_owned(), numbers(sign, &[2, 2]));
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.safetensors");
        candle_core::safetensors::save(&stored, &path).unwrap();
        assert!(is_within(&path) && !is_within(dir.path()));
        let found = Vae::open(&path, &Device::Cpu).unwrap();
        assert_eq!(found.config(), &config);
        let pictures = numbers("pictures", &[1, 3, 8, 8]);
        let flat = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let code = |vae: &Vae| {
            let mean = vae.posterior(&pictures).unwrap().mean;
            [flat(vae.decode(&mean).unwrap()), flat(mean)]
        };
        assert_eq!(code(&found), code(&own));
    }
}
