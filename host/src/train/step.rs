//! One training step, in the order of the diagram in ARCHITECTURE.md.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};

use crate::backbone::{Conditioning, Input, Pass};
use crate::data::Batch;
use crate::ops::optim::{clip_scale, grad_norm};
use crate::report::{Phase, StepMetrics};

use super::objective::masked_mse;
use super::{Error, Trainer};

/// What one forward pass found.
struct Forward {
    /// What is differentiated: the mean of the weighted losses plus the extra terms, a scalar.
    total: Tensor,
}

/// Gradients by parameter name, summed over the micro-batches of a step.
#[derive(Default)]
struct Gradients(HashMap<String, Tensor>);

impl Trainer {
    /// Takes one optimizer step and says what it measured, timings left to the caller.
    ///
    /// # Errors
    /// Whatever fails before the optimizer moves; [`Trainer::checkpoint`] then still saves the step before.
    pub(super) fn step(&mut self) -> Result<StepMetrics, Error> {
        let session = self.session.clone();
        let accumulation = self.settings.accumulation;
        let mut gradients = Gradients::default();
        let mut loss = 0.0;
        for _ in 0..accumulation {
            let batch = {
                let _time = session.profiler.phase(Phase::Data);
                self.loader.next_batch()?
            };
            let forward = self.forward(batch)?;
            let value = f64::from(forward.total.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            self.refuse_non_finite("loss", value)?;
            loss += value / accumulation as f64;
            let _time = session.profiler.phase(Phase::Backward);
            gradients.add(&mut forward.total.backward()?, &self.optimizer_vars)?;
        }

        let _time = session.profiler.phase(Phase::Optimizer);
        let norm = grad_norm(gradients.0.values())? / accumulation as f64;
        self.refuse_non_finite("gradient norm", norm)?;
        let clip = if self.settings.clip > 0.0 { clip_scale(norm, self.settings.clip) } else { 1.0 };
        let lr = self.rate.at(self.done as usize);
        self.optimizer.config.lr = lr;
        self.optimizer.step(|name, _| gradients.0.get(name), clip / accumulation as f64)?;
        if let Some(ema) = &mut self.ema {
            ema.update(&self.parameters)?;
        }
        self.done += 1;
        self.mark();
        Ok(StepMetrics { step: self.done, loss, lr, grad_norm: norm, ..StepMetrics::default() })
    }

    /// From a batch of images to the loss.
    fn forward(&mut self, batch: Batch) -> Result<Forward, Error> {
        let session = self.session.clone();
        let process = &session.process;

        let (latents, conditioning) = {
            let _time = session.profiler.phase(Phase::Encode);
            let latents = session.encoder.encode(images(&batch)?)?; // [B, C, H, W]
            (latents, self.conditioning(&batch)?)
        };
        let count = latents.dim(0)?;

        let (timesteps, noise, noisy) = {
            let _time = session.profiler.phase(Phase::Batch);
            let timesteps = self.streams.get("timesteps").integers(process.num_train_timesteps(), count, latents.device())?; // [B]
            let noise = self.noise(&latents)?; // [B, C, H, W]
            let noisy = process.add_noise(&latents, &noise, &timesteps)?; // [B, C, H, W]
            (timesteps, noise, noisy)
        };

        let output = {
            let _time = session.profiler.phase(Phase::Forward);
            let input = Input { latents: &noisy, timesteps: &timesteps, conditioning: &conditioning };
            let pass = Pass { overlay: Some(&self.overlay), ..Pass::frozen() };
            session.backbone.forward(&input, &pass)? // [B, C or 2C, H, W]
        };

        let _time = session.profiler.phase(Phase::Loss);
        let (prediction, variance) = process.split_variance(&output)?; // [B, C, H, W]
        let target = process.target(&latents, &noise, &timesteps)?; // [B, C, H, W]
        let mut loss = masked_mse(&prediction, &target, None)?; // [B]
        if let Some(variance) = variance.filter(|_| self.settings.variational_bound) {
            loss = (loss + process.variational_bound(&prediction, &variance, &latents, &noisy, &timesteps)?)?;
        }
        if let Some(weighting) = self.weighting {
            loss = (loss * process.weights(weighting, &timesteps)?)?; // [B]
        }
        Ok(Forward { total: loss.mean_all()? })
    }

    /// Standard normal noise, plus a constant for each image and channel where the run file asks for one.
    fn noise(&mut self, latents: &Tensor) -> Result<Tensor, Error> {
        let stream = self.streams.get("noise");
        let noise = stream.normal(latents.dims(), latents.device())?; // [B, C, H, W]
        if self.settings.noise_offset == 0.0 {
            return Ok(noise);
        }
        let (count, channels, ..) = latents.dims4()?;
        let offset = (stream.normal((count, channels, 1, 1), latents.device())? * self.settings.noise_offset)?;
        Ok(noise.broadcast_add(&offset)?)
    }

    /// The batch's class labels, some dropped to the null class so that the model also learns the unconditional prediction.
    fn conditioning(&mut self, batch: &Batch) -> Result<Conditioning, Error> {
        let images = images(batch)?;
        let count = images.dim(0)?;
        let null = self.session.backbone.info().num_classes as u32;
        let mut labels = match batch.tensors.get("class_labels") {
            Some(labels) => labels.to_dtype(DType::U32)?.to_vec1::<u32>()?,
            None => vec![null; count],
        };
        let rate = self.settings.label_dropout as f32;
        if rate > 0.0 {
            for (label, draw) in labels.iter_mut().zip(self.streams.get("label_dropout").uniforms(count)) {
                if draw < rate {
                    *label = null;
                }
            }
        }
        Ok(Conditioning::classes(Tensor::new(labels, images.device())?))
    }

    fn refuse_non_finite(&self, what: &'static str, value: f64) -> Result<(), Error> {
        if value.is_finite() { Ok(()) } else { Err(Error::NonFinite { what, step: self.done + 1, value }) }
    }
}

impl Gradients {
    fn add(&mut self, store: &mut GradStore, vars: &[(String, Var)]) -> Result<(), Error> {
        for (name, var) in vars {
            if let Some(gradient) = store.remove(var.as_tensor()) {
                let sum = match self.0.remove(name) {
                    Some(sum) => (sum + gradient)?,
                    None => gradient,
                };
                self.0.insert(name.clone(), sum);
            }
        }
        Ok(())
    }
}

fn images(batch: &Batch) -> Result<&Tensor, Error> {
    batch.tensors.get("images").ok_or(Error::NoImages)
}
