//! Every sampler follows diffusers' step by step, and visits the same timesteps.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::diffusion::{Process, SchedulerConfig, Spacing};
use crate::sample::{Sampler, SamplerKind, Scheduler, Step};

const SHAPE: (usize, usize, usize, usize) = (2, 1, 2, 2);

#[derive(Deserialize)]
struct Trajectory {
    sampler: SamplerKind,
    steps: usize,
    eta: f64,
    config: String,
    start: Vec<f32>,
    timesteps: Vec<f32>,
    samples: Vec<Vec<f32>>,
    /// Timesteps from outside, if any.
    #[serde(default)]
    given: Option<Vec<f32>>,
    #[serde(default)]
    sigmas: Vec<f64>,
    #[serde(default)]
    noises: Vec<Vec<f32>>,
}

#[derive(Deserialize)]
struct Timesteps {
    sampler: SamplerKind,
    spacing: Spacing,
    full: BTreeMap<usize, Vec<f32>>,
    sums: BTreeMap<usize, f64>,
}

fn golden(name: &str) -> String {
    let path = format!(
        "{}/../tests/goldens/samplers/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    std::fs::read_to_string(path).unwrap()
}

fn tensor(values: &[f32]) -> Tensor {
    Tensor::from_slice(values, SHAPE, &Device::Cpu).unwrap()
}

/// Through a file, as a user's would come.
fn read(config: &str) -> SchedulerConfig {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("scheduler_config.json");
    std::fs::write(&path, config).unwrap();
    SchedulerConfig::read(&path).unwrap()
}

/// The network of the golden script.
fn network(x: &Tensor, timestep: f32, total: usize) -> Tensor {
    let time = 0.1 * f64::from(timestep) / total as f64;
    ((x * 0.7).unwrap() + time).unwrap().tanh().unwrap()
}

fn check(case: &Trajectory) {
    let config = read(&case.config);
    let learned = case.config.contains("learned_range");
    let named = format!("{} with {}", case.sampler, case.config);
    let process = Process::new(config, learned).unwrap();
    let sampler = Sampler {
        eta: case.eta,
        ..Sampler::new(case.sampler, case.steps)
    };
    let built = match &case.given {
        Some(given) => sampler.build_along(&process, given),
        None => sampler.build(&process),
    };
    let mut scheduler = built.unwrap();
    assert_eq!(scheduler.timesteps().len(), case.timesteps.len(), "{named}");
    let mut sample = (tensor(&case.start) * scheduler.init_noise_sigma()).unwrap();
    for index in 0..case.timesteps.len() {
        let timestep = scheduler.timesteps()[index];
        assert!(
            (timestep - case.timesteps[index]).abs() <= 1e-3,
            "{timestep} in place of {}: {named}",
            case.timesteps[index]
        );
        let prediction = network(&sample, timestep, process.num_train_timesteps());
        let variance = ((&sample * 0.3).unwrap() - 0.2).unwrap().tanh().unwrap();
        let noise = case.noises.get(index).map(|noise| tensor(noise));
        assert!(noise.is_some() || !scheduler.uses_noise(index), "{named}");
        sample = scheduler
            .step(&Step {
                index,
                prediction: &prediction,
                variance: learned.then_some(&variance),
                sample: &sample,
                noise: noise.as_ref(),
            })
            .unwrap();
        // diffusers' Euler keeps its data at another scale.
        let scale = case
            .sigmas
            .get(index + 1)
            .map_or(1.0, |sigma| (sigma * sigma + 1.0).sqrt());
        let ours: Vec<f32> = (&sample * scale)
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1()
            .unwrap();
        let theirs = &case.samples[index];
        let largest = theirs
            .iter()
            .fold(0f32, |largest, value| largest.max(value.abs()));
        for (a, b) in ours.iter().zip(theirs) {
            assert!(
                (a - b).abs() <= 1e-4 * largest,
                "step {index}: {a} in place of {b}: {named}"
            );
        }
    }
}

#[test]
fn trajectories_are_those_of_diffusers() {
    let cases: Vec<Trajectory> = serde_json::from_str(&golden("trajectories")).unwrap();
    assert!(cases.len() > 60, "{} cases", cases.len());
    let given = cases.iter().filter(|case| case.given.is_some()).count();
    assert_eq!(given, 31);
    for case in &cases {
        check(case);
    }
}

#[test]
fn timesteps_are_those_of_diffusers() {
    let cases: Vec<Timesteps> = serde_json::from_str(&golden("spacings")).unwrap();
    assert_eq!(cases.len(), 12);
    let process = Process::new(SchedulerConfig::default(), false).unwrap();
    let timesteps = |case: &Timesteps, steps| {
        let sampler = Sampler {
            spacing: Some(case.spacing),
            ..Sampler::new(case.sampler, steps)
        };
        sampler
            .build(&process)
            .map(|scheduler| scheduler.timesteps().to_vec())
    };
    for case in &cases {
        for (&steps, expected) in &case.full {
            assert_eq!(
                &timesteps(case, steps).unwrap(),
                expected,
                "{} {:?}",
                case.sampler,
                case.spacing
            );
        }
        for (&steps, &expected) in &case.sums {
            // diffusers visits timesteps twice when DPM-Solver++ is asked for nearly all of them; that is an error here.
            let Ok(chosen) = timesteps(case, steps) else {
                assert!(
                    steps >= 500 && case.sampler == SamplerKind::DpmSolverPlusPlus2M,
                    "{steps} steps"
                );
                continue;
            };
            let sum: f64 = chosen
                .iter()
                .enumerate()
                .map(|(index, &t)| (index + 1) as f64 * f64::from(t))
                .sum();
            assert!(
                (sum - expected).abs() <= 1e-9 * expected,
                "{} {:?} {steps}: {sum} {expected}",
                case.sampler,
                case.spacing
            );
        }
    }
}

/// diffusers visits timestep -1 here.
#[test]
fn a_rounding_error_adds_no_step() {
    let process = Process::new(SchedulerConfig::default(), false).unwrap();
    for steps in 1..=1000 {
        let sampler = Sampler {
            spacing: Some(Spacing::Trailing),
            ..Sampler::new(SamplerKind::Ddim, steps)
        };
        let scheduler = sampler.build(&process).unwrap();
        let timesteps = scheduler.timesteps();
        assert_eq!((timesteps.len(), timesteps[0]), (steps, 999.0));
        assert!(
            timesteps.windows(2).all(|pair| pair[0] > pair[1]),
            "{timesteps:?}"
        );
    }
}

#[test]
fn an_offset_beyond_the_schedule_is_named() {
    let config = SchedulerConfig {
        steps_offset: 1,
        ..Default::default()
    };
    let process = Process::new(config, false).unwrap();
    let message = Sampler::new(SamplerKind::Ddim, 1000)
        .build(&process)
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("steps_offset 1") && message.contains("1000"),
        "{message}"
    );
}

#[test]
fn a_samplers_own_timesteps_given_from_outside_change_nothing() {
    for kind in [
        SamplerKind::Ddpm,
        SamplerKind::Ddim,
        SamplerKind::DpmSolverPlusPlus2M,
        SamplerKind::Euler,
    ] {
        // Ten divides a thousand, so DDIM's stride ends at the next timestep; Euler's are fractions.
        let process = Process::new(SchedulerConfig::default(), false).unwrap();
        let sampler = Sampler::new(kind, 10);
        let start = tensor(&[0.3, -1.0, 2.0, 0.1, 0.9, -0.4, 0.0, 1.5]);
        let run = |mut scheduler: Box<dyn Scheduler>| {
            let mut sample = start.clone();
            for index in 0..10 {
                let timestep = scheduler.timesteps()[index];
                let prediction = network(&sample, timestep, 1000);
                sample = scheduler
                    .step(&Step {
                        index,
                        prediction: &prediction,
                        variance: None,
                        sample: &sample,
                        noise: Some(&start),
                    })
                    .unwrap();
            }
            sample.flatten_all().unwrap().to_vec1::<f32>().unwrap()
        };
        let own = sampler.build(&process).unwrap();
        let timesteps = own.timesteps().to_vec();
        let along = sampler.build_along(&process, &timesteps).unwrap();
        assert_eq!(run(own), run(along), "{kind}");
    }
}

#[test]
fn timesteps_that_do_not_fall_through_the_schedule_are_refused() {
    let process = Process::new(SchedulerConfig::default(), false).unwrap();
    let sampler = Sampler::new(SamplerKind::Ddim, 10);
    for timesteps in [
        &[] as &[f32],
        &[1000.0],
        &[5.0, 5.0],
        &[5.0, 7.0],
        &[5.0, -1.0],
        &[f32::NAN],
        &[5.0, f32::NAN],
    ] {
        let error = sampler.build_along(&process, timesteps).err();
        let message = error.unwrap_or_else(|| panic!("{timesteps:?}")).to_string();
        assert!(message.contains("at most 999"), "{message}");
    }
    sampler.build_along(&process, &[0.0]).unwrap();
}
