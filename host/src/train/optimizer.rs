//! The optimizer of a run: AdamW over two groups, of which one decays.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor, Var};

use crate::config::TrainSection;
use crate::ops::optim::{AdamW, AdamWConfig};

use super::Parameters;

/// AdamW over all parameters of a run; weight decay for those that want it.
pub(super) struct Optimizer {
    decayed: AdamW,
    plain: AdamW,
}

impl Optimizer {
    /// Before the first step.
    ///
    /// # Errors
    /// Parameters that are not f32.
    pub(super) fn new(parameters: &Parameters, settings: &TrainSection) -> Result<Self> {
        let group = |decay: bool| {
            let of_group = parameters
                .iter()
                .filter(|parameter| parameter.decay == decay);
            let named: Vec<(String, Var)> = of_group
                .map(|parameter| (parameter.name.clone(), parameter.var.clone()))
                .collect();
            let config = AdamWConfig {
                lr: settings.lr,
                betas: (settings.betas[0], settings.betas[1]),
                eps: settings.eps,
                weight_decay: if decay { settings.weight_decay } else { 0.0 },
            };
            AdamW::new(named, config)
        };
        Ok(Self {
            decayed: group(true)?,
            plain: group(false)?,
        })
    }

    /// Moves every parameter that has a gradient; `scale` multiplies all gradients.
    ///
    /// # Errors
    /// A gradient of another shape than its parameter.
    pub(super) fn step(
        &mut self,
        lr: f64,
        gradients: &BTreeMap<String, Tensor>,
        scale: f64,
    ) -> Result<()> {
        for group in [&mut self.decayed, &mut self.plain] {
            group.config.lr = lr;
            group.step(|name, _| gradients.get(name), scale)?;
        }
        Ok(())
    }

    /// Moments and step counts of all parameters, to be saved.
    ///
    /// # Errors
    /// A device that fails.
    pub(super) fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = self.decayed.state()?;
        state.extend(self.plain.state()?);
        Ok(state)
    }

    /// Continues from a saved [`Optimizer::state`].
    ///
    /// # Errors
    /// A state of other parameters.
    pub(super) fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        for group in [&mut self.decayed, &mut self.plain] {
            let names: std::collections::BTreeSet<&str> =
                group.parameters().map(|(name, _)| name).collect();
            let own = |key: &str| {
                key.rsplit_once('.')
                    .is_some_and(|(name, _)| names.contains(name))
            };
            let state = state
                .iter()
                .filter(|(key, _)| own(key))
                .map(|(key, tensor)| (key.clone(), tensor.clone()))
                .collect();
            group.load_state(&state)?;
        }
        Ok(())
    }
}
