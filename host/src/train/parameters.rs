//! The parameters that train: stand-ins for backbone tensors, and what plugins create. The frozen originals are elsewhere and never change.

use std::collections::BTreeMap;

use candle_core::{DType, Tensor, Var};

use crate::backbone::Overlay;
use crate::ops::optim::Averages;

use super::Error;

/// Who brought a parameter into the run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Owner {
    /// It stands in for the backbone tensor of the same name.
    Backbone,
    /// It multiplies the output of the backbone layer that its name begins with; see [`Scales`](super::scales::Scales).
    Scale,
    /// A plugin created it; the string is the plugin's name in this run.
    Plugin(String),
}

/// One trainable tensor.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Unique in the run: the backbone's own key, a layer's path with `.scale`, or `PLUGIN.PARAMETER`.
    pub name: String,
    /// Who brought it.
    pub owner: Owner,
    /// Whether weight decay applies to it.
    pub decay: bool,
    /// The value, f32, updated in place.
    pub var: Var,
}

/// All trainable parameters of a run, in the order in which they were created.
#[derive(Debug, Default)]
pub struct Parameters {
    list: Vec<Parameter>,
    /// Values read from a checkpoint that wait for their parameter to be created.
    saved: BTreeMap<String, Tensor>,
    /// Whether a saved value that fits no parameter is left out instead of refused.
    lenient: bool,
}

impl Parameters {
    /// No parameters yet; `saved` holds the values they take when they are created (from a checkpoint), by name. Where `lenient`, values
    /// that fit no parameter are left out with a warning.
    pub fn saved(saved: BTreeMap<String, Tensor>, lenient: bool) -> Self {
        Self {
            list: Vec::new(),
            saved,
            lenient,
        }
    }

    /// Adds a parameter that starts at `value`, or at its saved value.
    ///
    /// # Errors
    /// A name that is taken, or a saved value of another shape.
    pub fn add(
        &mut self,
        name: String,
        owner: Owner,
        decay: bool,
        value: &Tensor,
    ) -> Result<Var, Error> {
        if self.get(&name).is_some() {
            return Err(Error::ParameterTaken { name });
        }
        let value = match self.saved.remove(&name) {
            Some(saved) if saved.dims() != value.dims() && self.lenient => {
                tracing::warn!(
                    "`{name}` has shape {:?} in the checkpoint and {:?} in this run, so it starts anew",
                    saved.dims(),
                    value.dims()
                );
                value.clone()
            }
            Some(saved) if saved.dims() != value.dims() => {
                return Err(Error::SavedShape {
                    name,
                    saved: saved.dims().to_vec(),
                    expected: value.dims().to_vec(),
                });
            }
            Some(saved) => saved,
            None => value.clone(),
        };
        // A variable would be taken as it is; anything else is copied, which keeps the frozen original's storage out of the optimizer's reach.
        let var = Var::from_tensor(&value.to_dtype(DType::F32)?.detach())?;
        self.list.push(Parameter {
            name,
            owner,
            decay,
            var: var.clone(),
        });
        Ok(var)
    }

    /// The parameter of this name.
    pub fn get(&self, name: &str) -> Option<&Parameter> {
        self.list.iter().find(|parameter| parameter.name == name)
    }

    /// Whether this very tensor is one of them, not only one like it.
    pub fn holds(&self, tensor: &Tensor) -> bool {
        let is = |parameter: &Parameter| parameter.var.as_tensor().id() == tensor.id();
        self.list.iter().any(is)
    }

    /// Every parameter, in the order of creation.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Parameter> {
        self.list.iter()
    }

    /// How many scalars train.
    pub fn count(&self) -> usize {
        self.list
            .iter()
            .map(|parameter| parameter.var.elem_count())
            .sum()
    }

    /// Is there nothing to train?
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The parameters that stand in for backbone tensors, by backbone name.
    pub fn overlay(&self) -> Overlay {
        self.list
            .iter()
            .filter(|parameter| parameter.owner == Owner::Backbone)
            .map(|parameter| (parameter.name.clone(), parameter.var.as_tensor().clone()))
            .collect()
    }

    /// The values by name, detached; they share storage with the parameters.
    pub fn values(&self) -> BTreeMap<String, Tensor> {
        self.list
            .iter()
            .map(|parameter| (parameter.name.clone(), parameter.var.as_detached_tensor()))
            .collect()
    }

    /// Checks that everything in the checkpoint has found its parameter; call once all parameters are created.
    ///
    /// # Errors
    /// [`Error::Unclaimed`] with one of the names left over.
    pub fn refuse_unclaimed(&self) -> Result<(), Error> {
        match self.saved.keys().next() {
            Some(first) if self.lenient => {
                tracing::warn!(
                    "the checkpoint holds {} parameters that this run does not create, `{first}` among them; they are left out",
                    self.saved.len()
                );
                Ok(())
            }
            Some(first) => Err(Error::Unclaimed {
                count: self.saved.len(),
                first: first.clone(),
            }),
            None => Ok(()),
        }
    }
}

/// An exponential moving average of the parameters: `average = d * average + (1 - d) * value` after every step, where `d` rises to `decay`
/// as `n / (n + 9)` over the first steps `n`, so that an average of few steps is not mostly its start (diffusers' rule).
#[derive(Debug)]
pub struct Ema {
    decay: f64,
    averages: BTreeMap<String, Tensor>,
}

impl Ema {
    /// Starts at the parameters' values, or where `saved` left off.
    pub fn new(
        decay: f64,
        parameters: &Parameters,
        mut saved: BTreeMap<String, Tensor>,
    ) -> Result<Self, Error> {
        let mut averages = BTreeMap::new();
        for parameter in parameters.iter() {
            let saved = saved.remove(&parameter.name);
            let value = match saved.filter(|saved| saved.dims() == parameter.var.dims()) {
                // A copy: averages move in place.
                Some(saved) => saved.copy()?,
                None => parameter.var.as_detached_tensor().copy()?,
            };
            averages.insert(parameter.name.clone(), value);
        }
        Ok(Self { decay, averages })
    }

    /// What step `step` of the optimizer, counted from 1, moves along with the parameters.
    pub fn at(&mut self, step: u64) -> Averages<'_> {
        let decay = self.decay_at(step);
        Averages {
            values: &mut self.averages,
            decay,
        }
    }

    /// The share of the old average that step `step` keeps, counted from 1; the first keeps nothing.
    fn decay_at(&self, step: u64) -> f64 {
        match step {
            0 | 1 => 0.0,
            step => (step as f64 / (step as f64 + 9.0)).min(self.decay),
        }
    }

    /// The averages by parameter name; their memory changes with the optimizer's next step.
    pub fn values(&self) -> &BTreeMap<String, Tensor> {
        &self.averages
    }
}

/// Puts other values into the parameters for as long as it lives, for sampling with averaged weights; plugins that hold a parameter see them too.
pub struct Swapped<'a> {
    parameters: &'a [Parameter],
    originals: BTreeMap<String, Tensor>,
}

impl<'a> Swapped<'a> {
    /// Copies `values` into the parameters of the same names.
    pub fn new(
        parameters: &'a [Parameter],
        values: &BTreeMap<String, Tensor>,
    ) -> Result<Self, Error> {
        let mut originals = BTreeMap::new();
        for parameter in parameters.iter() {
            if let Some(value) = values.get(&parameter.name) {
                originals.insert(
                    parameter.name.clone(),
                    parameter.var.as_detached_tensor().copy()?,
                );
                parameter.var.set(value)?;
            }
        }
        Ok(Self {
            parameters,
            originals,
        })
    }

    /// Puts the trained values back.
    pub fn restore(self) -> Result<(), Error> {
        for parameter in self.parameters.iter() {
            if let Some(original) = self.originals.get(&parameter.name) {
                parameter.var.set(original)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ops::optim::{AdamW, AdamWConfig};
    use candle_core::Device;

    const NAME: &str = "w";

    fn tensor(values: [f32; 2]) -> Tensor {
        Tensor::new(&values, &Device::Cpu).unwrap()
    }

    fn parameters(values: [f32; 2]) -> Parameters {
        let mut parameters = Parameters::default();
        let value = tensor(values);
        parameters
            .add(NAME.to_owned(), Owner::Backbone, true, &value)
            .unwrap();
        parameters
    }

    fn set(parameters: &Parameters, values: [f32; 2]) {
        let parameter = parameters.get(NAME).unwrap();
        parameter.var.set(&tensor(values)).unwrap();
    }

    /// A step of the optimizer in which no parameter has a gradient.
    fn follow_step(ema: &mut Ema, parameters: &Parameters, step: u64) {
        let named = (parameters.iter())
            .map(|parameter| (parameter.name.clone(), parameter.var.clone()))
            .collect();
        let mut optimizer = AdamW::new(named, AdamWConfig::default()).unwrap();
        optimizer
            .step(|_, _| None, 1.0, Some(ema.at(step)))
            .unwrap();
    }

    fn bits(tensor: &Tensor) -> Vec<u32> {
        let values = tensor.to_vec1::<f32>().unwrap();
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn an_average_keeps_a_share_that_rises_to_the_decay() {
        let parameters = parameters([100.0, -100.0]);
        let mut ema = Ema::new(0.2, &parameters, BTreeMap::new()).unwrap();
        // The start is forgotten at once; then 2 / 11 is kept, then 3 / 12 would be, which is above the decay.
        let (mut expected, kept) = ([0f64; 2], [0.0, 2.0 / 11.0, 0.2]);
        for (step, kept) in kept.into_iter().enumerate() {
            let value = [0.1 + step as f32, -2.5 * step as f32];
            set(&parameters, value);
            follow_step(&mut ema, &parameters, step as u64 + 1);
            for (expected, value) in expected.iter_mut().zip(value) {
                *expected = *expected * kept + f64::from(value) * (1.0 - kept);
            }
            let average = ema.values()[NAME].to_vec1::<f32>().unwrap();
            for (average, expected) in average.iter().zip(expected) {
                assert!(
                    (f64::from(*average) - expected).abs() < 1e-6,
                    "{average} and {expected}"
                );
            }
        }
    }

    #[test]
    fn a_saved_average_goes_on_bit_for_bit() {
        let parameters = parameters([0.3, 0.7]);
        let mut whole = Ema::new(0.99, &parameters, BTreeMap::new()).unwrap();
        follow_step(&mut whole, &parameters, 1);
        set(&parameters, [1.1, -0.2]);
        let mut resumed = Ema::new(0.99, &parameters, whole.values().clone()).unwrap();
        follow_step(&mut whole, &parameters, 2);
        follow_step(&mut resumed, &parameters, 2);
        assert_eq!(bits(&whole.values()[NAME]), bits(&resumed.values()[NAME]));
    }

    #[test]
    fn swapped_values_show_to_all_who_hold_the_parameter_and_the_trained_come_back_bit_for_bit() {
        let trained = [0.1 + 0.2, 1.0e-40];
        let parameters = parameters(trained);
        let list: Vec<Parameter> = parameters.iter().cloned().collect();
        let held = list[0].var.as_tensor().clone();
        let others = BTreeMap::from([(NAME.to_owned(), tensor([5.0, 6.0]))]);
        let swapped = Swapped::new(&list, &others).unwrap();
        assert_eq!(held.to_vec1::<f32>().unwrap(), [5.0, 6.0]);
        swapped.restore().unwrap();
        assert_eq!(bits(&held), trained.map(f32::to_bits));
    }

    #[test]
    fn what_a_parameter_starts_from_never_moves_with_it() {
        let frozen = tensor([1.0, 2.0]);
        let variable = Var::from_tensor(&frozen).unwrap();
        for original in [&frozen, variable.as_tensor()] {
            let mut parameters = Parameters::default();
            let var = parameters
                .add(NAME.to_owned(), Owner::Backbone, true, original)
                .unwrap();
            var.set(&tensor([7.0, 8.0])).unwrap();
            assert_eq!(original.to_vec1::<f32>().unwrap(), [1.0, 2.0]);
        }
    }

    #[test]
    fn a_parameter_starts_at_its_saved_value_once() {
        let saved = BTreeMap::from([(NAME.to_owned(), tensor([7.0, 8.0]))]);
        let mut parameters = Parameters::saved(saved, false);
        assert!(parameters.refuse_unclaimed().is_err());
        let start = tensor([0.0, 0.0]);
        let add = |parameters: &mut Parameters| {
            parameters.add(NAME.to_owned(), Owner::Backbone, true, &start)
        };
        let var = add(&mut parameters).unwrap();
        assert_eq!(var.to_vec1::<f32>().unwrap(), [7.0, 8.0]);
        parameters.refuse_unclaimed().unwrap();
        assert!(matches!(
            add(&mut parameters),
            Err(Error::ParameterTaken { .. })
        ));
    }
}
