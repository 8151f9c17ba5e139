//! The variational autoencoder of latent diffusion models (Rombach et al. 2022, section 3.1), as diffusers' `AutoencoderKL` computes it. Always in f32, and
//! frozen; gradients flow through both halves.

mod coder;
mod config;
mod single;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::{DType, Device, Result, Tensor};

pub use config::VaeConfig;
pub(crate) use single::is_within;

use super::Error;
use crate::backbone::{
    Assembly, DIFFUSION_WEIGHTS, Initial, ModelFolder, Overlay, Pass, Source, write_folder,
};
use coder::{Decoder, Encoder};

/// An autoencoder with frozen weights.
#[derive(Debug)]
pub struct Vae {
    config: VaeConfig,
    encoder: Encoder,
    decoder: Decoder,
    parameters: Vec<(String, Tensor)>,
}

/// What the encoder says of latents: a normal distribution for each number, unscaled.
#[derive(Debug, Clone)]
pub struct Posterior {
    /// `[B, C, h, w]`.
    pub mean: Tensor,
    /// Standard deviations, `[B, C, h, w]`.
    pub std: Tensor,
}

impl Vae {
    /// Reads a `vae/` folder as diffusers writes it, `config.json` beside the weights, or the autoencoder of a whole pipeline in one file of the original
    /// layout.
    ///
    /// # Errors
    /// What cannot be read, and a configuration that the host does not implement or that the weights do not fit.
    pub fn open(dir: &Path, device: &Device) -> std::result::Result<Self, Error> {
        if dir.is_file() {
            return single::open(dir, device);
        }
        let config = read_config(dir)?;
        let folder =
            ModelFolder::open(dir, device, DType::F32, &|stored| Some(modern_name(stored)))?;
        Self::load(config, &folder)
    }

    /// Whether a recipe's configuration can be built.
    ///
    /// # Errors
    /// A configuration that makes no sense.
    pub fn check(config: &VaeConfig) -> std::result::Result<(), Error> {
        config.check().map_err(|reason| Error::Config {
            file: "[autoencoder]".to_owned(),
            reason,
        })
    }

    /// One that has learned nothing, for pretraining.
    ///
    /// # Errors
    /// As [`Vae::check`].
    pub fn init(config: VaeConfig, seed: u64) -> std::result::Result<Self, Error> {
        Self::check(&config)?;
        let initial = Initial {
            seed,
            device: &Device::Cpu,
            zeros: &|_| false,
        };
        Self::load(config, &initial)
    }

    fn load(config: VaeConfig, source: &dyn Source) -> std::result::Result<Self, Error> {
        let mut net = Assembly::new(source);
        let encoder = Encoder::load(&mut net, &config)?;
        let decoder = Decoder::load(&mut net, &config)?;
        let parameters = net.finish()?.parameters;
        Ok(Self {
            config,
            encoder,
            decoder,
            parameters,
        })
    }

    /// Every parameter with its name, diffusers' key.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        (self.parameters.iter()).map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Writes a `vae/` folder as diffusers reads it, with `trained` in place of the parameters of the same names, and `scaling_factor` as the
    /// configuration's.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn save(
        &self,
        dir: &Path,
        trained: &Overlay,
        scaling_factor: f64,
        dtype: DType,
    ) -> std::result::Result<(), Error> {
        let config = VaeConfig {
            scaling_factor,
            ..self.config.clone()
        };
        let tensors: BTreeMap<String, &Tensor> = (self.parameters.iter())
            .map(|(name, tensor)| (name.clone(), trained.get(name).unwrap_or(tensor)))
            .collect();
        let config = config.to_json();
        Ok(write_folder(
            dir,
            DIFFUSION_WEIGHTS,
            &config,
            &tensors,
            dtype,
        )?)
    }

    /// The configuration.
    pub fn config(&self) -> &VaeConfig {
        &self.config
    }

    /// The distribution of the latents of pictures `[B, 3, H, W]` in `-1..=1`, whose sides must be multiples of [`VaeConfig::factor`].
    ///
    /// # Errors
    /// Pictures of another shape.
    pub fn posterior(&self, images: &Tensor) -> Result<Posterior> {
        self.posterior_by(images, &Pass::frozen())
    }

    /// The same with the stand-ins of a pass, while the autoencoder itself is trained.
    ///
    /// # Errors
    /// As [`Vae::posterior`].
    pub fn posterior_by(&self, images: &Tensor, pass: &Pass<'_>) -> Result<Posterior> {
        let (_, channels, height, width) = images.dims4()?;
        let factor = self.config.factor();
        if channels != 3 || height % factor != 0 || width % factor != 0 {
            candle_core::bail!(
                "pictures of shape {:?} cannot be encoded: they need 3 channels and sides that are multiples of {factor}",
                images.dims()
            );
        }
        let images = images.to_dtype(DType::F32)?;
        let moments = self.encoder.forward(&images, pass)?; // [B, 2C, h, w]
        let latents = self.config.latent_channels;
        let mean = moments.narrow(1, 0, latents)?.contiguous()?;
        // Bounded as diffusers bounds it.
        let log_variance = moments.narrow(1, latents, latents)?.clamp(-30f32, 20f32)?;
        let std = (log_variance * 0.5)?.exp()?;
        Ok(Posterior { mean, std })
    }

    /// Unscaled latents as the diffusion network takes them: `(latents - shift) * scale`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn scaled(&self, latents: &Tensor) -> Result<Tensor> {
        let (scale, shift) = (self.config.scaling_factor, self.shift());
        latents.affine(scale, -shift * scale)
    }

    /// Pictures `[B, 3, H, W]`, unclamped, of scaled latents `[B, C, h, w]`.
    ///
    /// # Errors
    /// Latents of another number of channels.
    pub fn decode(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_raw(&latents.affine(1.0 / self.config.scaling_factor, self.shift())?)
    }

    /// Pictures `[B, 3, H, W]`, unclamped, of unscaled latents `[B, C, h, w]`: diffusers' `decode`.
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode_raw(&self, latents: &Tensor) -> Result<Tensor> {
        self.decode_raw_by(latents, &Pass::frozen())
    }

    /// The same with the stand-ins of a pass, while the autoencoder itself is trained.
    ///
    /// # Errors
    /// As [`Vae::decode`].
    pub fn decode_raw_by(&self, latents: &Tensor, pass: &Pass<'_>) -> Result<Tensor> {
        let channels = latents.dims4()?.1;
        if channels != self.config.latent_channels {
            candle_core::bail!(
                "latents of shape {:?} cannot be decoded: they need {} channels",
                latents.dims(),
                self.config.latent_channels
            );
        }
        let latents = latents.to_dtype(DType::F32)?;
        self.decoder.forward(&latents, pass)
    }

    fn shift(&self) -> f64 {
        self.config.shift_factor.unwrap_or(0.0)
    }
}

/// The configuration in a `vae/` folder, or of the autoencoder of a whole pipeline in one file.
///
/// # Errors
/// As [`VaeConfig::from_json`], and a file that is missing.
pub fn read_config(dir: &Path) -> std::result::Result<VaeConfig, Error> {
    if dir.is_file() {
        return single::config(dir);
    }
    let file = dir.join("config.json");
    let text = std::fs::read_to_string(&file).map_err(|error| Error::Config {
        file: file.display().to_string(),
        reason: error.to_string(),
    })?;
    VaeConfig::from_json(&text, &file.display().to_string())
}

/// The name that today's diffusers gives a parameter of the attention, which older files name after the original code.
fn modern_name(stored: &str) -> String {
    let renamed = [
        (".query.", ".to_q."),
        (".key.", ".to_k."),
        (".value.", ".to_v."),
        (".proj_attn.", ".to_out.0."),
    ];
    match stored.contains(".attentions.") {
        true => {
            (renamed.into_iter()).fold(stored.to_owned(), |name, (old, new)| name.replace(old, new))
        }
        false => stored.to_owned(),
    }
}
