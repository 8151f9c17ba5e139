//! AdamW (Loshchilov and Hutter 2019) with PyTorch's arithmetic, in place, one pass, with moments that can be saved. Averages of the parameters follow in
//! the same pass.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, DType, Device, InplaceOp2, Layout, Result, Tensor, Var};
use rayon::prelude::*;

use super::average::{Averages, follow, mix, with_memory};
use crate::ops::elementwise::CHUNK;
use crate::ops::function::{Input, fast, tensor};
use crate::ops::simd::multiversion;

/// Hyperparameters; the defaults are PyTorch's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWConfig {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first and second moment, each in `0..1`.
    pub betas: (f64, f64),
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled weight decay: each step first multiplies the parameter by `1 - lr weight_decay`.
    pub weight_decay: f64,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self {
            lr: 1e-3,
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 1e-2,
        }
    }
}

/// The optimiser of a list of named parameters.
pub struct AdamW {
    /// Read at every [`step`](Self::step), so a schedule may change it between steps.
    pub config: AdamWConfig,
    parameters: Vec<Parameter>,
}

struct Parameter {
    name: String,
    var: Var,
    /// Steps taken; a parameter that had no gradient in a step did not take it.
    steps: u64,
    moments: Moments,
}

/// Running means of the gradient and of its square, zero at first.
enum Moments {
    /// Of an f32 parameter in CPU memory, row-major.
    Slices { first: Vec<f32>, second: Vec<f32> },
    /// Of any other, in f32 on its device (f64 for f64).
    Tensors { first: Tensor, second: Tensor },
}

impl AdamW {
    /// An optimiser with zero moments. Names must differ: they are the keys of [`state`](Self::state).
    ///
    /// # Errors
    /// If two parameters have the same name, or memory for the moments cannot be had on a device.
    pub fn new(parameters: Vec<(String, Var)>, config: AdamWConfig) -> Result<Self> {
        let mut names = std::collections::BTreeSet::new();
        if let Some((name, _)) = parameters
            .iter()
            .find(|(name, _)| !names.insert(name.clone()))
        {
            candle_core::bail!("adamw: two parameters are called {name:?}");
        }
        let parameters = parameters
            .into_iter()
            .map(|(name, var)| {
                let moments = Moments::zeros(&var)?;
                Ok(Parameter {
                    name,
                    var,
                    steps: 0,
                    moments,
                })
            })
            .collect::<Result<_>>()?;
        Ok(Self { config, parameters })
    }

    /// The parameters in the order given.
    pub fn parameters(&self) -> impl ExactSizeIterator<Item = (&str, &Var)> {
        self.parameters.iter().map(|p| (p.name.as_str(), &p.var))
    }

    /// Takes a step. `gradient` returns that of each parameter, or none to leave the parameter and its moments as they are;
    /// `scale` multiplies every gradient (clipping, accumulation); `averages` of the parameters' names follow them.
    ///
    /// # Errors
    /// If a gradient or an average has another shape than its parameter. Parameters before that one have taken the step.
    pub fn step<'a>(
        &mut self,
        gradient: impl Fn(&str, &Var) -> Option<&'a Tensor>,
        scale: f64,
        mut averages: Option<Averages<'_>>,
    ) -> Result<()> {
        for parameter in &mut self.parameters {
            let grad = gradient(&parameter.name, &parameter.var);
            let average = averages.as_mut().and_then(|averages| {
                Some((averages.values.get_mut(&parameter.name)?, averages.decay))
            });
            match (grad, average) {
                (Some(grad), Some((average, decay))) if parameter.lies_like(average) => {
                    with_memory(average, |average| {
                        parameter.step(&self.config, grad, scale, Some((average, decay)))
                    })?;
                }
                (grad, average) => {
                    if let Some(grad) = grad {
                        parameter.step(&self.config, grad, scale, None)?;
                    }
                    if let Some((average, decay)) = average {
                        follow(average, &parameter.var.as_detached_tensor(), decay)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Moments and step counts: `NAME.exp_avg`, `NAME.exp_avg_sq` (of the parameter's shape) and `NAME.step` (an i64 scalar),
    /// on the CPU. [`load_state`](Self::load_state) of them continues bit for bit.
    ///
    /// # Errors
    /// If moments cannot be copied from their device.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for p in &self.parameters {
            let (first, second) = match &p.moments {
                Moments::Slices { first, second } => {
                    let shape = p.var.shape();
                    (
                        tensor(first.clone(), shape)?,
                        tensor(second.clone(), shape)?,
                    )
                }
                Moments::Tensors { first, second } => (
                    first.to_device(&Device::Cpu)?,
                    second.to_device(&Device::Cpu)?,
                ),
            };
            state.insert(format!("{}.exp_avg", p.name), first);
            state.insert(format!("{}.exp_avg_sq", p.name), second);
            state.insert(
                format!("{}.step", p.name),
                Tensor::new(p.steps as i64, &Device::Cpu)?,
            );
        }
        Ok(state)
    }

    /// Continues from a [`state`](Self::state).
    ///
    /// # Errors
    /// If a tensor is missing, has another shape than its parameter, or is left over. Nothing has changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        if state.len() != 3 * self.parameters.len() {
            let (has, wants) = (state.len(), 3 * self.parameters.len());
            candle_core::bail!("adamw: the saved state has {has} tensors, {wants} are wanted");
        }
        let mut loaded = Vec::with_capacity(self.parameters.len());
        for p in &self.parameters {
            let get = |suffix: &str| {
                let key = format!("{}.{suffix}", p.name);
                match state.get(&key) {
                    Some(tensor) => Ok(tensor),
                    None => candle_core::bail!("adamw: the saved state has no {key:?}"),
                }
            };
            let (first, second) = (get("exp_avg")?, get("exp_avg_sq")?);
            if first.shape() != p.var.shape() || second.shape() != p.var.shape() {
                let (name, var, first, second) =
                    (&p.name, p.var.dims(), first.dims(), second.dims());
                candle_core::bail!(
                    "adamw: moments of {name:?} have shapes {first:?} and {second:?}, the parameter {var:?}"
                );
            }
            loaded.push((
                get("step")?.to_scalar::<i64>()? as u64,
                Moments::load(&p.var, first, second)?,
            ));
        }
        for (parameter, (steps, moments)) in self.parameters.iter_mut().zip(loaded) {
            parameter.steps = steps;
            parameter.moments = moments;
        }
        Ok(())
    }
}

/// The data type of the moments of a parameter that is not f32 on the CPU.
fn wide(dtype: DType) -> DType {
    if dtype == DType::F64 {
        DType::F64
    } else {
        DType::F32
    }
}

impl Moments {
    fn zeros(var: &Var) -> Result<Self> {
        if fast(&[var]) {
            let zeros = || vec![0.0; var.elem_count()];
            return Ok(Self::Slices {
                first: zeros(),
                second: zeros(),
            });
        }
        let zeros = Tensor::zeros(var.shape(), wide(var.dtype()), var.device())?;
        Ok(Self::Tensors {
            first: zeros.clone(),
            second: zeros,
        })
    }

    fn load(var: &Var, first: &Tensor, second: &Tensor) -> Result<Self> {
        if fast(&[var]) {
            let values =
                |moment: &Tensor| moment.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>();
            return Ok(Self::Slices {
                first: values(first)?,
                second: values(second)?,
            });
        }
        let place = |moment: &Tensor| moment.to_dtype(wide(var.dtype()))?.to_device(var.device());
        Ok(Self::Tensors {
            first: place(first)?,
            second: place(second)?,
        })
    }
}

impl Parameter {
    /// Whether an average can be moved in the parameter's own pass.
    fn lies_like(&self, average: &Tensor) -> bool {
        fast(&[average, &self.var]) && average.is_contiguous() && average.dims() == self.var.dims()
    }

    /// One step; an average's memory and the share it keeps, for parameters whose moments are slices, come along.
    fn step(
        &mut self,
        config: &AdamWConfig,
        grad: &Tensor,
        scale: f64,
        average: Option<(&mut [f32], f64)>,
    ) -> Result<()> {
        if grad.shape() != self.var.shape() {
            let (name, var, grad) = (&self.name, self.var.dims(), grad.dims());
            candle_core::bail!(
                "adamw: the gradient of {name:?} has shape {grad:?}, the parameter {var:?}"
            );
        }
        self.steps += 1;
        let steps = self.steps.min(i32::MAX as u64) as i32;
        let (beta1, beta2) = config.betas;
        let factors = Factors {
            keep: 1.0 - config.lr * config.weight_decay,
            scale,
            beta1,
            beta2,
            step: config.lr / (1.0 - beta1.powi(steps)),
            root: (1.0 - beta2.powi(steps)).sqrt(),
            eps: config.eps,
        };
        match &mut self.moments {
            Moments::Slices { first, second } => {
                let grad = grad.to_dtype(DType::F32)?.to_device(&Device::Cpu)?;
                let memory = RefCell::new(Memory {
                    first,
                    second,
                    average,
                });
                self.var.inplace_op2(&grad, &Update { factors, memory })
            }
            Moments::Tensors { first, second } => {
                let dtype = wide(self.var.dtype());
                let grad = (grad.to_dtype(dtype)?.detach() * factors.scale)?;
                *first = ((&*first * beta1)? + (&grad * (1.0 - beta1))?)?;
                *second = ((&*second * beta2)? + (grad.sqr()? * (1.0 - beta2))?)?;
                let denominator = ((second.sqrt()? / factors.root)? + factors.eps)?;
                let kept = (self.var.as_detached_tensor().to_dtype(dtype)? * factors.keep)?;
                let next = (kept - ((&*first / denominator)? * factors.step)?)?;
                self.var.set(&next.to_dtype(self.var.dtype())?)
            }
        }
    }
}

/// The numbers of a step, in double precision as PyTorch has them before it multiplies tensors by them.
struct Factors {
    /// `1 - lr weight_decay`
    keep: f64,
    /// Multiplies the gradient.
    scale: f64,
    beta1: f64,
    beta2: f64,
    /// `lr / (1 - beta1^t)`
    step: f64,
    /// `sqrt(1 - beta2^t)`
    root: f64,
    eps: f64,
}

/// The in-place pass over a parameter.
struct Update<'a> {
    factors: Factors,
    memory: RefCell<Memory<'a>>,
}

/// What moves with the parameter.
struct Memory<'a> {
    first: &'a mut [f32],
    second: &'a mut [f32],
    /// The average, and the share of it that stays.
    average: Option<(&'a mut [f32], f64)>,
}

impl InplaceOp2 for Update<'_> {
    fn name(&self) -> &'static str {
        "adamw"
    }

    fn cpu_fwd(
        &self,
        var: &mut CpuStorage,
        layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(var), Some((start, end))) = (var, layout.contiguous_offsets()) else {
            candle_core::bail!("adamw: the parameter is not f32 and row-major");
        };
        let grad = Input::new(grad, grad_layout)?.contiguous();
        let mut memory = self.memory.borrow_mut();
        let Memory {
            first,
            second,
            average,
        } = &mut *memory;
        let factors = &self.factors;
        let chunks = var[start..end]
            .par_chunks_mut(CHUNK)
            .zip(grad.par_chunks(CHUNK))
            .zip(
                first
                    .par_chunks_mut(CHUNK)
                    .zip(second.par_chunks_mut(CHUNK)),
            );
        match average {
            None => chunks.for_each(|((var, grad), (first, second))| {
                update(var, grad, first, second, factors);
            }),
            // A chunk's new values are still in the cache when its average follows them.
            Some((average, decay)) => chunks.zip(average.par_chunks_mut(CHUNK)).for_each(
                |(((var, grad), (first, second)), average)| {
                    update(var, grad, first, second, factors);
                    mix(average, var, *decay as f32, (1.0 - *decay) as f32);
                },
            ),
        }
        Ok(())
    }
}

multiversion! {
    fn update(var: &mut [f32], grad: &[f32], first: &mut [f32], second: &mut [f32], factors: &Factors) {
        let (keep, scale, step) = (factors.keep as f32, factors.scale as f32, factors.step as f32);
        let (rest1, beta2, rest2) = ((1.0 - factors.beta1) as f32, factors.beta2 as f32, (1.0 - factors.beta2) as f32);
        let (root, eps) = (factors.root as f32, factors.eps as f32);
        for (((var, &grad), first), second) in var.iter_mut().zip(grad).zip(first.iter_mut()).zip(second.iter_mut()) {
            let grad = grad * scale;
            *first += (grad - *first) * rest1;
            *second = *second * beta2 + grad * grad * rest2;
            *var = *var * keep - step * (*first / (second.sqrt() / root + eps));
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ops::optim::{clip_scale, grad_norm};
    use crate::ops::testing::{assert_close, goldens};
    use crate::random::Stream;

    const CONFIG: AdamWConfig = AdamWConfig {
        lr: 0.05,
        betas: (0.8, 0.95),
        eps: 1e-8,
        weight_decay: 0.1,
    };

    fn random(label: &str, dtype: DType) -> Tensor {
        let tensor = Stream::new(1, label).normal((13, 7), &Device::Cpu).unwrap();
        tensor.to_dtype(dtype).unwrap()
    }

    /// A parameter after `steps` steps down `|x - target|²`.
    fn descend(dtype: DType, steps: usize) -> (Var, AdamW) {
        let var = Var::from_tensor(&random("start", dtype)).unwrap();
        let mut optimiser = AdamW::new(vec![("w".into(), var.clone())], CONFIG).unwrap();
        descend_on(&var, &mut optimiser, steps);
        (var, optimiser)
    }

    fn descend_on(var: &Var, optimiser: &mut AdamW, steps: usize) {
        let target = random("target", var.dtype());
        for _ in 0..steps {
            let grad = (var.as_detached_tensor() - &target).unwrap();
            optimiser.step(|_, _| Some(&grad), 0.7, None).unwrap();
        }
    }

    fn values(tensor: &Tensor) -> Vec<f64> {
        let tensor = tensor.to_dtype(DType::F64).unwrap();
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    #[test]
    fn the_pass_equals_the_textbook_in_f64() {
        let mut x = values(&random("start", DType::F64));
        let target = values(&random("target", DType::F64));
        let (mut m, mut v) = (vec![0.0; x.len()], vec![0.0; x.len()]);
        for t in 1..=20 {
            for i in 0..x.len() {
                let grad = 0.7 * (x[i] - target[i]);
                x[i] -= CONFIG.lr * CONFIG.weight_decay * x[i];
                m[i] = 0.8 * m[i] + 0.2 * grad;
                v[i] = 0.95 * v[i] + 0.05 * grad * grad;
                let (m_hat, v_hat) = (
                    m[i] / (1.0 - 0.8f64.powi(t)),
                    v[i] / (1.0 - 0.95f64.powi(t)),
                );
                x[i] -= CONFIG.lr * m_hat / (v_hat.sqrt() + CONFIG.eps);
            }
        }
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-12), (DType::BF16, 0.05)] {
            let (var, _) = descend(dtype, 20);
            for (actual, expected) in values(&var).iter().zip(&x) {
                assert!(
                    (actual - expected).abs() < tolerance,
                    "{dtype:?}: {actual} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn clipped_steps_equal_pytorch() {
        let goldens = goldens();
        let get = |name: &str| &goldens[&format!("adamw/{name}")];
        let var = Var::from_tensor(get("start")).unwrap();
        let config = AdamWConfig { lr: 0.02, ..CONFIG };
        let mut optimiser = AdamW::new(vec![("w".into(), var.clone())], config).unwrap();
        let norms = get("norms").to_vec1::<f32>().unwrap();
        for (step, norm) in norms.into_iter().enumerate() {
            let grad = get("grads").get(step).unwrap();
            let ours = grad_norm([&grad]).unwrap();
            assert!((ours - f64::from(norm)).abs() < 1e-5);
            optimiser
                .step(|_, _| Some(&grad), clip_scale(ours, 5.0), None)
                .unwrap();
        }
        let state = optimiser.state().unwrap();
        assert_close(&var, get("end"), 1e-6, "parameter");
        assert_close(&state["w.exp_avg"], get("exp_avg"), 1e-6, "first moment");
        assert_close(
            &state["w.exp_avg_sq"],
            get("exp_avg_sq"),
            1e-6,
            "second moment",
        );
    }

    #[test]
    fn a_restored_optimiser_continues_bit_for_bit() {
        for dtype in [DType::F32, DType::F64] {
            let (whole, _) = descend(dtype, 9);
            let (var, optimiser) = descend(dtype, 4);
            let saved = optimiser.state().unwrap();
            let mut restored = AdamW::new(vec![("w".into(), var.clone())], CONFIG).unwrap();
            restored.load_state(&saved).unwrap();
            descend_on(&var, &mut restored, 5);
            assert_eq!(values(&var), values(&whole));
        }
    }

    #[test]
    fn an_average_in_the_pass_equals_one_after_it_bit_for_bit() {
        // Longer than a chunk, and f64, which has no pass of its own.
        for (dtype, size) in [(DType::F32, 40_000), (DType::F64, 5)] {
            let draw = |label: &str| {
                let tensor = Stream::new(1, label).normal(size, &Device::Cpu).unwrap();
                tensor.to_dtype(dtype).unwrap()
            };
            let run = |within: bool| {
                let var = Var::from_tensor(&draw("start")).unwrap();
                let mut averages = BTreeMap::from([("w".to_owned(), draw("average"))]);
                let mut optimiser = AdamW::new(vec![("w".into(), var.clone())], CONFIG).unwrap();
                for step in 0..3 {
                    // The second step has no gradient; the average follows all the same.
                    let grad = (step != 1).then(|| draw(&format!("gradient {step}")));
                    let given = within.then_some(Averages {
                        values: &mut averages,
                        decay: 0.9,
                    });
                    optimiser.step(|_, _| grad.as_ref(), 0.7, given).unwrap();
                    if !within {
                        let value = var.as_detached_tensor();
                        follow(averages.get_mut("w").unwrap(), &value, 0.9).unwrap();
                    }
                }
                (values(&var), values(&averages["w"]))
            };
            assert_eq!(run(true), run(false), "{dtype:?}");
        }
    }

    #[test]
    fn a_parameter_without_gradient_stays() {
        let (var, mut optimiser) = descend(DType::F32, 3);
        let before = (
            values(&var),
            values(&optimiser.state().unwrap()["w.exp_avg"]),
        );
        optimiser.step(|_, _| None, 1.0, None).unwrap();
        let state = optimiser.state().unwrap();
        assert_eq!((values(&var), values(&state["w.exp_avg"])), before);
        assert_eq!(state["w.step"].to_scalar::<i64>().unwrap(), 3);
    }

    #[test]
    fn a_state_of_other_shape_or_name_is_refused() {
        let (_, mut optimiser) = descend(DType::F32, 1);
        let mut state = optimiser.state().unwrap();
        state.insert(
            "w.exp_avg".into(),
            Tensor::zeros((7, 13), DType::F32, &Device::Cpu).unwrap(),
        );
        let message = optimiser.load_state(&state).unwrap_err().to_string();
        assert!(
            message.contains("[7, 13]") && message.contains("[13, 7]"),
            "{message}"
        );
        state.remove("w.exp_avg");
        state.insert("x.exp_avg".into(), random("start", DType::F32));
        let message = optimiser.load_state(&state).unwrap_err().to_string();
        assert!(message.contains("w.exp_avg"), "{message}");
    }

    #[test]
    fn a_gradient_of_other_shape_is_refused() {
        let (_, mut optimiser) = descend(DType::F32, 1);
        let grad = Tensor::zeros((7, 13), DType::F32, &Device::Cpu).unwrap();
        let message = optimiser
            .step(|_, _| Some(&grad), 1.0, None)
            .unwrap_err()
            .to_string();
        assert!(
            message.contains("[7, 13]") && message.contains("[13, 7]"),
            "{message}"
        );
    }
}
