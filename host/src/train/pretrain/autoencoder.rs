//! Pretraining the autoencoder of a latent diffusion model (Rombach et al. 2022, section 3.1, without the discriminator): the absolute error of the
//! reconstruction, and a slight pull of the posterior to the standard normal.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use super::super::{Ending, Error};
use super::module::{Loss, Module};
use super::{Recipe, Sections, resumed};
use crate::backbone::{Overlay, Pass};
use crate::cancel::Cancel;
use crate::config::{DataSection, RunSection, SampleSection, TrainSection};
use crate::data::{self, Batch, Dataset};
use crate::encode::vae::Posterior;
use crate::encode::{Vae, VaeConfig};
use crate::ops::autograd::no_grad;
use crate::random::Stream;
use crate::report::Progress;

/// Pictures whose latents' spread gives the scaling factor.
const SCALED_BY: usize = 512;

/// What a recipe file for an autoencoder holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderRecipe {
    /// Where the run goes.
    pub run: RunSection,
    /// The autoencoder to make.
    pub autoencoder: VaeConfig,
    /// What it is trained for.
    pub loss: AutoencoderLoss,
    /// What to train it on.
    pub data: DataSection,
    /// How.
    pub train: TrainSection,
}

/// The loss of an autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AutoencoderLoss {
    /// Weight of the Kullback-Leibler divergence of the posterior from the standard normal, taken as a mean over latents. 0 or more.
    pub divergence: f64,
    /// Weight of the absolute error of the differences between neighbouring pixels, which keeps edges sharp. 0 or more.
    pub edges: f64,
}

impl Default for AutoencoderLoss {
    fn default() -> Self {
        Self {
            divergence: 1e-4,
            edges: 0.5,
        }
    }
}

impl Recipe for AutoencoderRecipe {
    const MAKES: &'static str = "autoencoder";
    const FOLDER: &'static str = "vae";

    fn sections(&mut self) -> Sections<'_> {
        Sections {
            run: &mut self.run,
            data: &self.data,
            train: &mut self.train,
            sample: SampleSection::default(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.loss.check()?;
        Vae::check(&self.autoencoder)?;
        self.dataset().map(drop)
    }

    fn follow(
        &self,
        run: &Path,
        resume: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Ending, Error> {
        let vae = Vae::init(self.autoencoder.clone(), self.train.seed)?;
        let dataset = self.dataset()?;
        let resumed = resumed(run, resume)?;
        let source = (dataset.clone(), self.data.workers);
        let mut module = Module::new(
            vae.parameters(),
            self.train.clone(),
            source,
            resumed.as_ref(),
        )?;
        let loss = |overlay: &Overlay, batch: &Batch, stream: &mut Stream| {
            self.loss.of(&vae, overlay, batch, stream)
        };
        let ending = module.fit(run, progress, cancel, &loss)?;
        if ending == Ending::Finished {
            let best = module.best();
            let factor = scaling_factor(&vae, &best, &dataset)?;
            vae.save(
                &run.join(AutoencoderRecipe::FOLDER),
                &best,
                factor,
                DType::F16,
            )?;
        }
        Ok(ending)
    }
}

impl AutoencoderRecipe {
    fn dataset(&self) -> Result<Arc<dyn Dataset>, Error> {
        let dataset = super::dataset(&self.data, 64)?;
        let factor = self.autoencoder.factor();
        match dataset.size().is_multiple_of(factor) {
            true => Ok(dataset),
            false => Err(Error::Recipe {
                key: "data.size",
                expected: format!(
                    "a multiple of {factor}, since the autoencoder makes latents that much smaller"
                ),
            }),
        }
    }
}

impl AutoencoderLoss {
    fn check(&self) -> Result<(), Error> {
        for (key, value) in [
            ("loss.divergence", self.divergence),
            ("loss.edges", self.edges),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(Error::Recipe {
                    key,
                    expected: "a number of 0 or more".to_owned(),
                });
            }
        }
        Ok(())
    }

    fn of(
        &self,
        vae: &Vae,
        overlay: &Overlay,
        batch: &Batch,
        stream: &mut Stream,
    ) -> Result<Loss, Error> {
        let pass = Pass {
            overlay: Some(overlay),
            ..Pass::default()
        };
        let images = batch.tensors.get("images").ok_or(Error::NoImages)?; // [B, 3, H, W]
        let posterior = vae.posterior_by(images, &pass)?;
        let Posterior { mean, std } = &posterior; // [B, C, h, w]
        let noise = stream.normal(mean.dims(), mean.device())?;
        let latents = (mean + (std * noise)?)?;
        let error = (vae.decode_raw_by(&latents, &pass)? - images)?; // [B, 3, H, W]
        let absolute = error.abs()?.mean_all()?;
        let edges = edge_error(&error)?;
        let divergence = divergence(&posterior)?;
        let total = ((&absolute + (&edges * self.edges)?)? + (&divergence * self.divergence)?)?;
        let value = |tensor: &Tensor| Ok::<_, Error>(f64::from(tensor.to_scalar::<f32>()?));
        Ok(Loss {
            parts: BTreeMap::from([
                ("loss/absolute".to_owned(), value(&absolute)?),
                ("loss/edges".to_owned(), value(&edges)?),
                ("loss/divergence".to_owned(), value(&divergence)?),
            ]),
            total,
        })
    }
}

/// The mean absolute error of differences between neighbours, given the error `[B, 3, H, W]` of the pixels: differences are linear.
fn edge_error(error: &Tensor) -> candle_core::Result<Tensor> {
    let along = |dim: usize| {
        let count = error.dim(dim)? - 1;
        (error.narrow(dim, 1, count)? - error.narrow(dim, 0, count)?)?
            .abs()?
            .mean_all()
    };
    (along(2)? + along(3)?)? * 0.5
}

/// Kullback-Leibler divergence of the posterior from the standard normal, mean over latents: a scalar.
fn divergence(posterior: &Posterior) -> candle_core::Result<Tensor> {
    let variance = posterior.std.sqr()?;
    let sum = ((posterior.mean.sqr()? + &variance)? - (variance.log()? + 1.0)?)?;
    sum.mean_all()? * 0.5
}

/// One over the standard deviation of the latents of some pictures.
fn scaling_factor(vae: &Vae, trained: &Overlay, dataset: &Arc<dyn Dataset>) -> Result<f64, Error> {
    let batch = data::first_items(&**dataset, SCALED_BY.min(dataset.len()))?;
    let images = batch.tensors.get("images").ok_or(Error::NoImages)?;
    let pass = Pass {
        overlay: Some(trained),
        ..Pass::default()
    };
    let mut values = Vec::new();
    for at in (0..images.dim(0)?).step_by(32) {
        let some = images.narrow(0, at, 32.min(images.dim(0)? - at))?;
        let mean = no_grad(|| vae.posterior_by(&some, &pass))?.mean;
        values.extend(mean.flatten_all()?.to_vec1::<f32>()?);
    }
    let count = values.len() as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
    let squares: f64 = (values.iter())
        .map(|&value| (f64::from(value) - mean).powi(2))
        .sum();
    Ok(1.0 / (squares / count).sqrt())
}
