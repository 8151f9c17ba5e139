//! The slots of a training step, in its order.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor};
use plugin_api::hooks;
use plugin_api::slots as calls;

use super::Stack;
use super::checks::Returned;
use crate::data::Batch;
use crate::plugin::bag;
use crate::plugin::failure::PluginError;
use crate::plugin::foreign::{Foreign, Scene};
use crate::plugin::slots::Slot;
use crate::plugin::tensor_ops::export;

/// What is known before a pass of the network, in training and in sampling.
#[derive(Clone, Copy, Debug)]
pub struct NetworkInput<'a> {
    /// The batch; in sampling the bag that `sample_begin` left.
    pub batch: &'a Batch,
    /// Noisy latents, `[B, C, h, w]`.
    pub noisy_latents: &'a Tensor,
    /// `[B]`: u32 in training, f32 in sampling.
    pub timesteps: &'a Tensor,
    /// Clean latents, `[B, C, h, w]`; `None` in sampling.
    pub latents: Option<&'a Tensor>,
    /// Whether this is the unconditional pass of classifier-free guidance.
    pub unconditional: bool,
}

/// One training step up to the prediction.
#[derive(Clone, Copy, Debug)]
pub struct Predicted<'a> {
    /// The batch, after every `batch` hook.
    pub batch: &'a Batch,
    /// Clean latents, `[B, C, h, w]`.
    pub latents: &'a Tensor,
    /// Noise, `[B, C, h, w]`.
    pub noise: &'a Tensor,
    /// `[B]` u32.
    pub timesteps: &'a Tensor,
    /// Noisy latents, `[B, C, h, w]`.
    pub noisy_latents: &'a Tensor,
    /// The prediction without learned variance, `[B, C, h, w]`.
    pub prediction: &'a Tensor,
    /// What the network should have predicted, `[B, C, h, w]`.
    pub target: &'a Tensor,
    /// Where the default objective counts, `[B, 1, h, w]` in 0..1; `None` is everywhere.
    pub loss_mask: Option<&'a Tensor>,
}

/// A finished optimizer step.
#[derive(Clone, Copy, Debug)]
pub struct Finished<'a> {
    /// The last micro-batch's step.
    pub at: Predicted<'a>,
    /// The step's loss: weighted, with every term, averaged over accumulated batches.
    pub loss: f64,
    /// The samples' losses before weighing, `[B]`.
    pub sample_loss: &'a Tensor,
    /// The samples' weights, `[B]`; `None` means ones.
    pub loss_weight: Option<&'a Tensor>,
    /// Norm of the gradient before clipping.
    pub grad_norm: f64,
    /// Learning rate of the step.
    pub learning_rate: f64,
    /// Numbers recorded for this step so far.
    pub metrics: &'a BTreeMap<String, f64>,
}

impl Stack {
    /// Slot `batch`: each plugin changes what the one before it returned.
    ///
    /// # Errors
    /// A plugin fails, or leaves per-sample tensors of different lengths.
    pub fn batch(&self, scene: &Scene<'_>, mut batch: Batch) -> Result<Batch, PluginError> {
        for plugin in self.at(Slot::Batch) {
            let message = hooks::BatchMessage {
                batch: bag::export(&batch),
            };
            let changed = plugin.call::<calls::Batch>(scene, message)?.batch;
            let returned = Returned::new(plugin, scene, Slot::Batch, "a batch");
            batch = bag::import(&changed).map_err(|error| returned.wrong(error))?;
            let Some(images) = batch.tensors.get("images") else {
                return Err(returned.wrong("it has no `images`"));
            };
            let count = images.dims().first().copied().unwrap_or(0);
            if images.rank() != 4 || count == 0 {
                return Err(returned.wrong(format_args!("`images` have shape {:?}", images.dims())));
            }
            for (name, tensor) in &batch.tensors {
                if tensor.dims().first() != Some(&count) {
                    let shape = tensor.dims();
                    return Err(returned.wrong(format_args!(
                        "`{name}` has shape {shape:?} for {count} images"
                    )));
                }
            }
            for (name, texts) in &changed.texts {
                if texts.len() != count {
                    let texts = texts.len();
                    return Err(returned.wrong(format_args!(
                        "`{name}` has {texts} texts for {count} images"
                    )));
                }
            }
        }
        Ok(batch)
    }

    /// Slot `timesteps`: `[B]` u32 in `0..num_train_timesteps`, or `None` for the host's uniform draw.
    ///
    /// # Errors
    /// The plugin fails, or returns another shape or type or a timestep out of range.
    pub fn timesteps(
        &self,
        scene: &Scene<'_>,
        batch: &Batch,
        latents: &Tensor,
        num_train_timesteps: usize,
    ) -> Result<Option<Tensor>, PluginError> {
        let Some(plugin) = self.only(Slot::Timesteps) else {
            return Ok(None);
        };
        let message = hooks::TimestepsIn {
            batch: bag::export(batch),
            latents: export(latents),
            num_train_timesteps,
        };
        let answer = plugin.call::<calls::Timesteps>(scene, message)?;
        let returned = Returned::new(plugin, scene, Slot::Timesteps, "timesteps");
        let timesteps = returned.typed(
            returned.shaped(&answer.tensor, &latents.dims()[..1])?,
            DType::U32,
        )?;
        let drawn = timesteps
            .to_vec1::<u32>()
            .map_err(|error| returned.wrong(error))?;
        match drawn.iter().find(|&&t| t as usize >= num_train_timesteps) {
            Some(t) => Err(returned.wrong(format_args!("{t} is not below {num_train_timesteps}"))),
            None => Ok(Some(timesteps)),
        }
    }

    /// Slot `noise`: `[B, C, h, w]`, or `None` for standard normal noise.
    ///
    /// # Errors
    /// The plugin fails or returns another shape.
    pub fn noise(
        &self,
        scene: &Scene<'_>,
        batch: &Batch,
        latents: &Tensor,
        timesteps: &Tensor,
    ) -> Result<Option<Tensor>, PluginError> {
        let Some(plugin) = self.only(Slot::Noise) else {
            return Ok(None);
        };
        let message = hooks::NoiseIn {
            batch: bag::export(batch),
            latents: export(latents),
            timesteps: export(timesteps),
        };
        let answer = plugin.call::<calls::Noise>(scene, message)?;
        let returned = Returned::new(plugin, scene, Slot::Noise, "noise");
        let noise = returned.shaped(&answer.tensor, latents.dims())?;
        returned.typed(noise, latents.dtype()).map(Some)
    }

    /// Slot `noise_mask`: `[B, 1, h, w]` in 0..1, or `None` for noise everywhere.
    ///
    /// # Errors
    /// The plugin fails or returns another shape.
    pub fn noise_mask(
        &self,
        scene: &Scene<'_>,
        batch: &Batch,
        latents: &Tensor,
        timesteps: &Tensor,
    ) -> Result<Option<Tensor>, PluginError> {
        let Some(plugin) = self.only(Slot::NoiseMask) else {
            return Ok(None);
        };
        let message = hooks::NoiseMaskIn {
            batch: bag::export(batch),
            latents: export(latents),
            timesteps: export(timesteps),
        };
        let answer = plugin.call::<calls::NoiseMask>(scene, message)?;
        let returned = Returned::new(plugin, scene, Slot::NoiseMask, "noise_mask");
        let mut shape = latents.dims().to_vec();
        if let Some(channels) = shape.get_mut(1) {
            *channels = 1;
        }
        let mask = returned.shaped(&answer.tensor, &shape)?;
        returned.typed(mask, latents.dtype()).map(Some)
    }

    /// Slot `denoiser_input`: `[B, C', h, w]`, or `None` for the noisy latents. Called before each pass, in training and sampling.
    ///
    /// # Errors
    /// The plugin fails or returns no picture-shaped tensor.
    pub fn denoiser_input(
        &self,
        scene: &Scene<'_>,
        at: &NetworkInput<'_>,
    ) -> Result<Option<Tensor>, PluginError> {
        let Some(plugin) = self.only(Slot::DenoiserInput) else {
            return Ok(None);
        };
        let message = hooks::DenoiserInputIn {
            batch: bag::export(at.batch),
            noisy_latents: export(at.noisy_latents),
            timesteps: export(at.timesteps),
            latents: at.latents.map(export),
            unconditional: at.unconditional,
        };
        let answer = plugin.call::<calls::DenoiserInput>(scene, message)?;
        let returned = Returned::new(plugin, scene, Slot::DenoiserInput, "denoiser_input");
        let input = returned.ranked(&answer.tensor, 4)?;
        if input.dims()[0] != at.noisy_latents.dims()[0] {
            let (got, expected) = (input.dims()[0], at.noisy_latents.dims()[0]);
            return Err(returned.wrong(format_args!("it has {got} samples for {expected}")));
        }
        Ok(Some(input))
    }

    /// Slot `residuals`: for each of `sites` what to add there, summed over the plugins; `None` when there is nothing to add.
    /// `input` is what the network sees, after `denoiser_input`.
    ///
    /// # Errors
    /// A plugin fails, returns another number of entries, or shapes that differ between plugins.
    pub fn residuals(
        &self,
        scene: &Scene<'_>,
        at: &NetworkInput<'_>,
        input: &Tensor,
        sites: usize,
    ) -> Result<Option<Vec<Option<Tensor>>>, PluginError> {
        if !self.takes(Slot::Residuals) {
            return Ok(None);
        }
        let mut sum: Vec<Option<Tensor>> = vec![None; sites];
        for plugin in self.at(Slot::Residuals) {
            let message = hooks::ResidualsIn {
                batch: bag::export(at.batch),
                input: export(input),
                timesteps: export(at.timesteps),
                unconditional: at.unconditional,
            };
            let answer = plugin.call::<calls::Residuals>(scene, message)?.residuals;
            let returned = Returned::new(plugin, scene, Slot::Residuals, "residuals");
            if answer.len() != sites {
                let got = answer.len();
                return Err(
                    returned.wrong(format_args!("{got} entries for {sites} residual sites"))
                );
            }
            for (so_far, residual) in sum.iter_mut().zip(&answer) {
                let Some(residual) = residual else { continue };
                *so_far = Some(match so_far.take() {
                    None => returned.import(residual)?,
                    Some(others) => {
                        let own = returned.shaped(residual, others.dims())?;
                        (others + own).map_err(|error| returned.wrong(error))?
                    }
                });
            }
        }
        Ok(sum.iter().any(Option::is_some).then_some(sum))
    }

    /// Slot `objective`: each sample's loss, `[B]` f32, or `None` for the host's.
    ///
    /// # Errors
    /// The plugin fails, or returns another shape or a loss that is not finite.
    pub fn objective(
        &self,
        scene: &Scene<'_>,
        at: &Predicted<'_>,
    ) -> Result<Option<Tensor>, PluginError> {
        let Some(plugin) = self.only(Slot::Objective) else {
            return Ok(None);
        };
        let message = hooks::ObjectiveIn {
            batch: bag::export(at.batch),
            latents: export(at.latents),
            noise: export(at.noise),
            timesteps: export(at.timesteps),
            noisy_latents: export(at.noisy_latents),
            prediction: export(at.prediction),
            target: export(at.target),
            loss_mask: at.loss_mask.map(export),
        };
        let answer = plugin.call::<calls::Objective>(scene, message)?;
        let returned = Returned::new(plugin, scene, Slot::Objective, "objective");
        let loss = returned.typed(
            returned.shaped(&answer.tensor, &at.latents.dims()[..1])?,
            DType::F32,
        )?;
        returned
            .valued(loss, "a finite loss", f32::is_finite)
            .map(Some)
    }

    /// Slot `loss_weight`: each plugin's weights, `[B]` f32, with its name; their product weighs the samples. `loss` is `[B]`, unweighted.
    ///
    /// # Errors
    /// A plugin fails, or returns another shape or a weight that is negative or not finite.
    pub fn loss_weight(
        &self,
        scene: &Scene<'_>,
        batch: &Batch,
        timesteps: &Tensor,
        loss: &Tensor,
        num_train_timesteps: usize,
    ) -> Result<Vec<(String, Tensor)>, PluginError> {
        let weigh = |plugin: &Foreign| {
            let message = hooks::LossWeightIn {
                batch: bag::export(batch),
                timesteps: export(timesteps),
                loss: export(&loss.detach()),
                num_train_timesteps,
            };
            let answer = plugin.call::<calls::LossWeight>(scene, message)?;
            let returned = Returned::new(plugin, scene, Slot::LossWeight, "loss_weight");
            let weight =
                returned.typed(returned.shaped(&answer.tensor, loss.dims())?, DType::F32)?;
            let weight = returned.valued(weight, "0 or more", |weight| {
                weight >= 0.0 && weight.is_finite()
            })?;
            Ok((plugin.name().to_owned(), weight))
        };
        self.at(Slot::LossWeight).map(weigh).collect()
    }

    /// Slot `loss_term`: each plugin's term, a scalar f32 to add to the step's loss. `loss` is `[B]`, unweighted.
    ///
    /// # Errors
    /// A plugin fails, or returns no scalar or one that is not finite.
    pub fn loss_terms(
        &self,
        scene: &Scene<'_>,
        at: &Predicted<'_>,
        loss: &Tensor,
    ) -> Result<Vec<(String, Tensor)>, PluginError> {
        self.at(Slot::LossTerm)
            .map(|plugin| {
                let message = hooks::LossTermIn {
                    batch: bag::export(at.batch),
                    latents: export(at.latents),
                    noise: export(at.noise),
                    timesteps: export(at.timesteps),
                    noisy_latents: export(at.noisy_latents),
                    prediction: export(at.prediction),
                    target: export(at.target),
                    loss_mask: at.loss_mask.map(export),
                    loss: export(loss),
                };
                let answer = plugin.call::<calls::LossTerm>(scene, message)?;
                let returned = Returned::new(plugin, scene, Slot::LossTerm, "loss_term");
                let term = returned.typed(returned.shaped(&answer.tensor, &[])?, DType::F32)?;
                let term = returned.valued(term, "a finite number", f32::is_finite)?;
                Ok((plugin.name().to_owned(), term))
            })
            .collect()
    }

    /// Slot `observe`: each plugin looks at the finished step. Tensors are cut from the graph here.
    ///
    /// # Errors
    /// A plugin fails.
    pub fn observe(&self, scene: &Scene<'_>, finished: &Finished<'_>) -> Result<(), PluginError> {
        let flat = |tensor: &Tensor| export(&tensor.detach());
        let at = &finished.at;
        for plugin in self.at(Slot::Observe) {
            let message = hooks::ObserveIn {
                loss: finished.loss,
                sample_loss: flat(finished.sample_loss),
                loss_weight: finished.loss_weight.map(flat),
                grad_norm: finished.grad_norm,
                learning_rate: finished.learning_rate,
                metrics: finished.metrics.clone(),
                batch: bag::export(at.batch),
                latents: flat(at.latents),
                noise: flat(at.noise),
                timesteps: flat(at.timesteps),
                noisy_latents: flat(at.noisy_latents),
                prediction: flat(at.prediction),
                target: flat(at.target),
            };
            plugin.call::<calls::Observe>(scene, message)?;
        }
        Ok(())
    }
}
