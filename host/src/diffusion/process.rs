//! The diffusion process as the training step and the samplers see it.

use candle_core::{Result, Tensor};

use super::{Affine, Error, Level, Prediction, Schedule, SchedulerConfig, Weighting, bound};

/// Stands for the noise to signal ratio where there is no signal, as in diffusers: the signal's share of the variance is taken to be 2^-24.
const RATIO_WITHOUT_SIGNAL: f64 = 4096.0;

/// How clean data becomes noisy, what the network predicts about it, and how to get back.
///
/// Tensors of data are `[B, ..]` of any float type; timesteps are `[B]`, of an integer type, in `0..num_train_timesteps`.
#[derive(Clone, Debug)]
pub struct Process {
    config: SchedulerConfig,
    levels: Vec<Level>,
    bounds: bound::Tables,
    learned_variance: bool,
}

impl Process {
    /// The process of a scheduler configuration.
    ///
    /// `learned_variance` says whether the network puts out a second half of channels for the variance of the reverse step. That is a
    /// fact about the network; scheduler files do not tell it reliably.
    ///
    /// # Errors
    /// See [`Schedule::new`]; also a noise prediction where the last timestep holds no signal.
    pub fn new(
        config: SchedulerConfig,
        learned_variance: bool,
    ) -> std::result::Result<Self, Error> {
        let schedule = Schedule::new(&config)?;
        let levels = schedule.levels();
        if config.prediction_type == Prediction::Epsilon
            && let Some(timestep) = levels.iter().position(|level| level.alpha == 0.0)
        {
            return Err(Error::EpsilonAtZeroSnr { timestep });
        }
        Ok(Self {
            bounds: bound::Tables::new(&schedule.betas),
            config,
            levels,
            learned_variance,
        })
    }

    /// The configuration this process was built from.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Number of training timesteps.
    pub fn num_train_timesteps(&self) -> usize {
        self.levels.len()
    }

    /// What the network predicts.
    pub fn prediction(&self) -> Prediction {
        self.config.prediction_type
    }

    /// Whether the network puts out a second half of channels for the variance.
    pub fn learned_variance(&self) -> bool {
        self.learned_variance
    }

    /// The noise level of every training timestep, from the cleanest.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }

    /// Noise to signal ratio of every training timestep, from the cleanest; finite even where there is no signal.
    pub fn ratios(&self) -> Vec<f64> {
        self.levels
            .iter()
            .map(|level| match level.alpha {
                0.0 => RATIO_WITHOUT_SIGNAL,
                _ => level.ratio(),
            })
            .collect()
    }

    /// The level at which noise is `ratio` times signal.
    ///
    /// Samplers use it between training timesteps. `ratio` is at least 0.
    pub fn level_at_ratio(&self, ratio: f64) -> Level {
        let alpha = 1.0 / (ratio * ratio + 1.0).sqrt();
        Level {
            alpha,
            sigma: ratio * alpha,
        }
    }

    /// Noisy data, `alpha[t] * x0 + sigma[t] * noise`.
    ///
    /// # Shapes
    /// `x0`, `noise`: `[B, ..]`; `timesteps`: `[B]`; result: as `x0`.
    ///
    /// # Errors
    /// Shapes or types that disagree, or a timestep out of range.
    pub fn add_noise(&self, x0: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        let alpha = self.per_sample(timesteps, x0, |level| level.alpha)?;
        let sigma = self.per_sample(timesteps, x0, |level| level.sigma)?;
        x0.broadcast_mul(&alpha)? + noise.broadcast_mul(&sigma)?
    }

    /// What the network should predict for [`Process::add_noise`] of the same arguments.
    ///
    /// # Shapes
    /// `x0`, `noise`: `[B, ..]`; `timesteps`: `[B]`; result: as `x0`.
    ///
    /// # Errors
    /// Shapes or types that disagree, or a timestep out of range.
    pub fn target(&self, x0: &Tensor, noise: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        match self.prediction() {
            Prediction::Epsilon => Ok(noise.clone()),
            Prediction::Sample => Ok(x0.clone()),
            Prediction::VPrediction => {
                let alpha = self.per_sample(timesteps, x0, |level| level.alpha)?;
                let sigma = self.per_sample(timesteps, x0, |level| level.sigma)?;
                noise.broadcast_mul(&alpha)? - x0.broadcast_mul(&sigma)?
            }
        }
    }

    /// The clean data that a prediction implies. Gradients flow to the prediction.
    ///
    /// # Shapes
    /// `prediction`, `noisy`: `[B, ..]`; `timesteps`: `[B]`; result: as `noisy`.
    ///
    /// # Errors
    /// Shapes or types that disagree, or a timestep out of range.
    pub fn to_x0(&self, prediction: &Tensor, noisy: &Tensor, timesteps: &Tensor) -> Result<Tensor> {
        match self.prediction() {
            Prediction::Sample => Ok(prediction.clone()),
            kind => self.affine(prediction, noisy, timesteps, |level| kind.x0(level)),
        }
    }

    /// The noise that a prediction implies. Gradients flow to the prediction.
    ///
    /// # Shapes
    /// `prediction`, `noisy`: `[B, ..]`; `timesteps`: `[B]`; result: as `noisy`.
    ///
    /// # Errors
    /// Shapes or types that disagree, or a timestep out of range.
    pub fn to_epsilon(
        &self,
        prediction: &Tensor,
        noisy: &Tensor,
        timesteps: &Tensor,
    ) -> Result<Tensor> {
        match self.prediction() {
            Prediction::Epsilon => Ok(prediction.clone()),
            kind => self.affine(prediction, noisy, timesteps, |level| kind.epsilon(level)),
        }
    }

    /// Signal to noise ratio, `alpha[t]^2 / sigma[t]^2`: `[B]`, f32, at least 0.
    ///
    /// # Errors
    /// A timestep out of range.
    pub fn snr(&self, timesteps: &Tensor) -> Result<Tensor> {
        self.gather(timesteps, Level::snr)
    }

    /// Weights of the base loss: `[B]`, f32, at least 0, for squared errors of this process's own prediction type.
    ///
    /// # Errors
    /// A timestep out of range.
    pub fn weights(&self, weighting: Weighting, timesteps: &Tensor) -> Result<Tensor> {
        self.gather(timesteps, |level| {
            weighting.weight(self.prediction(), level)
        })
    }

    /// The network's output as its prediction and, where it has one, its variance half.
    ///
    /// # Shapes
    /// `output`: `[B, C, ..]`, or `[B, 2C, ..]` under learned variance; results: `[B, C, ..]`.
    ///
    /// # Errors
    /// An odd number of channels under learned variance.
    pub fn split_variance(&self, output: &Tensor) -> Result<(Tensor, Option<Tensor>)> {
        if !self.learned_variance {
            return Ok((output.clone(), None));
        }
        let channels = output.dim(1)?;
        if channels % 2 != 0 {
            candle_core::bail!(
                "a network with learned variance puts out an even number of channels, not {channels}"
            );
        }
        let half = channels / 2;
        Ok((
            output.narrow(1, 0, half)?,
            Some(output.narrow(1, half, half)?),
        ))
    }

    /// The variational term of a network with learned variance, in bits per dimension; gradients flow to the variance alone.
    ///
    /// For `t > 0`, the divergence from the true reverse step `q(x_{t-1} | x_t, x0)` to the network's; for `t = 0`, the negative
    /// log-likelihood of `x0`, in steps of 1/127.5, under the network's Gaussian. The mean is detached (Nichol and Dhariwal 2021,
    /// section 3.1, the "hybrid" loss; add it to the squared error with weight 1, as DiT does for 1000 timesteps).
    ///
    /// # Shapes
    /// `prediction`, `x0`, `noisy`: `[B, ..]`; `variance`: `[B, ..]`, -1 for the posterior's and 1 for the forward variance;
    /// `timesteps`: `[B]`; `mask`, where only a part counts, 0 or 1 and broadcastable to `[B, ..]`; result: `[B]`, f32.
    ///
    /// # Errors
    /// Shapes or types that disagree, or a timestep out of range.
    pub fn variational_bound(
        &self,
        prediction: &Tensor,
        variance: &Tensor,
        x0: &Tensor,
        noisy: &Tensor,
        timesteps: &Tensor,
        mask: Option<&Tensor>,
    ) -> Result<Tensor> {
        let predicted_x0 = self.to_x0(&prediction.detach(), &noisy.detach(), timesteps)?;
        self.bounds.bits_per_dim(
            &predicted_x0,
            variance,
            x0,
            &noisy.detach(),
            timesteps,
            mask,
        )
    }

    /// `of(level)` noisy and predicted data, each sample by its own level.
    fn affine(
        &self,
        prediction: &Tensor,
        noisy: &Tensor,
        timesteps: &Tensor,
        of: impl Fn(Level) -> Affine,
    ) -> Result<Tensor> {
        let noisy_factor = self.per_sample(timesteps, noisy, |level| of(level).noisy)?;
        let prediction_factor = self.per_sample(timesteps, noisy, |level| of(level).prediction)?;
        noisy.broadcast_mul(&noisy_factor)? + prediction.broadcast_mul(&prediction_factor)?
    }

    /// `of(level)` for each sample, shaped `[B, 1, ..]` and typed to multiply `like`.
    fn per_sample(
        &self,
        timesteps: &Tensor,
        like: &Tensor,
        of: impl Fn(Level) -> f64,
    ) -> Result<Tensor> {
        bound::broadcastable(self.gather(timesteps, of)?, like)
    }

    /// `of(level)` for each sample: `[B]`, f32.
    fn gather(&self, timesteps: &Tensor, of: impl Fn(Level) -> f64) -> Result<Tensor> {
        bound::gather(self.levels.iter().map(|&level| of(level)), timesteps)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::Device;
    use proptest::prelude::*;

    use super::*;
    use crate::diffusion::BetaSchedule;
    use crate::random::Stream;

    const PREDICTIONS: [Prediction; 3] = [
        Prediction::Epsilon,
        Prediction::VPrediction,
        Prediction::Sample,
    ];

    fn process(prediction: Prediction, schedule: BetaSchedule) -> Process {
        let config = SchedulerConfig {
            prediction_type: prediction,
            beta_schedule: schedule,
            ..Default::default()
        };
        Process::new(config, false).unwrap()
    }

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b)
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap()
            .max(0)
            .unwrap()
            .to_scalar()
            .unwrap()
    }

    proptest! {
        /// The perfect prediction leads back to the data and to the noise it was made of, each sample at its own timestep.
        #[test]
        fn the_target_implies_the_data_and_the_noise(
            seed in any::<u64>(),
            timesteps in proptest::collection::vec(0u32..1000, 1..5),
            kind in 0usize..3,
            cosine in any::<bool>(),
        ) {
            let schedule = if cosine { BetaSchedule::SquaredcosCapV2 } else { BetaSchedule::Linear };
            let process = process(PREDICTIONS[kind], schedule);
            let mut stream = Stream::new(seed, "property");
            let shape = (timesteps.len(), 2, 3, 3);
            let x0 = stream.normal(shape, &Device::Cpu).unwrap();
            let noise = stream.normal(shape, &Device::Cpu).unwrap();
            let t = Tensor::new(timesteps.as_slice(), &Device::Cpu).unwrap();
            let noisy = process.add_noise(&x0, &noise, &t).unwrap();
            let target = process.target(&x0, &noise, &t).unwrap();
            // What is divided by loses that many digits.
            let smallest = |of: fn(Level) -> f64| timesteps.iter().map(|&t| of(process.levels()[t as usize])).fold(1.0, f64::min) as f32;
            let data = largest_difference(&process.to_x0(&target, &noisy, &t).unwrap(), &x0);
            prop_assert!(data < 4e-6 / smallest(|level| level.alpha), "data off by {data}");
            let noise_off = largest_difference(&process.to_epsilon(&target, &noisy, &t).unwrap(), &noise);
            prop_assert!(noise_off < 4e-6 / smallest(|level| level.sigma), "noise off by {noise_off}");
        }
    }

    #[test]
    fn noise_grows_with_the_timestep_of_each_sample() {
        let process = process(Prediction::Epsilon, BetaSchedule::Linear);
        let t = Tensor::new(&[0u32, 999], &Device::Cpu).unwrap();
        let x0 = Tensor::ones((2, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        let noisy = process
            .add_noise(&x0, &x0.zeros_like().unwrap(), &t)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        assert!((noisy[0] - 0.9999f32.sqrt()).abs() < 1e-6, "{noisy:?}");
        assert!((noisy[1] - 4.0358e-5f32.sqrt()).abs() < 1e-5, "{noisy:?}");
        let snr = process.snr(&t).unwrap().to_vec1::<f32>().unwrap();
        assert!(
            (snr[0] / 9999.0 - 1.0).abs() < 1e-3 && snr[1] < 5e-5,
            "{snr:?}"
        );
    }

    #[test]
    fn a_timestep_out_of_range_is_an_error() {
        let process = process(Prediction::Epsilon, BetaSchedule::Linear);
        assert!(
            process
                .snr(&Tensor::new(&[1000u32], &Device::Cpu).unwrap())
                .is_err()
        );
    }

    #[test]
    fn noise_prediction_without_signal_is_refused() {
        let config = |prediction_type| SchedulerConfig {
            rescale_betas_zero_snr: true,
            prediction_type,
            ..Default::default()
        };
        let refused = Process::new(config(Prediction::Epsilon), false).unwrap_err();
        assert!(
            matches!(refused, Error::EpsilonAtZeroSnr { timestep: 999 }),
            "{refused}"
        );
        let process = Process::new(config(Prediction::VPrediction), false).unwrap();
        assert_eq!(process.levels()[999].alpha, 0.0);
        assert_eq!(process.levels()[999].sigma, 1.0);
    }

    /// Whatever the network predicts, a weighting puts the same weight on the error of the clean data.
    #[test]
    fn weightings_agree_across_prediction_types() {
        let t = Tensor::new(&[0u32, 100, 400, 700, 999], &Device::Cpu).unwrap();
        for weighting in [
            Weighting::MinSnr { gamma: 5.0 },
            Weighting::P2 { k: 1.0, gamma: 0.5 },
        ] {
            let on_x0 = PREDICTIONS.map(|kind| {
                let process = process(kind, BetaSchedule::SquaredcosCapV2);
                let weights = process
                    .weights(weighting, &t)
                    .unwrap()
                    .to_vec1::<f32>()
                    .unwrap();
                let snr = process.snr(&t).unwrap().to_vec1::<f32>().unwrap();
                let scale = |snr: f32| match kind {
                    Prediction::Epsilon => snr,
                    Prediction::VPrediction => snr + 1.0,
                    Prediction::Sample => 1.0,
                };
                weights
                    .iter()
                    .zip(&snr)
                    .map(|(weight, &snr)| weight * scale(snr))
                    .collect::<Vec<_>>()
            });
            for other in &on_x0[1..] {
                for (a, b) in on_x0[0].iter().zip(other) {
                    assert!((a / b - 1.0).abs() < 1e-4, "{weighting:?}: {on_x0:?}");
                }
            }
        }
        let process = process(Prediction::Epsilon, BetaSchedule::Linear);
        let snr = process.snr(&t).unwrap().to_vec1::<f32>().unwrap();
        let min_snr = process
            .weights(Weighting::MinSnr { gamma: 5.0 }, &t)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        let p2 = process
            .weights(Weighting::P2 { k: 1.0, gamma: 0.5 }, &t)
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for index in 0..5 {
            assert!((min_snr[index] - snr[index].min(5.0) / snr[index]).abs() < 1e-5);
            assert!((p2[index] - (1.0 + snr[index]).powf(-0.5)).abs() < 1e-5);
        }
    }

    #[test]
    fn splitting_gives_both_halves_of_the_channels() {
        let output = Tensor::arange(0f32, 8.0, &Device::Cpu)
            .unwrap()
            .reshape((1, 4, 2, 1))
            .unwrap();
        let mut process = process(Prediction::Epsilon, BetaSchedule::Linear);
        assert!(process.split_variance(&output).unwrap().1.is_none());
        process.learned_variance = true;
        let (prediction, variance) = process.split_variance(&output).unwrap();
        assert_eq!(
            prediction.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            [0.0, 1.0, 2.0, 3.0]
        );
        assert_eq!(
            variance
                .unwrap()
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap(),
            [4.0, 5.0, 6.0, 7.0]
        );
        assert!(
            process
                .split_variance(&output.narrow(1, 0, 3).unwrap())
                .is_err()
        );
    }
}
