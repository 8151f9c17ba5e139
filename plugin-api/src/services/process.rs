//! The diffusion process: plugins ask the host for its formulas, so they hold for every schedule and every kind of prediction.

use super::{AddNoise, Process, Snr, Target, ToEpsilon, ToX0, model::NoIn};
use crate::{Host, Result, Tensor, message::message};

message! {
    /// What the diffusion process is.
    pub struct ProcessInfo {
        /// Number of training timesteps: they are `0..num_train_timesteps`, small near the data.
        pub num_train_timesteps: usize,
        /// What the network predicts: `epsilon`, `v_prediction`, `sample`, or a name of a later process such as `flow`.
        pub prediction: String,
    }
}

message! {
    /// Arguments of a formula; each service says which it reads.
    pub struct ProcessIn {
        /// Clean latents (`add_noise`, `target`) or the network's prediction (`to_x0`, `to_epsilon`), `[B, C, H, W]`; unused by `snr`.
        pub a: Option<Tensor>,
        /// Noise (`add_noise`, `target`) or noisy latents (`to_x0`, `to_epsilon`), `[B, C, H, W]`; unused by `snr`.
        pub b: Option<Tensor>,
        /// `[B]` u32.
        pub timesteps: Tensor,
    }
}

impl Host {
    /// What the diffusion process is.
    ///
    /// # Errors
    /// When the host fails.
    pub fn process(&self) -> Result<ProcessInfo> {
        self.call::<Process>(NoIn {})
    }

    /// Clean latents and noise mixed for `timesteps [B]`.
    ///
    /// # Errors
    /// When shapes differ or a timestep is out of range.
    pub fn add_noise(
        &self,
        latents: &Tensor,
        noise: &Tensor,
        timesteps: &Tensor,
    ) -> Result<Tensor> {
        Ok(self
            .call::<AddNoise>(formula(latents, noise, timesteps))?
            .tensor)
    }

    /// What the network should predict there.
    ///
    /// # Errors
    /// As [`Host::add_noise`].
    pub fn target(&self, latents: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        Ok(self
            .call::<Target>(formula(latents, noise, timesteps))?
            .tensor)
    }

    /// The clean latents that `prediction` implies, `[B, C, H, W]`, with gradients.
    ///
    /// # Errors
    /// As [`Host::add_noise`].
    pub fn to_x0(
        &self,
        prediction: &Tensor,
        noisy_latents: &Tensor,
        timesteps: &Tensor,
    ) -> Result<Tensor> {
        Ok(self
            .call::<ToX0>(formula(prediction, noisy_latents, timesteps))?
            .tensor)
    }

    /// The noise that `prediction` implies, `[B, C, H, W]`, with gradients.
    ///
    /// # Errors
    /// As [`Host::add_noise`].
    pub fn to_epsilon(
        &self,
        prediction: &Tensor,
        noisy_latents: &Tensor,
        timesteps: &Tensor,
    ) -> Result<Tensor> {
        Ok(self
            .call::<ToEpsilon>(formula(prediction, noisy_latents, timesteps))?
            .tensor)
    }

    /// Signal-to-noise ratio (of variances) at `timesteps [B]`: `[B]` f32.
    ///
    /// # Errors
    /// When a timestep is out of range.
    pub fn snr(&self, timesteps: &Tensor) -> Result<Tensor> {
        Ok(self
            .call::<Snr>(ProcessIn {
                a: None,
                b: None,
                timesteps: timesteps.clone(),
            })?
            .tensor)
    }
}

fn formula(a: &Tensor, b: &Tensor, timesteps: &Tensor) -> ProcessIn {
    ProcessIn {
        a: Some(a.clone()),
        b: Some(b.clone()),
        timesteps: timesteps.clone(),
    }
}
