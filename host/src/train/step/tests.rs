//! Steps of a tiny DiT whose every weight matters: which tensors get gradients, and what accumulation, masks, weights and the
//! noise offset change.
#![allow(clippy::unwrap_used)]

use std::rc::Rc;
use std::sync::Arc;

use candle_core::Device;
use serde_json::json;

use super::*;
use crate::backbone::tests::formula::{numbers, tiny_unet};
use crate::backbone::tests::{lively, tiny};
use crate::backbone::{Backbone, DitConfig};
use crate::cancel::Cancel;
use crate::config::{TrainSection, Weighting as Chosen};
use crate::data::{self, DataOptions};
use crate::diffusion::{Process, SchedulerConfig, Weighting};
use crate::encode::Encoder;
use crate::plugin::compose::Choice;
use crate::plugin::foreign::Scene;
use crate::plugin::load::Loaded;
use crate::pretrained::Pretrained;
use crate::random::Streams;
use crate::report::Progress;
use crate::train::{Facts, Feed, Session};

const BATCH: usize = 4;
const SIZE: usize = 8;

fn settings() -> TrainSection {
    TrainSection {
        batch_size: BATCH,
        warmup_steps: 0,
        clip: 0.0,
        ema_decay: 0.0,
        label_dropout: 0.0,
        ..TrainSection::default()
    }
}

/// A run before its first step; with `weight`, next to a plugin that weighs every loss by it.
fn trainer(settings: TrainSection, trainable: &str, weight: Option<f64>) -> Trainer {
    let weigher = weight.map(|weight| (Slot::LossWeight, json!({ "scale": weight })));
    trainer_with(settings, trainable, weigher)
}

/// A run before its first step, perhaps with the probe at one slot.
fn trainer_with(
    settings: TrainSection,
    trainable: &str,
    plugin: Option<(Slot, serde_json::Value)>,
) -> Trainer {
    trainer_of(dit(), settings, trainable, plugin)
}

/// A DiT with a label for every class of the scenes.
fn dit() -> Backbone {
    lively(DitConfig {
        num_embeds_ada_norm: 16,
        ..tiny()
    })
}

fn trainer_of(
    backbone: Backbone,
    settings: TrainSection,
    trainable: &str,
    plugin: Option<(Slot, serde_json::Value)>,
) -> Trainer {
    let model = Pretrained {
        backbone,
        process: Process::new(SchedulerConfig::default(), false).unwrap(),
        encoder: Encoder::Pixels,
        text: None,
        adapters: Vec::new(),
    };
    let session = Rc::new(Session::new(
        model,
        Facts::default(),
        Parameters::default(),
        Streams::new(settings.seed),
        Progress::hidden(),
        Cancel::default(),
    ));
    let stack = match plugin {
        Some((slot, settings)) => probe(slot, &settings, &session.scene(0, Phase::BUILD)),
        None => Stack::empty().unwrap(),
    };
    let options = DataOptions {
        size: SIZE,
        count: Some(2 * BATCH),
        ..DataOptions::default()
    };
    let dataset = Arc::from(data::open("scenes:studio", &options).unwrap());
    let trainable = [trainable.to_owned()];
    let feed = Feed::data(dataset, &settings, 1, None).unwrap();
    Trainer::new(session, stack, settings, Some(&trainable), feed, None).unwrap()
}

/// The probe, at one slot beside those every plugin has.
fn probe(slot: Slot, settings: &serde_json::Value, scene: &Scene<'_>) -> Stack {
    let code = Loaded::linked::<probe::Probe>().unwrap();
    let mut choice = Choice::new(code.manifest().clone());
    let others = Slot::ALL
        .iter()
        .filter(|other| **other != slot && **other != Slot::Prepare);
    choice.without = others.map(|slot| slot.name().to_owned()).collect();
    let settings = settings.as_object().unwrap().clone();
    Stack::composed(&[(code, settings)], &[choice], scene).unwrap()
}

fn forward(trainer: &mut Trainer) -> Forward {
    let mut batch = trainer.feed.next(&Device::Cpu).unwrap().batch;
    if let Some(width) = trainer.session.backbone.info().cross_attention {
        let name = "encoder_hidden_states";
        let texts = numbers(name, &[BATCH, 5, width]);
        batch.tensors.insert(name.to_owned(), texts);
    }
    forward_on(trainer, batch)
}

fn forward_on(trainer: &mut Trainer, batch: Batch) -> Forward {
    let session = trainer.session.clone();
    trainer
        .forward(session.stack().unwrap(), batch.into())
        .unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// The largest difference between elements.
fn distance(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let pairs = values(a).into_iter().zip(values(b));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[track_caller]
fn check_gradients(trainable: &str) {
    let mut trainer = trainer(settings(), trainable, None);
    let recording = Recording::start();
    let total = forward(&mut trainer).total;
    let mut gradients = recording.backward(&total).unwrap();
    let parameters = trainer.session.parameters.borrow();
    assert!(!parameters.is_empty());
    for parameter in parameters.iter() {
        // It moves all scores of a query alike, which softmax does not see.
        if parameter.name.ends_with("to_k.bias") {
            continue;
        }
        let gradient = gradients.remove(parameter.var.as_tensor());
        let gradient = gradient.unwrap_or_else(|| panic!("{} has no gradient", parameter.name));
        let norm = grad_norm([&gradient]).unwrap();
        assert!(norm > 1e-6, "{}: gradient norm {norm}", parameter.name);
    }
    for (name, frozen) in trainer.session.backbone.parameters() {
        assert!(
            gradients.remove(frozen).is_none(),
            "frozen {name} has a gradient"
        );
    }
}

/// The gradients of one pass with the probe on every query, drawing random numbers there; and how often it ran.
fn gradients_with_layers(
    backbone: Backbone,
    gradient_checkpointing: bool,
) -> BTreeMap<String, Tensor> {
    let settings = TrainSection {
        gradient_checkpointing,
        ..settings()
    };
    let probe = json!({ "layers": "to_q", "gain": true, "scale": 1.5 });
    let mut trainer = trainer_of(backbone, settings, "all", Some((Slot::Layer, probe)));
    let recording = Recording::start();
    let forward = forward(&mut trainer);
    let mut found = recording.backward(&forward.total).unwrap();
    let mut gradients = BTreeMap::new();
    accumulate(
        &mut gradients,
        &mut found,
        &trainer.session.parameters.borrow(),
    )
    .unwrap();
    gradients
}

#[test]
fn checkpointed_gradients_are_those_of_a_plain_pass_with_plugins_in_the_blocks() {
    check_checkpointing(&dit);
    check_checkpointing(&tiny_unet);
}

#[track_caller]
fn check_checkpointing(backbone: &dyn Fn() -> Backbone) {
    let plain = gradients_with_layers(backbone(), false);
    let again = gradients_with_layers(backbone(), true);
    assert!(
        plain.keys().any(|name| name.ends_with("gain")),
        "{:?}",
        plain.keys()
    );
    assert_eq!(
        plain.keys().collect::<Vec<_>>(),
        again.keys().collect::<Vec<_>>()
    );
    for (name, gradient) in &plain {
        let size = values(gradient)
            .into_iter()
            .fold(0.0, |a: f32, b| a.max(b.abs()));
        let off = distance(gradient, &again[name]);
        assert!(off <= 1e-5 * size, "{name}: {off} of {size}");
    }
}

#[test]
fn all_that_trains_gets_a_gradient_and_nothing_frozen_does() {
    check_gradients("all");
    check_gradients("bias");
    check_gradients("transformer_blocks.1.attn1.to_v.weight");
}

#[test]
fn all_means_every_parameter_of_the_backbone() {
    let trainer = trainer(settings(), "all", None);
    let trained: Vec<String> = trainer.overlay.keys().cloned().collect();
    let mut all: Vec<&str> = trainer
        .session
        .backbone
        .parameters()
        .map(|(name, _)| name)
        .collect();
    all.sort_unstable();
    let mut trained: Vec<&str> = trained.iter().map(String::as_str).collect();
    trained.sort_unstable();
    assert_eq!(trained, all);
}

#[test]
fn two_half_batches_make_the_step_of_a_whole_one() {
    // Beside so large an epsilon AdamW's denominator is constant, so parameters move by the gradient itself.
    let stepped = |batch_size: usize, accumulation: usize| {
        let settings = TrainSection {
            batch_size,
            accumulation,
            lr: 1e6,
            eps: 1e6,
            ..settings()
        };
        let mut trainer = trainer(settings, "all", None);
        let session = trainer.session.clone();
        let metrics = trainer.step(session.stack().unwrap()).unwrap();
        (metrics, session)
    };
    let (whole, whole_session) = stepped(BATCH, 1);
    let (halves, halves_session) = stepped(BATCH / 2, 2);
    let close = |a: f64, b: f64| (a - b).abs() < 1e-5 * b.abs();
    assert!(
        close(halves.loss, whole.loss),
        "{} and {}",
        halves.loss,
        whole.loss
    );
    let norms = (halves.grad_norm, whole.grad_norm);
    assert!(close(norms.0, norms.1), "{norms:?}");

    let (whole, halves) = (
        whole_session.parameters.borrow(),
        halves_session.parameters.borrow(),
    );
    let mut moved = 0f32;
    for ((name, whole), halves) in whole.values().iter().zip(halves.values().values()) {
        let frozen = whole_session
            .backbone
            .parameters()
            .find(|(known, _)| known == name)
            .unwrap()
            .1;
        moved = moved.max(distance(whole, frozen));
        assert!(
            distance(whole, halves) < 1e-5,
            "{name}: {}",
            distance(whole, halves)
        );
    }
    assert!(moved > 1e-2, "nothing moved by more than {moved}");
}

#[test]
fn a_loss_mask_in_the_batch_decides_what_counts() {
    let mut trainer = trainer(settings(), "bias", None);
    let mut batch = trainer.feed.next(&Device::Cpu).unwrap().batch;
    let half = (BATCH, 1, SIZE, SIZE / 2);
    let kept = Tensor::ones(half, DType::F32, &Device::Cpu).unwrap();
    let mask = Tensor::cat(&[&kept, &kept.zeros_like().unwrap()], 3).unwrap(); // [B, 1, H, W]
    batch.tensors.insert("loss_mask".to_owned(), mask);
    let forward = forward_on(&mut trainer, batch);
    let squared = (&forward.prediction - &forward.target)
        .unwrap()
        .sqr()
        .unwrap(); // [B, C, H, W]
    let mean = |of: &Tensor| of.flatten_from(1).unwrap().mean(1).unwrap(); // [B]
    let left = mean(&squared.narrow(3, 0, SIZE / 2).unwrap());
    assert!(distance(&forward.sample_loss, &left) < 1e-5);
    assert!(distance(&forward.sample_loss, &mean(&squared)) > 1e-3);
}

#[test]
fn a_noise_offset_shifts_each_channel_of_each_sample_by_a_constant() {
    let noise = |noise_offset: f64| {
        let settings = TrainSection {
            noise_offset,
            ..settings()
        };
        forward(&mut trainer(settings, "bias", None)).noise
    };
    let shift = (noise(0.5) - noise(0.0))
        .unwrap()
        .flatten_from(2)
        .unwrap()
        .flatten_to(1)
        .unwrap(); // [B * C, H * W]
    let shift = shift.to_vec2::<f32>().unwrap();
    for channel in &shift {
        let uneven = channel
            .iter()
            .any(|value| (value - channel[0]).abs() > 1e-5);
        assert!(!uneven, "{channel:?}");
    }
    let mut constants: Vec<f32> = shift.iter().map(|channel| channel[0]).collect();
    // Twelve draws of deviation 0.5.
    let deviation = (constants.iter().map(|c| c * c).sum::<f32>() / constants.len() as f32).sqrt();
    assert!((0.2..1.0).contains(&deviation), "{constants:?}");
    constants.sort_by(f32::total_cmp);
    constants.dedup();
    assert_eq!(constants.len(), shift.len(), "no two channels share a draw");
}

#[test]
fn fixed_inputs_take_the_place_of_the_default_draws_in_turn() {
    let settings = TrainSection {
        noise_offset: 0.5,
        ..settings()
    };
    let mut trainer = trainer(settings, "bias", None);
    let batch = trainer.feed.next(&Device::Cpu).unwrap().batch;
    let starts = [100u32, 900].map(|timestep| Start {
        batch: batch.clone(),
        timesteps: Some(Tensor::full(timestep, BATCH, &Device::Cpu).unwrap()),
        noise: Some(Tensor::full(timestep as f32, (BATCH, 3, SIZE, SIZE), &Device::Cpu).unwrap()),
    });
    trainer.feed = Feed::fixed(starts.to_vec());
    for expected in [100u32, 900, 100] {
        let start = trainer.feed.next(&Device::Cpu).unwrap();
        let session = trainer.session.clone();
        let forward = trainer.forward(session.stack().unwrap(), start).unwrap();
        let timesteps = forward.timesteps.to_vec1::<u32>().unwrap();
        assert_eq!(timesteps, [expected; BATCH]);
        assert_eq!(
            values(&forward.noise),
            [expected as f32; BATCH * 3 * SIZE * SIZE]
        );
    }
}

#[test]
fn the_run_files_weighting_multiplies_what_plugins_weigh() {
    let min_snr = Weighting::MinSnr { gamma: 5.0 };
    let p2 = Weighting::P2 { k: 1.0, gamma: 0.5 };
    for (chosen, ours) in [
        (Chosen::None, None),
        (Chosen::MinSnr, Some(min_snr)),
        (Chosen::P2, Some(p2)),
    ] {
        for plugin in [None, Some(3.0)] {
            let settings = TrainSection {
                weighting: chosen,
                ..settings()
            };
            let mut trainer = trainer(settings, "bias", plugin);
            let forward = forward(&mut trainer);
            let process = &trainer.session.process;
            let mut expected = forward.sample_loss.ones_like().unwrap();
            if let Some(ours) = ours {
                expected = process.weights(ours, &forward.timesteps).unwrap();
                assert!(values(&expected).iter().any(|weight| *weight < 0.99));
            }
            let expected = (expected * plugin.unwrap_or(1.0)).unwrap();
            assert_eq!(
                forward.loss_weight.is_some(),
                ours.is_some() || plugin.is_some()
            );
            let mean = (&forward.sample_loss * expected)
                .unwrap()
                .mean_all()
                .unwrap();
            let far = distance(&forward.total, &mean);
            assert!(far < 1e-5, "{chosen:?} and {plugin:?}: {far}");
        }
    }
}
