//! Edge consistency: a loss term that compares the *edges* of the picture the model predicts with those of the real one, and an
//! observer that plots how well they match.
//!
//! The squared error of the noise says little about sharpness, because a slightly blurred picture costs it little. The gradient
//! difference loss (Mathieu, Couprie, LeCun; ICLR 2016; arXiv 1511.05440, section 3.2) compares neighbouring differences instead:
//!
//! ```text
//! term = weight * mean over samples of  w(t) * mean | d(x0_predicted) - d(x0) |,     w(t) = snr(t) / (1 + snr(t))
//! ```
//!
//! where `d` are differences between horizontal and vertical neighbours. `w(t)` fades the term out where there is mostly noise, since no
//! model can know an edge there.
#![forbid(unsafe_code)]

use plugin_api::{
    D, Error, Host, Plugin, Result, Settings, Tensor, export_plugin,
    hooks::{LossTermHook, LossTermIn, ObserveHook, ObserveIn},
};

/// What can be set.
#[derive(Settings, Debug)]
pub struct EdgeSettings {
    /// Weight of the term beside the objective; 0 only observes.
    #[setting(default = 0.1, range = 0..=100)]
    weight: f64,
    /// Which neighbours are compared.
    axes: Axes,
    /// Record the edge error every this many steps.
    #[setting(default = 10, range = 1..)]
    every: u64,
}

/// Directions in which neighbours are compared.
#[derive(Settings, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Axes {
    /// Left and right, up and down.
    #[setting(default)]
    Both,
    /// Left and right only.
    Horizontal,
    /// Up and down only.
    Vertical,
}

/// The plugin.
#[derive(Debug)]
pub struct EdgeConsistency {
    settings: EdgeSettings,
}

impl Plugin for EdgeConsistency {
    type Settings = EdgeSettings;
    const ID: &'static str = "edge_consistency";
    const SUMMARY: &'static str =
        "Edges of the predicted picture must match the real one's (gradient difference loss).";

    fn build(settings: EdgeSettings, _host: &Host) -> Result<Self> {
        Ok(EdgeConsistency { settings })
    }
}

export_plugin!(EdgeConsistency: LossTerm, Observe);

impl EdgeConsistency {
    /// Mean absolute difference of the two pictures' edges, `[B]`.
    fn edge_error(&self, predicted: &Tensor, real: &Tensor) -> Result<Tensor> {
        let error = (predicted - real)?; // [B, C, H, W]
        let mut total: Option<Tensor> = None;
        let dims: &[D] = match self.settings.axes {
            Axes::Both => &[D::Minus1, D::Minus2],
            Axes::Horizontal => &[D::Minus1],
            Axes::Vertical => &[D::Minus2],
        };
        for &dim in dims {
            // Differences are linear, so the difference of edges is the edge of the difference.
            let length = error.dim(dim)?;
            if length < 2 {
                return Err(Error::msg(
                    "edge consistency needs latents of at least 2 by 2",
                ));
            }
            let step = (error.narrow(dim, 1, length - 1)? - error.narrow(dim, 0, length - 1)?)?;
            let mean = step.abs()?.mean((1, 2, 3))?; // [B]
            total = Some(match total {
                Some(total) => (total + mean)?,
                None => mean,
            });
        }
        total.ok_or_else(|| Error::msg("no direction to compare"))
    }
}

impl LossTermHook for EdgeConsistency {
    fn loss_term(&mut self, at: &LossTermIn, host: &Host) -> Result<Tensor> {
        if self.settings.weight == 0.0 {
            return at.loss.full_like(0.0, []);
        }
        let x0 = host.to_x0(&at.prediction, &at.noisy_latents, &at.timesteps)?;
        let snr = host.snr(&at.timesteps)?; // [B]
        let fade = (&snr / (&snr + 1.0)?)?;
        (self.edge_error(&x0, &at.latents)? * fade)?.mean_all()? * self.settings.weight
    }
}

impl ObserveHook for EdgeConsistency {
    fn observe(&mut self, at: &ObserveIn, host: &Host) -> Result<()> {
        if !host.step().is_multiple_of(self.settings.every) {
            return Ok(());
        }
        let x0 = host.to_x0(&at.prediction, &at.noisy_latents, &at.timesteps)?;
        let errors = self.edge_error(&x0, &at.latents)?.to_vec::<f32>()?;
        let half = host.process()?.num_train_timesteps as f32 / 2.0;
        let timesteps = at.timesteps.to_vec::<f32>()?;
        for (name, near_data) in [
            ("edge_error_near_data", true),
            ("edge_error_near_noise", false),
        ] {
            let part: Vec<f32> = errors
                .iter()
                .zip(&timesteps)
                .filter(|(_, t)| (**t < half) == near_data)
                .map(|(e, _)| *e)
                .collect();
            if !part.is_empty() {
                host.metric(
                    name,
                    f64::from(part.iter().sum::<f32>()) / part.len() as f64,
                )?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use plugin_api::{Batch, DType, testing::TestHost};

    use super::*;

    /// One training step whose prediction is `noise + blur * wave`: a picture off by a known wave.
    fn step(host: &TestHost, wave: f32, timestep: u32) -> Result<LossTermIn> {
        let shape = [2, 1, 4, 4];
        let latents = Tensor::zeros(shape, DType::F32, host)?;
        let noise = host.random().normal(shape)?;
        let timesteps = Tensor::from_slice(&[timestep; 2], [2], host)?;
        let noisy_latents = host.add_noise(&latents, &noise, &timesteps)?;
        // Columns alternate between +wave and -wave, so only horizontal neighbours differ.
        let values: Vec<f32> = (0..32)
            .map(|i| if i % 2 == 0 { wave } else { -wave })
            .collect();
        let prediction = (&noise + Tensor::from_slice(&values, shape, host)?)?;
        Ok(LossTermIn {
            batch: Batch::new(),
            latents,
            noise: noise.clone(),
            timesteps,
            noisy_latents,
            prediction,
            target: noise,
            loss_mask: None,
            loss: Tensor::zeros([2], DType::F32, host)?,
        })
    }

    fn term(settings: &str, wave: f32, timestep: u32) -> Result<f32> {
        let host = TestHost::new();
        let mut plugin: EdgeConsistency = host.build(settings)?;
        let at = step(&host, wave, timestep)?;
        plugin.loss_term(&at, &host)?.to_scalar()
    }

    #[test]
    fn exact_prediction_costs_nothing() -> Result<()> {
        assert!(term("{}", 0.0, 100)?.abs() < 1e-5);
        Ok(())
    }

    #[test]
    fn term_grows_with_the_edges_missed_and_with_the_weight() -> Result<()> {
        let (small, large) = (term("{}", 0.1, 100)?, term("{}", 0.2, 100)?);
        assert!(
            small > 1e-4 && (large / small - 2.0).abs() < 1e-2,
            "{small} {large}"
        );
        let heavier = term(r#"{ "weight": 0.3 }"#, 0.1, 100)?;
        assert!((heavier / small - 3.0).abs() < 1e-2, "{heavier} {small}");
        Ok(())
    }

    #[test]
    fn only_the_chosen_neighbours_are_compared() -> Result<()> {
        assert!(term(r#"{ "axes": "vertical" }"#, 0.2, 100)?.abs() < 1e-5);
        assert!(term(r#"{ "axes": "horizontal" }"#, 0.2, 100)? > 1e-4);
        Ok(())
    }

    #[test]
    fn observer_records_the_half_it_saw_every_tenth_step() -> Result<()> {
        for (step_number, expected) in [(0, 1), (7, 0), (20, 1)] {
            let host = TestHost::new().at(step_number, plugin_api::Phase::TRAIN);
            let mut plugin: EdgeConsistency = host.build("{}")?;
            let at = step(&host, 0.1, 900)?;
            plugin.observe(&observed(&at), &host)?;
            let names: Vec<String> = host.metrics().into_iter().map(|(name, _)| name).collect();
            assert_eq!(names, vec!["edge_error_near_noise"; expected]);
        }
        Ok(())
    }

    fn observed(at: &LossTermIn) -> ObserveIn {
        ObserveIn {
            loss: 0.0,
            sample_loss: at.loss.clone(),
            loss_weight: None,
            grad_norm: 1.0,
            learning_rate: 1e-4,
            metrics: Default::default(),
            batch: at.batch.clone(),
            latents: at.latents.clone(),
            noise: at.noise.clone(),
            timesteps: at.timesteps.clone(),
            noisy_latents: at.noisy_latents.clone(),
            prediction: at.prediction.clone(),
            target: at.target.clone(),
        }
    }

    #[test]
    fn a_setting_out_of_range_is_named() {
        let host = TestHost::new();
        let error = host
            .build::<EdgeConsistency>(r#"{ "weight": -1 }"#)
            .unwrap_err();
        assert_eq!(error.to_string(), "`weight` must be in 0..=100, got -1");
    }
}
