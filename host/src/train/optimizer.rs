//! The optimizer of a run: AdamW over groups of parameters that share a learning rate and whether they decay.

use std::collections::{BTreeMap, BTreeSet};

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::config::TrainSection;
use crate::ops::optim::{AdamW, AdamWConfig, Averages};

use super::{Owner, Parameters};

/// AdamW over all parameters of a run; weight decay for those that want it.
pub(super) struct Optimizer(Vec<Group>);

struct Group {
    adamw: AdamW,
    /// The group's learning rate as a multiple of the run's.
    rate: f64,
}

impl Optimizer {
    /// Before the first step. `rates` are the peak learning rates of plugins that have their own.
    ///
    /// # Errors
    /// Parameters that are not f32.
    pub(super) fn new(
        parameters: &Parameters,
        settings: &TrainSection,
        rates: &BTreeMap<String, f64>,
    ) -> Result<Self> {
        let own = |owner: &Owner| match owner {
            Owner::Plugin(plugin) => rates.get(plugin).copied(),
            _ => None,
        };
        // By whether they decay, and by the bits of their learning rate.
        let mut groups: BTreeMap<(bool, u64), Vec<(String, Var)>> = BTreeMap::new();
        for parameter in parameters.iter() {
            let lr = own(&parameter.owner).unwrap_or(settings.lr);
            let group = groups.entry((parameter.decay, lr.to_bits())).or_default();
            group.push((parameter.name.clone(), parameter.var.clone()));
        }
        let groups = groups.into_iter().map(|((decay, lr), members)| {
            let lr = f64::from_bits(lr);
            let config = AdamWConfig {
                lr,
                betas: (settings.betas[0], settings.betas[1]),
                eps: settings.eps,
                weight_decay: if decay { settings.weight_decay } else { 0.0 },
            };
            Ok(Group {
                adamw: AdamW::new(members, config)?,
                rate: lr / settings.lr,
            })
        });
        Ok(Self(groups.collect::<Result<_>>()?))
    }

    /// Moves every parameter that has a gradient, and all averages; `lr` is the run's learning rate of this step, `scale` multiplies all gradients.
    ///
    /// # Errors
    /// A gradient of another shape than its parameter.
    pub(super) fn step(
        &mut self,
        lr: f64,
        gradients: &BTreeMap<String, Tensor>,
        scale: f64,
        averages: Option<Averages<'_>>,
    ) -> Result<()> {
        let mut averages = averages;
        for Group { adamw, rate } in &mut self.0 {
            adamw.config.lr = lr * *rate;
            let averages = averages
                .as_mut()
                .map(|Averages { values, decay }| Averages {
                    values,
                    decay: *decay,
                });
            adamw.step(|name, _| gradients.get(name), scale, averages)?;
        }
        Ok(())
    }

    /// Moments and step counts of all parameters, to be saved.
    ///
    /// # Errors
    /// A device that fails.
    pub(super) fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for group in &self.0 {
            state.extend(group.adamw.state()?);
        }
        Ok(state)
    }

    /// Continues from a saved [`Optimizer::state`]. Where `lenient`, parameters whose moments it lacks, or has in another shape, begin as new ones.
    ///
    /// # Errors
    /// A state of other parameters.
    pub(super) fn load_state(
        &mut self,
        saved: &BTreeMap<String, Tensor>,
        lenient: bool,
    ) -> Result<()> {
        for Group { adamw, .. } in &mut self.0 {
            let names: BTreeSet<&str> = adamw.parameters().map(|(name, _)| name).collect();
            let own = |key: &str| {
                key.rsplit_once('.')
                    .is_some_and(|(name, _)| names.contains(name))
            };
            let mut state: BTreeMap<String, Tensor> = saved
                .iter()
                .filter(|(key, _)| own(key))
                .map(|(key, tensor)| (key.clone(), tensor.clone()))
                .collect();
            if lenient {
                for (name, var) in adamw.parameters() {
                    begin_anew(&mut state, name, var)?;
                }
            }
            adamw.load_state(&state)?;
        }
        Ok(())
    }
}

/// Puts the moments of a parameter before its first step where the saved ones are missing or of another shape.
fn begin_anew(state: &mut BTreeMap<String, Tensor>, name: &str, var: &Var) -> Result<()> {
    let moments = ["exp_avg", "exp_avg_sq"].map(|moment| format!("{name}.{moment}"));
    let fits = |key: &String| (state.get(key)).is_some_and(|saved| saved.dims() == var.dims());
    if moments.iter().all(fits) {
        return Ok(());
    }
    for key in moments {
        state.insert(key, Tensor::zeros(var.dims(), DType::F32, &Device::Cpu)?);
    }
    state.insert(format!("{name}.step"), Tensor::new(0i64, &Device::Cpu)?);
    Ok(())
}
