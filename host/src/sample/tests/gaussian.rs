//! With the exact network for Gaussian data, every sampler ends at that Gaussian.

use candle_core::{Result as TensorResult, Tensor};

use super::{go_on, process, request, values};
use crate::diffusion::{Level, Prediction, Process, Spacing};
use crate::sample::{NoHooks, Sampler, SamplerKind, generate, sigmas};

const MEAN: f64 = 0.3;
const DEVIATION: f64 = 0.4;

/// The best prediction for data from N(MEAN, DEVIATION^2): the expectation of the target given the noisy data.
fn exact(process: &Process, x: &Tensor, timesteps: &Tensor) -> TensorResult<Tensor> {
    let timestep = f64::from(timesteps.to_vec1::<f32>()?[0]);
    // Between training timesteps the level is looked up as Euler does.
    let Level { alpha, sigma } = process.level_at_ratio(sigmas::at(&process.ratios(), timestep));
    let variance = alpha * alpha * DEVIATION * DEVIATION + sigma * sigma;
    let surprise = (x - alpha * MEAN)?;
    let x0 = ((&surprise * (alpha * DEVIATION * DEVIATION / variance))? + MEAN)?;
    let noise = (&surprise * (sigma / variance))?;
    match process.prediction() {
        Prediction::Epsilon => Ok(noise),
        Prediction::Sample => Ok(x0),
        Prediction::VPrediction => (noise * alpha)? - (x0 * sigma)?,
    }
}

#[test]
fn samplers_reach_the_distribution_of_the_data() {
    let ddim = |eta, steps| Sampler {
        eta,
        spacing: Some(Spacing::Trailing),
        ..Sampler::new(SamplerKind::Ddim, steps)
    };
    for sampler in [
        // The posterior variance is too small for long steps, so samplers that add noise need more of them.
        Sampler::new(SamplerKind::Ddpm, 250),
        ddim(0.0, 100),
        ddim(1.0, 250),
        Sampler::new(SamplerKind::DpmSolverPlusPlus2M, 25),
        Sampler::new(SamplerKind::Euler, 100),
    ] {
        for prediction in [
            Prediction::Epsilon,
            Prediction::VPrediction,
            Prediction::Sample,
        ] {
            let process = process(prediction);
            let sampled = generate(
                &process,
                &request(sampler.clone(), 256),
                &mut |at| exact(&process, at.input, at.timesteps),
                None,
                &mut NoHooks,
                &mut go_on,
            )
            .unwrap();
            let drawn = values(&sampled);
            assert_eq!(drawn.len(), 256 * 64);
            let count = drawn.len() as f64;
            let mean = drawn.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
            let deviation = (drawn
                .iter()
                .map(|&x| (f64::from(x) - mean).powi(2))
                .sum::<f64>()
                / count)
                .sqrt();
            // Four standard errors of the mean are 0.0125; the rest is for the finite number of steps.
            assert!(
                (mean - MEAN).abs() < 0.015,
                "mean {mean}: {sampler:?} {prediction:?}"
            );
            assert!(
                (deviation / DEVIATION - 1.0).abs() < 0.05,
                "deviation {deviation}: {sampler:?} {prediction:?}"
            );
        }
    }
}
