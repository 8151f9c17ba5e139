//! A first layer that takes the picture's latents beside the noisy ones.

use plugin_api::{DType, Host, LayerKind, Result, Tensor, bail};

/// Makes the network's first layer twice as wide: its weight is repeated and halved, so that the same latents in both halves mean what they meant; the bias is
/// halved too, as the published code does (`replace_unet_conv_in`), though nothing of it comes in twice. Both train.
///
/// A network that takes twice the channels of its latents already stays as it is.
///
/// # Errors
/// A network of which neither is true.
pub(crate) fn widen(host: &Host) -> Result<()> {
    let backbone = host.backbone()?;
    let (latents, inputs) = (backbone.latent_channels, backbone.in_channels);
    if inputs == 2 * latents {
        tracing::info!("the backbone takes {inputs} channels already");
        return Ok(());
    }
    if inputs != latents {
        bail!(
            "the backbone takes {inputs} channels, and a picture's latents beside noisy ones are {} of them; this needs a backbone of {latents} channels, which \
             is widened, or of {}",
            2 * latents,
            2 * latents
        );
    }
    let layers = host.layers()?;
    let Some(first) = layers.iter().find(|layer| layer.kind == LayerKind::CONV2D) else {
        bail!("the backbone has no convolution to take its latents; use input = \"rgb\"");
    };
    let name = first.weight_name();
    let weight = host.weight(&name)?.to_dtype(DType::F32)?; // [O, C, k, k]
    let wide = Tensor::cat(&[&weight, &weight], 1)?.affine(0.5, 0.0)?; // [O, 2 C, k, k]
    host.stand_in(&name, Some(wide), true)?;
    if first.bias {
        let name = format!("{}.bias", first.path);
        let bias = host.weight(&name)?.to_dtype(DType::F32)?; // [O]
        host.stand_in(&name, Some(bias.affine(0.5, 0.0)?), true)?;
    }
    tracing::info!(
        "`{}` takes {} channels instead of {latents}",
        first.path,
        2 * latents
    );
    Ok(())
}
