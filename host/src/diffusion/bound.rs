//! The variational bound of networks that learn the variance of the reverse step, as improved-diffusion and DiT compute it.

use std::f64::consts::{LN_2, PI};

use candle_core::{D, DType, Result, Tensor};

use super::{Level, Posterior};

/// Half a step of eight-bit data in `-1..=1`.
const HALF_STEP: f64 = 1.0 / 255.0;
/// Data beyond this magnitude lies in the first or last step, which reaches to infinity.
const EDGE: f64 = 0.999;
/// No probability is taken to be less, so that logarithms and their gradients stay finite.
const SMALLEST_PROBABILITY: f64 = 1e-12;

/// The reverse steps of length one, one a training timestep.
#[derive(Clone, Debug)]
pub(super) struct Tables {
    x0: Vec<f64>,
    noisy: Vec<f64>,
    smallest_log_variance: Vec<f64>,
    largest_log_variance: Vec<f64>,
}

impl Tables {
    /// From the variances that single forward steps add.
    pub(super) fn new(betas: &[f32]) -> Self {
        // The products are not rounded to f32 here: neighbouring levels nearly cancel.
        let mut previous = Level::CLEAN;
        let mut left = 1.0;
        let steps: Vec<Posterior> = betas
            .iter()
            .map(|&beta| {
                left *= 1.0 - f64::from(beta);
                let level = Level {
                    alpha: f64::sqrt(left),
                    sigma: f64::sqrt(1.0 - left),
                };
                let step = level.posterior(previous);
                previous = level;
                step
            })
            .collect();
        // The first step's posterior has no variance; its logarithm is taken to be the second's.
        let smallest = |index: usize| match steps.get(index.max(1)) {
            Some(step) => step.variance.ln(),
            None => steps[index].transition_variance.ln(),
        };
        Self {
            x0: steps.iter().map(|step| step.x0).collect(),
            noisy: steps.iter().map(|step| step.noisy).collect(),
            smallest_log_variance: (0..steps.len()).map(smallest).collect(),
            largest_log_variance: steps
                .iter()
                .map(|step| step.transition_variance.ln())
                .collect(),
        }
    }

    /// See [`super::Process::variational_bound`].
    pub(super) fn bits_per_dim(
        &self,
        predicted_x0: &Tensor,
        variance: &Tensor,
        x0: &Tensor,
        noisy: &Tensor,
        timesteps: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let column = |table: &[f64]| broadcastable(gather(table.iter().copied(), timesteps)?, x0);
        let from_x0 = column(&self.x0)?;
        let from_noisy = noisy.broadcast_mul(&column(&self.noisy)?)?;
        let true_mean = (x0.broadcast_mul(&from_x0)? + &from_noisy)?;
        let mean = (predicted_x0.broadcast_mul(&from_x0)? + &from_noisy)?;
        let smallest = column(&self.smallest_log_variance)?;
        let span = (column(&self.largest_log_variance)? - &smallest)?;
        let share = ((variance + 1.0)? * 0.5)?;
        let log_variance = share.broadcast_mul(&span)?.broadcast_add(&smallest)?; // [B, ..]

        let divergence = divergence(&true_mean, &smallest, &mean, &log_variance)?;
        let divergence = mean_of_sample(&divergence, mask)?;
        let likelihood = discretised_log_likelihood(x0, &mean, &(&log_variance * 0.5)?)?;
        let likelihood = mean_of_sample(&likelihood, mask)?;
        let nats = timesteps
            .eq(0u32)?
            .where_cond(&likelihood.neg()?, &divergence)?; // [B]
        nats / LN_2
    }
}

/// Divergence between diagonal Gaussians, element by element, in nats.
fn divergence(
    mean1: &Tensor,
    log_variance1: &Tensor,
    mean2: &Tensor,
    log_variance2: &Tensor,
) -> Result<Tensor> {
    let log_ratio = log_variance2.broadcast_sub(log_variance1)?;
    let variances = log_ratio.neg()?.exp()?;
    let means = ((mean1 - mean2)?.sqr()? * log_variance2.neg()?.exp()?)?;
    (((log_ratio - 1.0)? + variances)? + means)? * 0.5
}

/// Logarithm of the probability of eight-bit data in `-1..=1` under a Gaussian, element by element.
fn discretised_log_likelihood(data: &Tensor, mean: &Tensor, log_scale: &Tensor) -> Result<Tensor> {
    let centred = (data - mean)?;
    let inverse_scale = log_scale.neg()?.exp()?;
    let below_upper = normal_cdf(&((&centred + HALF_STEP)? * &inverse_scale)?)?;
    let below_lower = normal_cdf(&((&centred - HALF_STEP)? * &inverse_scale)?)?;
    let log = |probability: &Tensor| probability.maximum(SMALLEST_PROBABILITY)?.log();
    let inside = log(&(&below_upper - &below_lower)?)?;
    let first = log(&below_upper)?;
    let last = log(&below_lower.affine(-1.0, 1.0)?)?;
    let not_first = data.gt(EDGE)?.where_cond(&last, &inside)?;
    data.lt(-EDGE)?.where_cond(&first, &not_first)
}

/// The tanh approximation that the published code uses in place of the error function.
fn normal_cdf(x: &Tensor) -> Result<Tensor> {
    let cubic = ((x.sqr()? * x)? * 0.044715)?;
    ((x + cubic)? * (2.0 / PI).sqrt())?.tanh()?.affine(0.5, 0.5)
}

/// Mean over everything but the batch, or over what the mask keeps of it: `[B]`, f32.
fn mean_of_sample(values: &Tensor, mask: Option<&Tensor>) -> Result<Tensor> {
    let values = values.to_dtype(DType::F32)?;
    let Some(mask) = mask else {
        return values.flatten_from(1)?.mean(D::Minus1);
    };
    let mask = mask.to_dtype(DType::F32)?.broadcast_as(values.shape())?;
    let total = (values * &mask)?.flatten_from(1)?.sum(D::Minus1)?;
    total / mask.flatten_from(1)?.sum(D::Minus1)?.maximum(1.0)?
}

/// `table[t]` for each sample: `[B]`, f32.
pub(super) fn gather(table: impl Iterator<Item = f64>, timesteps: &Tensor) -> Result<Tensor> {
    let table: Vec<f32> = table.map(|value| value as f32).collect();
    Tensor::new(table, timesteps.device())?.index_select(timesteps, 0)
}

/// `[B]` as `[B, 1, ..]` of the type and rank of `like`.
pub(super) fn broadcastable(values: Tensor, like: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; like.rank()];
    shape[0] = values.dim(0)?;
    values.reshape(shape)?.to_dtype(like.dtype())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{Device, Var};
    use serde::Deserialize;

    use super::*;
    use crate::diffusion::{Process, SchedulerConfig};

    #[derive(Deserialize)]
    struct Golden {
        shape: Vec<usize>,
        timesteps: Vec<u32>,
        x0: Vec<f32>,
        noise: Vec<f32>,
        prediction: Vec<f32>,
        variance: Vec<f32>,
        bound: Vec<f32>,
        variance_gradient: Vec<f32>,
    }

    fn flat(tensor: &Tensor) -> Vec<f32> {
        tensor.flatten_all().unwrap().to_vec1().unwrap()
    }

    fn check(what: &str, ours: &[f32], theirs: &[f32]) {
        for (index, (a, b)) in ours.iter().zip(theirs).enumerate() {
            assert!(
                (a - b).abs() <= 1e-3 * b.abs() + 1e-5,
                "{what} {index}: {a} in place of {b}"
            );
        }
    }

    #[test]
    fn bound_and_its_gradient_are_those_of_the_published_formulas() {
        let text = include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../tests/goldens/diffusion/bound.json"
        ));
        let golden: Golden = serde_json::from_str(text).unwrap();
        let tensor = |values: &[f32]| {
            Tensor::from_slice(values, golden.shape.as_slice(), &Device::Cpu).unwrap()
        };
        let process = Process::new(SchedulerConfig::default(), true).unwrap();
        let timesteps = Tensor::new(golden.timesteps.as_slice(), &Device::Cpu).unwrap();
        let x0 = tensor(&golden.x0);
        let noisy = process
            .add_noise(&x0, &tensor(&golden.noise), &timesteps)
            .unwrap();
        let prediction = Var::from_tensor(&tensor(&golden.prediction)).unwrap();
        let variance = Var::from_tensor(&tensor(&golden.variance)).unwrap();
        let bound = process
            .variational_bound(&prediction, &variance, &x0, &noisy, &timesteps, None)
            .unwrap();
        assert_eq!(bound.dims(), [golden.timesteps.len()]);
        check("bound", &flat(&bound), &golden.bound);
        let gradients = bound.sum_all().unwrap().backward().unwrap();
        check(
            "gradient",
            &flat(gradients.get(&variance).unwrap()),
            &golden.variance_gradient,
        );
        assert!(
            gradients.get(&prediction).is_none(),
            "the mean is not detached"
        );
    }

    #[test]
    fn under_a_mask_nothing_else_counts() {
        let process = Process::new(SchedulerConfig::default(), true).unwrap();
        let timesteps = Tensor::new(&[0u32, 500], &Device::Cpu).unwrap();
        let tensor = |values: [f32; 4]| {
            Tensor::new(&[values, values], &Device::Cpu)
                .unwrap()
                .reshape((2, 1, 2, 2))
                .unwrap()
        };
        let mask = tensor([1.0, 0.0, 0.0, 1.0]);
        let bound = |hidden: f32, mask: Option<&Tensor>| {
            let of = |kept: f32| tensor([kept, hidden, -hidden, -kept]);
            let bound =
                process.variational_bound(&of(0.3), &of(0.5), &of(0.7), &of(0.6), &timesteps, mask);
            flat(&bound.unwrap())
        };
        assert_eq!(bound(0.1, Some(&mask)), bound(0.9, Some(&mask)));
        assert_ne!(bound(0.1, None), bound(0.9, None));
        let nothing = mask.zeros_like().unwrap();
        assert_eq!(bound(0.1, Some(&nothing)), [0.0, 0.0]);
    }
}
