//! A hook plans a batch otherwise than asked for: other timesteps, guidance, conditioning and size.

use std::ops::Range;

use candle_core::{Result as TensorResult, Tensor};

use super::generate::{conditioned, conditioned_request, labels};
use super::{go_on, process, values};
use crate::diffusion::Prediction;
use crate::sample::{
    Begin, Guidance, Half, Moment, Rows, SampleHooks, Sampler, SamplerKind, generate,
};

/// Takes another way than the one asked for, on a larger picture, and looks at everything on it.
#[derive(Default)]
struct Detour {
    timesteps: Vec<f32>,
    scale: f64,
    /// Half, label of the first image, timestep.
    inputs: Vec<(Half, f32, f32)>,
    ends: Vec<(Range<usize>, Vec<usize>)>,
}

impl SampleHooks for Detour {
    fn begin(&mut self, _: &Range<usize>, mut begin: Begin) -> TensorResult<Begin> {
        assert_eq!(begin.timesteps.len(), 4);
        begin.timesteps = self.timesteps.clone();
        begin.scale = self.scale;
        begin.latents = Tensor::cat(&[&begin.latents, &begin.latents], 3)?;
        let label = begin.conditioning["label"].affine(2.0, 0.0)?;
        begin.conditioning.insert("label".into(), label);
        Ok(begin)
    }

    fn denoiser_input(
        &mut self,
        moment: &Moment<'_>,
        half: Half,
        conditioning: &Rows,
        latents: &Tensor,
    ) -> TensorResult<Tensor> {
        let label = values(&conditioning["label"])[0];
        self.inputs.push((half, label, moment.timestep));
        Ok(latents.clone())
    }

    fn end(&mut self, images: &Range<usize>, latents: &Tensor) -> TensorResult<()> {
        self.ends.push((images.clone(), latents.dims().to_vec()));
        Ok(())
    }
}

#[test]
fn a_hook_changes_timesteps_guidance_conditioning_and_size() {
    let process = process(Prediction::Epsilon);
    for kind in [
        SamplerKind::Ddpm,
        SamplerKind::Ddim,
        SamplerKind::DpmSolverPlusPlus2M,
        SamplerKind::Euler,
    ] {
        let mut request = conditioned_request(Guidance::Off, 3);
        request.sampler = Sampler::new(kind, 4);
        let mut hooks = Detour {
            timesteps: vec![999.0, 20.0],
            scale: 3.0,
            ..Detour::default()
        };
        let mut told = Vec::new();
        let sampled = generate(
            &process,
            &request,
            &mut |at| {
                told.push((at.half, values(at.timesteps)));
                conditioned(0.0)(at)
            },
            None,
            &mut hooks,
            &mut |at| {
                assert_eq!(at.total, 4, "two batches of two steps");
                go_on(at)
            },
        )
        .unwrap();
        assert_eq!(sampled.dims(), [5, 1, 8, 16], "{kind}");
        let [with, without] = [Half::Conditional, Half::Unconditional];
        let batch = |label: f32| {
            [999.0, 20.0].map(|timestep| [(with, label, timestep), (without, 0.7, timestep)])
        };
        let expected = [batch(0.2), batch(0.8)].concat().concat();
        assert_eq!(hooks.inputs, expected, "{kind}");
        let halves: Vec<Half> = told.iter().map(|(half, _)| *half).collect();
        assert_eq!(halves, [with, without].repeat(4));
        assert_eq!(told[2].1, [20.0; 3]);
        let ends = [(0..3, vec![3, 1, 8, 16]), (3..5, vec![2, 1, 8, 16])];
        assert_eq!(hooks.ends, ends);
    }
}

#[test]
fn a_single_step_of_any_sampler_ends_at_the_predicted_data() {
    let process = process(Prediction::Sample);
    for kind in [
        SamplerKind::Ddpm,
        SamplerKind::Ddim,
        SamplerKind::DpmSolverPlusPlus2M,
        SamplerKind::Euler,
    ] {
        let mut request = conditioned_request(Guidance::Off, 5);
        request.sampler = Sampler::new(kind, 4);
        let mut hooks = Detour {
            timesteps: vec![999.0],
            scale: 1.0,
            ..Detour::default()
        };
        let sampled = generate(
            &process,
            &request,
            &mut labels,
            None,
            &mut hooks,
            &mut go_on,
        );
        let sampled = sampled.unwrap();
        for (image, label) in [0.2f32, 0.4, 0.6, 0.8, 1.0].into_iter().enumerate() {
            let pixels = values(&sampled.get(image).unwrap());
            assert!(
                pixels.iter().all(|pixel| (pixel - label).abs() < 1e-4),
                "{kind}: {pixels:?} for {label}"
            );
        }
    }
}

#[test]
fn a_detour_that_no_sampler_or_guidance_can_take_is_refused() {
    let process = process(Prediction::Epsilon);
    let refused = |timesteps: &[f32], scale| {
        let mut hooks = Detour {
            timesteps: timesteps.to_vec(),
            scale,
            ..Detour::default()
        };
        let request = conditioned_request(Guidance::Off, 5);
        let mut network = conditioned(0.0);
        generate(
            &process,
            &request,
            &mut network,
            None,
            &mut hooks,
            &mut go_on,
        )
        .unwrap_err()
        .to_string()
    };
    assert!(refused(&[5.0, 6.0], 1.0).contains("fall strictly"));
    assert!(refused(&[6.0, 5.0], f64::NAN).contains("NaN"));
}
