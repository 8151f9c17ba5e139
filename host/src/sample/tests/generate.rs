//! The loop: images are independent, guidance is what it says, hooks see what they should, and nonsense is refused.

use std::ops::{ControlFlow, Range};

use candle_core::{D, Device, Result as TensorResult, Tensor};

use super::{go_on, process, request, values};
use crate::diffusion::{Prediction, Process, SchedulerConfig, Spacing, VarianceType};
use crate::sample::{
    Begin, Error, Guidance, Half, Moment, NetworkPass, NoHooks, Request, Rows, SampleHooks,
    Sampler, SamplerKind, generate,
};

/// A network whose output depends on its conditioning: `x * row + offset`.
pub(super) fn conditioned(offset: f64) -> impl FnMut(&NetworkPass<'_>) -> TensorResult<Tensor> {
    move |at| {
        let label = at.conditioning["label"].reshape(((), 1, 1, 1))?;
        at.input.broadcast_mul(&label)? + offset
    }
}

pub(super) fn conditioned_request(guidance: Guidance, batch_size: usize) -> Request {
    let sampler = Sampler {
        eta: 0.8,
        ..Sampler::new(SamplerKind::Ddim, 4)
    };
    let mut request = request(sampler, 5);
    request.conditioning.insert(
        "label".into(),
        Tensor::new(&[0.1f32, 0.2, 0.3, 0.4, 0.5], &Device::Cpu).unwrap(),
    );
    request.unconditional.insert(
        "label".into(),
        Tensor::new(&[0.7f32], &Device::Cpu).unwrap(),
    );
    Request {
        guidance,
        batch_size,
        ..request
    }
}

#[test]
fn an_image_does_not_depend_on_the_batch_size() {
    let process = process(Prediction::Epsilon);
    let sample = |kind: SamplerKind, batch_size| {
        let mut request = conditioned_request(Guidance::ClassifierFree { scale: 2.0 }, batch_size);
        request.sampler.kind = kind;
        if kind != SamplerKind::Ddim {
            request.sampler.eta = 0.0;
        }
        generate(
            &process,
            &request,
            &mut conditioned(0.0),
            None,
            &mut NoHooks,
            &mut go_on,
        )
        .unwrap()
    };
    for kind in [
        SamplerKind::Ddpm,
        SamplerKind::Ddim,
        SamplerKind::DpmSolverPlusPlus2M,
        SamplerKind::Euler,
    ] {
        let whole = values(&sample(kind, 5));
        assert_eq!(whole, values(&sample(kind, 1)), "{kind}");
        assert_eq!(whole, values(&sample(kind, 3)), "{kind}");
    }
    // And images of different seeds do differ.
    let images = sample(SamplerKind::Ddpm, 5);
    assert_ne!(
        values(&images.get(0).unwrap()),
        values(&images.get(1).unwrap())
    );
}

/// The label itself, at every pixel.
pub(super) fn labels(at: &NetworkPass<'_>) -> TensorResult<Tensor> {
    let label = at.conditioning["label"].reshape(((), 1, 1, 1))?;
    label.broadcast_as(at.input.shape())?.contiguous()
}

/// One noise-free step to the end shows the prediction that was used.
fn guided(guidance: Guidance, pretrained_offset: f64) -> (Vec<f32>, Vec<usize>) {
    let process = process(Prediction::Sample);
    let mut request = conditioned_request(guidance, 5);
    request.sampler = Sampler {
        spacing: Some(Spacing::Trailing),
        ..Sampler::new(SamplerKind::Ddim, 1)
    };
    let mut seen = Vec::new();
    let sampled = generate(
        &process,
        &request,
        &mut |at| {
            seen.push(at.input.dim(0)?);
            labels(at)
        },
        Some(&mut |at| labels(at)? + pretrained_offset),
        &mut NoHooks,
        &mut go_on,
    )
    .unwrap();
    let first_pixels = sampled
        .flatten_from(1)
        .unwrap()
        .narrow(D::Minus1, 0, 1)
        .unwrap();
    (values(&first_pixels), seen)
}

#[test]
fn guidance_extrapolates_from_the_unconditional_prediction() {
    let close = |ours: &[f32], expected: [f32; 5]| {
        assert!(
            ours.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5),
            "{ours:?} {expected:?}"
        );
    };
    let labels = [0.1f32, 0.2, 0.3, 0.4, 0.5];
    let (off, seen) = guided(Guidance::Off, 0.0);
    close(&off, labels);
    assert_eq!(seen, [5]);
    // Scale 1 is the conditional prediction, so the other pass is spared.
    let (one, seen) = guided(Guidance::ClassifierFree { scale: 1.0 }, 0.0);
    close(&one, labels);
    assert_eq!(seen, [5]);
    let (three, seen) = guided(Guidance::ClassifierFree { scale: 3.0 }, 0.0);
    close(&three, labels.map(|label| 0.7 + 3.0 * (label - 0.7)));
    assert_eq!(seen, [5, 5]);
    let (domain, seen) = guided(Guidance::Domain { scale: 3.0 }, 0.25);
    close(&domain, labels.map(|label| 0.95 + 3.0 * (label - 0.95)));
    assert_eq!(seen, [5]);
}

/// The variance half is the conditional one, whatever the scale.
#[test]
fn guidance_leaves_the_learned_variance_alone() {
    let config = SchedulerConfig {
        clip_sample: Some(false),
        ..Default::default()
    };
    let process = Process::new(config, true).unwrap();
    let sample = |guidance, unconditional_variance: f64| {
        let mut request = conditioned_request(guidance, 5);
        request.sampler = Sampler::new(SamplerKind::Ddpm, 4);
        let mut network = |at: &NetworkPass<'_>| {
            let value = match at.half {
                Half::Conditional => 0.0,
                Half::Unconditional => unconditional_variance,
            };
            let variance = (at.input.ones_like()? * value)?;
            Tensor::cat(&[&(at.input * 0.1)?, &variance], 1)
        };
        values(
            &generate(
                &process,
                &request,
                &mut network,
                None,
                &mut NoHooks,
                &mut go_on,
            )
            .unwrap(),
        )
    };
    let guided = sample(Guidance::ClassifierFree { scale: 4.0 }, 0.9);
    assert_eq!(
        guided,
        sample(Guidance::ClassifierFree { scale: 4.0 }, -0.9)
    );
}

#[test]
fn pixels_are_clamped_and_latents_are_not() {
    let process = process(Prediction::Sample);
    let largest = |pixels| {
        let mut request = conditioned_request(Guidance::Off, 5);
        request.pixels = pixels;
        let sampled = generate(
            &process,
            &request,
            &mut |at| at.input.ones_like()? * 3.0,
            None,
            &mut NoHooks,
            &mut go_on,
        )
        .unwrap();
        values(&sampled).into_iter().fold(0f32, f32::max)
    };
    assert_eq!(largest(true), 1.0);
    assert_eq!(largest(false), 3.0);
}

/// Keeps the left half of the picture at a context, as one picture with several tiles does.
#[derive(Default)]
struct Context {
    calls: Vec<(usize, f32, usize)>,
}

impl Context {
    fn restore(latents: &Tensor) -> TensorResult<Tensor> {
        let right = latents.narrow(3, 4, 4)?;
        Tensor::cat(&[&(right.ones_like()? * 0.5)?, &right], 3)
    }
}

impl SampleHooks for Context {
    fn begin(&mut self, _: &Range<usize>, begin: Begin) -> TensorResult<Begin> {
        let latents = Self::restore(&begin.latents)?;
        Ok(Begin { latents, ..begin })
    }

    fn denoiser_input(
        &mut self,
        _: &Moment<'_>,
        _: Half,
        _: &Rows,
        latents: &Tensor,
    ) -> TensorResult<Tensor> {
        Tensor::cat(&[latents, latents], 1)
    }

    fn step(
        &mut self,
        moment: &Moment<'_>,
        _: &Tensor,
        _: &Tensor,
        latents: Tensor,
    ) -> TensorResult<Tensor> {
        self.calls
            .push((moment.index, moment.timestep, moment.images.start));
        Self::restore(&latents)
    }
}

#[test]
fn hooks_see_every_step_of_every_sampler_at_one_scale() {
    let process = process(Prediction::Epsilon);
    for kind in [
        SamplerKind::Ddpm,
        SamplerKind::Ddim,
        SamplerKind::DpmSolverPlusPlus2M,
        SamplerKind::Euler,
    ] {
        let mut request = conditioned_request(Guidance::ClassifierFree { scale: 2.0 }, 3);
        request.sampler = Sampler::new(kind, 4);
        let mut hooks = Context::default();
        let mut network = |at: &NetworkPass<'_>| {
            let x = at.input;
            assert_eq!(x.dim(1)?, 2);
            let context = values(&x.narrow(3, 0, 4)?);
            assert!(context.iter().all(|&value| value == 0.5), "{kind}");
            x.narrow(1, 0, 1)? * 0.5
        };
        let sampled = generate(
            &process,
            &request,
            &mut network,
            None,
            &mut hooks,
            &mut go_on,
        )
        .unwrap();
        assert!(
            values(&sampled.narrow(3, 0, 4).unwrap())
                .iter()
                .all(|&value| value == 0.5),
            "{kind}"
        );
        let indices: Vec<(usize, usize)> = hooks
            .calls
            .iter()
            .map(|&(index, _, first)| (index, first))
            .collect();
        assert_eq!(
            indices,
            [
                (0, 0),
                (1, 0),
                (2, 0),
                (3, 0),
                (0, 3),
                (1, 3),
                (2, 3),
                (3, 3)
            ],
            "{kind}"
        );
        assert!(hooks.calls[0].1 > hooks.calls[1].1, "{kind}");
    }
}

#[test]
fn progress_counts_and_can_interrupt() {
    let process = process(Prediction::Epsilon);
    let request = conditioned_request(Guidance::Off, 2);
    let mut seen = Vec::new();
    let mut network = conditioned(0.0);
    generate(
        &process,
        &request,
        &mut network,
        None,
        &mut NoHooks,
        &mut |progress| {
            seen.push(progress);
            ControlFlow::Continue(())
        },
    )
    .unwrap();
    assert_eq!(seen.len(), 13);
    assert!(
        seen.iter()
            .enumerate()
            .all(|(index, progress)| progress.done == index && progress.total == 12)
    );
    assert_eq!((seen[4].images, seen[12].images), (2, 5));
    let stopped = generate(
        &process,
        &request,
        &mut network,
        None,
        &mut NoHooks,
        &mut |progress| match progress.done {
            5 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        },
    );
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn requests_that_make_no_sense_are_refused() {
    let process = process(Prediction::Epsilon);
    let refused = |change: &dyn Fn(&mut Request)| {
        let mut request = conditioned_request(Guidance::ClassifierFree { scale: 2.0 }, 2);
        change(&mut request);
        let mut network =
            |_: &NetworkPass<'_>| -> TensorResult<Tensor> { panic!("the network ran") };
        generate(
            &process,
            &request,
            &mut network,
            None,
            &mut NoHooks,
            &mut go_on,
        )
        .unwrap_err()
        .to_string()
    };
    let has = |message: String, words: &[&str]| {
        assert!(words.iter().all(|word| message.contains(word)), "{message}")
    };
    has(
        refused(&|request| request.seeds.clear()),
        &["at least one seed"],
    );
    has(
        refused(&|request| request.batch_size = 0),
        &["batch size is 0"],
    );
    has(
        refused(&|request| request.seeds.push(9)),
        &["label", "5 rows", "6 images"],
    );
    has(
        refused(&|request| request.unconditional.clear()),
        &["unconditional", "label"],
    );
    has(
        refused(&|request| request.guidance = Guidance::ClassifierFree { scale: f64::NAN }),
        &["NaN"],
    );
    has(
        refused(&|request| request.guidance = Guidance::Domain { scale: 2.0 }),
        &["pretrained"],
    );
    has(
        refused(&|request| request.sampler.steps = 0),
        &["0 sampling steps", "1000"],
    );
    has(
        refused(&|request| request.sampler.steps = 1001),
        &["1001 sampling steps", "1000"],
    );
    has(refused(&|request| request.sampler.eta = 1.5), &["1.5"]);
    has(
        refused(&|request| request.sampler.kind = SamplerKind::Euler),
        &["euler", "eta"],
    );
    has(
        refused(&|request| {
            (
                request.sampler.kind,
                request.sampler.eta,
                request.sampler.karras,
            ) = (SamplerKind::Ddpm, 0.0, Some(true))
        }),
        &["ddpm", "karras"],
    );
}

#[test]
fn a_learned_variance_that_does_not_exist_is_refused() {
    let config = SchedulerConfig {
        variance_type: Some(VarianceType::LearnedRange),
        ..Default::default()
    };
    let process = Process::new(config, false).unwrap();
    let message = Sampler::new(SamplerKind::Ddpm, 10)
        .build(&process)
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("learned_range"), "{message}");
}

#[test]
fn settings_without_effect_are_told() {
    let config: SchedulerConfig = serde_json::from_str(
        r#"{"solver_order": 3, "solver_type": "midpoint", "use_beta_sigmas": true}"#,
    )
    .unwrap();
    let told = Sampler::new(SamplerKind::DpmSolverPlusPlus2M, 5).ignored_settings(&config);
    assert_eq!(told, ["solver_order = 3", "use_beta_sigmas = true"]);
    assert!(
        Sampler::new(SamplerKind::Ddim, 5)
            .ignored_settings(&config)
            .is_empty()
    );
}
