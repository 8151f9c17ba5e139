//! One training step, in the order of the diagram in ARCHITECTURE.md.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use plugin_api::Phase;

use crate::backbone::{Conditioning, Input};
use crate::data::{Batch, Size};
use crate::ops::autograd::{Gradients, Recording, no_grad};
use crate::ops::optim::{clip_scale, grad_norm};
use crate::plugin::slots::Slot;
use crate::plugin::stack::{Finished, NetworkInput, Predicted, Stack};
use crate::report::{Phase as Time, StepMetrics};

use super::conditioning::{Dropout, is_of_text};
use super::objective::masked_mse;
use super::replay::TrainingReplay;
use super::{Error, Owner, Parameters, Start, Trainer};

/// One forward pass, from a batch to its loss.
struct Forward {
    batch: Batch,
    latents: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    noisy_latents: Tensor,
    prediction: Tensor,
    target: Tensor,
    loss_mask: Option<Tensor>,
    /// Each sample's loss before weighing, `[B]`.
    sample_loss: Tensor,
    /// Each sample's weight, `[B]`; ones where there is none.
    loss_weight: Option<Tensor>,
    /// How blocks run again in the backward pass, where they kept no activations.
    replay: Option<TrainingReplay>,
    /// What is differentiated: the mean of the weighted losses plus the extra terms, a scalar.
    total: Tensor,
}

impl Trainer {
    /// Takes one optimizer step and says what it measured, timings left to the caller.
    ///
    /// # Errors
    /// Whatever fails before the optimizer moves; [`Trainer::checkpoint`] then still saves the step before.
    pub(super) fn step(&mut self, stack: &Stack) -> Result<StepMetrics, Error> {
        let session = self.session.clone();
        let accumulation = self.settings.accumulation;
        let mut gradients = BTreeMap::new();
        let mut loss = 0.0;
        let mut last = None;
        for _ in 0..accumulation {
            let start = {
                let _time = session.profiler.phase(Time::Data);
                self.feed.next(session.backbone.device())?
            };
            let recording = Recording::start();
            let forward = self.forward(stack, start)?;
            let value = f64::from(forward.total.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            Error::refuse_non_finite("loss", self.done + 1, value)?;
            loss += value / accumulation as f64;
            let _time = session.profiler.phase(Time::Backward);
            let found = recording.backward(&forward.total);
            let mut found = found.map_err(|error| forward.blame(error))?;
            accumulate(&mut gradients, &mut found, &session.parameters.borrow())?;
            last = Some(forward);
        }

        let lr = self.rate.at(self.done as usize);
        let norm = {
            let _time = session.profiler.phase(Time::Optimizer);
            let norm = self.gradient_norm(&gradients)?;
            Error::refuse_non_finite("gradient norm", self.done + 1, norm)?;
            let clip = if self.settings.clip > 0.0 {
                clip_scale(norm, self.settings.clip)
            } else {
                1.0
            };
            let averages = self.ema.as_mut().map(|ema| ema.at(self.done + 1));
            self.optimizer
                .step(lr, &gradients, clip / accumulation as f64, averages)?;
            norm
        };

        // The step stands from here on, whatever an observer does.
        self.done += 1;
        session.step.set(self.done);
        self.mark()?;
        if let Some(forward) = last.filter(|_| stack.takes(Slot::Observe)) {
            let metrics = session.metrics.borrow().clone();
            let finished = Finished {
                at: forward.predicted(),
                loss,
                sample_loss: &forward.sample_loss,
                loss_weight: forward.loss_weight.as_ref(),
                grad_norm: norm,
                learning_rate: lr,
                metrics: &metrics,
            };
            stack.observe(&session.scene(self.done - 1, Phase::TRAIN), &finished)?;
            self.mark()?;
        }
        let named = std::mem::take(&mut *session.metrics.borrow_mut());
        Ok(StepMetrics {
            step: self.done,
            loss,
            lr,
            grad_norm: norm,
            named,
            ..StepMetrics::default()
        })
    }

    /// From a batch of images to the loss.
    fn forward(&mut self, stack: &Stack, start: Start) -> Result<Forward, Error> {
        let Start {
            batch,
            timesteps: given_timesteps,
            noise: given_noise,
        } = start;
        let session = self.session.clone();
        let process = &session.process;
        let scene = session.scene(self.done, Phase::TRAIN);

        let mut batch = {
            let _time = session.profiler.phase(Time::Batch);
            stack.batch(&scene, batch)?
        };
        let (latents, conditioning) = {
            let _time = session.profiler.phase(Time::Encode);
            let latents = self.latents(&batch)?; // [B, C, H, W]
            let conditioning = self.conditioning(&batch, &latents)?;
            (latents, conditioning)
        };
        let of_text = (conditioning.tensors.iter()).filter(|(name, _)| is_of_text(name));
        let of_text = of_text.map(|(name, tensor)| (name.clone(), tensor.clone()));
        batch.tensors.extend(of_text);

        let time = session.profiler.phase(Time::Batch);
        let timesteps =
            match stack.timesteps(&scene, &batch, &latents, process.num_train_timesteps())? {
                Some(timesteps) => timesteps,
                None => match given_timesteps {
                    Some(given) => given,
                    None => self.uniform_timesteps(&latents)?,
                },
            }; // [B]
        let noise = match stack.noise(&scene, &batch, &latents, &timesteps)? {
            Some(noise) => noise,
            None => match given_noise {
                Some(given) => given,
                None => self.standard_noise(&latents)?,
            },
        }; // [B, C, H, W]
        let noise_mask = stack.noise_mask(&scene, &batch, &latents, &timesteps)?; // [B, 1, H, W]
        let noisy_latents = process.add_noise(&latents, &noise, &timesteps)?; // [B, C, H, W]
        let noisy_latents = match &noise_mask {
            Some(mask) => keep_clean(&noisy_latents, &latents, mask)?,
            None => noisy_latents,
        };
        drop(time);

        let replay = (self.settings.gradient_checkpointing)
            .then(|| TrainingReplay::new(session.clone(), self.overlay.clone(), self.done));
        let output = {
            let _time = session.profiler.phase(Time::Forward);
            // With what the network is told, dropped labels and all: a network that a plugin runs beside it must be told the same.
            let mut told = batch.clone();
            told.tensors.extend(conditioning.tensors.clone());
            let at = NetworkInput {
                batch: &told,
                noisy_latents: &noisy_latents,
                timesteps: &timesteps,
                latents: Some(&latents),
                unconditional: false,
            };
            let input = stack
                .denoiser_input(&scene, &at)?
                .unwrap_or_else(|| noisy_latents.clone());
            let residuals =
                stack.residuals(&scene, &at, &input, session.backbone.info().residual_sites)?;
            let input = Input {
                latents: &input,
                timesteps: &timesteps,
                conditioning: &conditioning,
            };
            let layers = stack.layer_hook(scene);
            let (layers, residuals) = (layers.as_ref(), residuals.as_deref());
            session.forward(&input, &self.overlay, layers, residuals, replay.as_ref())?
        }; // [B, C or 2C, H, W]

        let _time = session.profiler.phase(Time::Loss);
        let (prediction, variance) = process.split_variance(&output)?; // [B, C, H, W]
        let target = process.target(&latents, &noise, &timesteps)?; // [B, C, H, W]
        let loss_mask = batch.tensors.get("loss_mask").cloned().or(noise_mask);
        let predicted = Predicted {
            batch: &batch,
            latents: &latents,
            noise: &noise,
            timesteps: &timesteps,
            noisy_latents: &noisy_latents,
            prediction: &prediction,
            target: &target,
            loss_mask: loss_mask.as_ref(),
        };
        let sample_loss = match stack.objective(&scene, &predicted)? {
            Some(loss) => loss,
            None => self.default_objective(&predicted, variance)?,
        }; // [B]
        let loss_weight = self.loss_weight(stack, &predicted, &sample_loss)?; // [B]
        let mut total = match &loss_weight {
            Some(weight) => (&sample_loss * weight)?.mean_all()?,
            None => sample_loss.mean_all()?,
        };
        for (plugin, term) in stack.loss_terms(&scene, &predicted, &sample_loss)? {
            let value = f64::from(term.to_dtype(DType::F32)?.to_scalar::<f32>()?);
            session
                .metrics
                .borrow_mut()
                .insert(format!("plugin/{plugin}/loss_term"), value);
            total = (total + term)?;
        }
        Ok(Forward {
            batch,
            latents,
            noise,
            timesteps,
            noisy_latents,
            prediction,
            target,
            loss_mask,
            sample_loss,
            loss_weight,
            replay,
            total,
        })
    }

    /// The batch's latents where a plugin brought some, else its pictures as latents; where there is an autoencoder, drawn from its posterior.
    fn latents(&self, batch: &Batch) -> Result<Tensor, Error> {
        let session = &self.session;
        let images = images(batch)?;
        if let Some(latents) = batch.tensors.get("latents") {
            return brought(latents, images.dim(0)?);
        }
        let normal = |shape: &[usize]| {
            let mut streams = session.streams.borrow_mut();
            streams.get("latents").normal(shape, images.device())
        };
        Ok(no_grad(|| session.encoder.sample(images, normal))?)
    }

    fn uniform_timesteps(&self, latents: &Tensor) -> Result<Tensor, Error> {
        let bound = self.session.process.num_train_timesteps();
        let mut streams = self.session.streams.borrow_mut();
        Ok(streams
            .get("timesteps")
            .integers(bound, latents.dim(0)?, latents.device())?)
    }

    /// Standard normal noise, plus a constant for each image and channel where the run file asks for one.
    fn standard_noise(&self, latents: &Tensor) -> Result<Tensor, Error> {
        let mut streams = self.session.streams.borrow_mut();
        let stream = streams.get("noise");
        let noise = stream.normal(latents.dims(), latents.device())?; // [B, C, H, W]
        if self.settings.noise_offset == 0.0 {
            return Ok(noise);
        }
        let (count, channels, ..) = latents.dims4()?;
        let offset = (stream.normal((count, channels, 1, 1), latents.device())?
            * self.settings.noise_offset)?;
        Ok(noise.broadcast_add(&offset)?)
    }

    /// What the network is told of the batch, some of it left out so that the model also learns the prediction without.
    fn conditioning(&self, batch: &Batch, latents: &Tensor) -> Result<Conditioning, Error> {
        let (count, _, height, width) = latents.dims4()?;
        let dropout = Dropout {
            labels: self.settings.label_dropout,
            captions: self.settings.caption_dropout,
        };
        let session = &self.session;
        let batch = session.dropped(batch, count, dropout, &mut session.streams.borrow_mut())?;
        session.conditioning(&batch, count, Size { height, width })
    }

    /// Squared error plus the variational bound of a learned variance, both under the loss mask: `[B]`.
    fn default_objective(
        &self,
        at: &Predicted<'_>,
        variance: Option<Tensor>,
    ) -> Result<Tensor, Error> {
        let loss = masked_mse(at.prediction, at.target, at.loss_mask)?;
        match variance.filter(|_| self.settings.variational_bound) {
            Some(variance) => {
                let process = &self.session.process;
                let bound = process.variational_bound(
                    at.prediction,
                    &variance,
                    at.latents,
                    at.noisy_latents,
                    at.timesteps,
                    at.loss_mask,
                )?;
                Ok((loss + bound)?)
            }
            None => Ok(loss),
        }
    }

    /// The run file's weighting times the plugins': `[B]`, or nothing where nobody weighs.
    fn loss_weight(
        &self,
        stack: &Stack,
        at: &Predicted<'_>,
        loss: &Tensor,
    ) -> Result<Option<Tensor>, Error> {
        let process = &self.session.process;
        let scene = self.session.scene(self.done, Phase::TRAIN);
        let ours = self
            .weighting
            .map(|weighting| process.weights(weighting, at.timesteps))
            .transpose()?;
        let mut product = ours;
        let steps = process.num_train_timesteps();
        for (plugin, weight) in stack.loss_weight(&scene, at.batch, at.timesteps, loss, steps)? {
            let mean = f64::from(weight.mean_all()?.to_scalar::<f32>()?);
            let name = format!("plugin/{plugin}/loss_weight");
            self.session.metrics.borrow_mut().insert(name, mean);
            product = Some(match product {
                Some(others) => (others * weight)?,
                None => weight,
            });
        }
        Ok(product)
    }

    /// The norm of the whole gradient; with plugins that train something, that of each owner's part becomes a metric.
    fn gradient_norm(&self, gradients: &BTreeMap<String, Tensor>) -> Result<f64, Error> {
        let session = &self.session;
        let mut parts: BTreeMap<&Owner, Vec<&Tensor>> = BTreeMap::new();
        let parameters = session.parameters.borrow();
        for parameter in parameters.iter() {
            if let Some(gradient) = gradients.get(&parameter.name) {
                parts.entry(&parameter.owner).or_default().push(gradient);
            }
        }
        let mut metrics = session.metrics.borrow_mut();
        let mut squares = 0.0;
        let alone = parts.keys().all(|owner| **owner == Owner::Backbone);
        for (owner, gradients) in parts {
            let norm = grad_norm(gradients)? / self.settings.accumulation as f64;
            squares += norm * norm;
            let name = match owner {
                _ if alone => continue,
                Owner::Backbone => "backbone/grad_norm".to_owned(),
                Owner::Scale => "scales/grad_norm".to_owned(),
                Owner::Plugin(plugin) => format!("plugin/{plugin}/grad_norm"),
            };
            metrics.insert(name, norm);
        }
        Ok(squares.sqrt())
    }
}

impl Forward {
    /// The plugin's error behind one of the backward pass, if a plugin's layer failed in it.
    fn blame(&self, error: candle_core::Error) -> Error {
        let replay = self.replay.as_ref();
        replay
            .and_then(TrainingReplay::failure)
            .map_or_else(|| error.into(), Error::from)
    }

    fn predicted(&self) -> Predicted<'_> {
        Predicted {
            batch: &self.batch,
            latents: &self.latents,
            noise: &self.noise,
            timesteps: &self.timesteps,
            noisy_latents: &self.noisy_latents,
            prediction: &self.prediction,
            target: &self.target,
            loss_mask: self.loss_mask.as_ref(),
        }
    }
}

/// Noise where the mask is 1, clean latents where it is 0.
fn keep_clean(noisy: &Tensor, clean: &Tensor, mask: &Tensor) -> candle_core::Result<Tensor> {
    noisy.broadcast_mul(mask)? + clean.broadcast_mul(&mask.affine(-1.0, 1.0)?)?
}

/// Adds one pass's gradients to those of the passes before it.
pub(super) fn accumulate(
    gradients: &mut BTreeMap<String, Tensor>,
    found: &mut Gradients,
    parameters: &Parameters,
) -> Result<(), Error> {
    for parameter in parameters.iter() {
        if let Some(gradient) = found.remove(parameter.var.as_tensor()) {
            let sum = match gradients.remove(&parameter.name) {
                Some(sum) => (sum + gradient)?,
                None => gradient,
            };
            gradients.insert(parameter.name.clone(), sum);
        }
    }
    Ok(())
}

/// Latents that a plugin brought, one a picture, cut from whatever made them.
fn brought(latents: &Tensor, count: usize) -> Result<Tensor, Error> {
    match latents.dims() {
        &[found, _, _, _] if found == count => Ok(latents.detach()),
        other => Err(candle_core::Error::Msg(format!(
            "the batch brings `latents` of shape {other:?} for {count} images; they are [{count}, C, h, w]"
        ))
        .into()),
    }
}

fn images(batch: &Batch) -> Result<&Tensor, Error> {
    batch.tensors.get("images").ok_or(Error::NoImages)
}

#[cfg(test)]
mod tests;
