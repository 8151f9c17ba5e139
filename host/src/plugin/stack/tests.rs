//! The composed plugins, with the probe plugin linked in: what each slot's mode makes of several plugins, and what happens when
//! one misbehaves.
#![allow(clippy::unwrap_used)]

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var};
use plugin_api::{BackboneInfo, LayerInfo, LayerKind, Model, Phase};
use serde_json::json;

use super::*;
use crate::backbone::LayerHook;
use crate::data::Batch;
use crate::plugin::services::{Answer, Caller, Draw, ParameterRequest, Services};
use crate::random::Streams;
use crate::report::Profiler;

/// A session of the least that the probe asks for.
struct Desk {
    streams: RefCell<Streams>,
    metrics: RefCell<Vec<(String, String, f64)>>,
    parameters: RefCell<BTreeMap<String, Var>>,
    /// Asked for the current model, it runs this stack's layers.
    current: RefCell<Option<std::rc::Rc<Stack>>>,
    profiler: Profiler,
}

impl Desk {
    fn new() -> Self {
        Self {
            streams: RefCell::new(Streams::new(1)),
            metrics: RefCell::default(),
            parameters: RefCell::default(),
            current: RefCell::default(),
            profiler: Profiler::default(),
        }
    }

    fn at(&self, step: u64, phase: Phase) -> Scene<'_> {
        Scene {
            services: self,
            device: &Device::Cpu,
            profiler: Some(&self.profiler),
            step,
            phase,
        }
    }

    fn train(&self) -> Scene<'_> {
        self.at(4, Phase::TRAIN)
    }
}

impl Services for Desk {
    fn random(&self, caller: &Caller<'_>, draw: Draw, shape: &[usize]) -> Answer<Tensor> {
        let mut streams = self.streams.borrow_mut();
        let stream = streams.get(&format!("plugin/{}", caller.plugin));
        draw.take(shape, stream, &Device::Cpu)
            .map_err(plugin_api::Error::msg)
    }

    fn parameter(&self, caller: &Caller<'_>, request: ParameterRequest) -> Answer<Tensor> {
        let mut streams = self.streams.borrow_mut();
        let name = format!("{}/{}", caller.plugin, request.name);
        let value = request
            .init
            .make(&request.shape, streams.get(&name), &Device::Cpu);
        let var = Var::from_tensor(&value.map_err(plugin_api::Error::msg)?)
            .map_err(plugin_api::Error::msg)?;
        let mut parameters = self.parameters.borrow_mut();
        Ok(parameters.entry(name).or_insert(var).as_tensor().clone())
    }

    fn backbone(&self, _caller: &Caller<'_>) -> Answer<BackboneInfo> {
        Ok(BackboneInfo {
            architecture: "dit".into(),
            parameters: 1,
            in_channels: 4,
            out_channels: 4,
            latent_channels: 4,
            sample_size: 2,
            image_size: 2,
            num_classes: None,
            null_class: None,
            learned_variance: false,
            text: false,
            residual_sites: 2,
            fingerprint: "00".into(),
        })
    }

    fn denoise(
        &self,
        _: &Caller<'_>,
        model: Model,
        latents: &Tensor,
        _: &Tensor,
        _: &Batch,
    ) -> Answer<Tensor> {
        let current = self.current.borrow().clone();
        match (model, current) {
            (Model::Current, Some(stack)) => {
                let Some(hook) = stack.layer_hook(self.train()) else {
                    return Ok(latents.clone());
                };
                let adapted = hook.adapt(0, latents, latents.clone());
                adapted.map_err(|error| {
                    hook.failure()
                        .map_or(plugin_api::Error::msg(error), Into::into)
                })
            }
            _ => Ok(latents.clone()),
        }
    }

    fn metric(&self, caller: &Caller<'_>, name: &str, value: f64) -> Answer<()> {
        self.metrics
            .borrow_mut()
            .push((caller.plugin.into(), name.into(), value));
        Ok(())
    }
}

const EXCLUSIVE: [&str; 6] = [
    "timesteps",
    "noise",
    "noise_mask",
    "denoiser_input",
    "objective",
    "output",
];

/// Probes with these settings: the first under its own name, the others as `b`, `c`, without the exclusive slots.
fn stack(settings: &[serde_json::Value], scene: &Scene<'_>) -> Result<Stack, Error> {
    let code = Loaded::linked::<probe::Probe>().unwrap();
    let mut choices = Vec::new();
    let mut plugins = Vec::new();
    for (index, settings) in settings.iter().enumerate() {
        let mut choice = Choice::new(code.manifest().clone());
        if index > 0 {
            choice.alias = Some(char::from(b'a' + index as u8).into());
            choice.without = EXCLUSIVE.map(Into::into).to_vec();
        }
        choices.push(choice);
        plugins.push((code.clone(), settings.as_object().unwrap().clone()));
    }
    Stack::composed(&plugins, &choices, scene)
}

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

fn batch() -> Batch {
    let mut batch = Batch::default();
    batch.tensors.insert("images".into(), zeros(&[8, 3, 2, 2]));
    batch
        .meta
        .insert("names".into(), serde_json::to_string(&["n"; 8]).unwrap());
    batch
}

/// Runs every slot once; the first error, if any.
fn run_all(stack: &mut Stack, desk: &Desk) -> Result<(), PluginError> {
    let latents = zeros(&[8, 4, 2, 2]);
    stack.trainable(&desk.at(0, Phase::PREPARE))?;
    stack.prepare(&desk.at(0, Phase::PREPARE))?;
    stack.choose_layers(&desk.at(0, Phase::PREPARE), &layers())?;
    let scene = desk.train();
    let batch = stack.batch(&scene, batch())?;
    let timesteps = stack.timesteps(&scene, &batch, &latents, 1000)?.unwrap();
    let noise = stack.noise(&scene, &batch, &latents, &timesteps)?.unwrap();
    stack
        .noise_mask(&scene, &batch, &latents, &timesteps)?
        .unwrap();
    let at = NetworkInput {
        batch: &batch,
        noisy_latents: &latents,
        timesteps: &timesteps,
        latents: Some(&latents),
        unconditional: false,
    };
    let input = stack.denoiser_input(&scene, &at)?.unwrap();
    stack.residuals(&scene, &at, &input, 2)?;
    if let Some(hook) = stack.layer_hook(scene) {
        hook.adapt(0, &input, input.clone())
            .map_err(|_| hook.failure().unwrap())?;
    }
    let at = Predicted {
        batch: &batch,
        latents: &latents,
        noise: &noise,
        timesteps: &timesteps,
        noisy_latents: &latents,
        prediction: &latents,
        target: &noise,
        loss_mask: None,
    };
    let loss = stack.objective(&scene, &at)?.unwrap();
    stack.loss_weight(&scene, &batch, &timesteps, &loss, 1000)?;
    stack.loss_terms(&scene, &at, &loss)?;
    let finished = Finished {
        at,
        loss: 0.5,
        sample_loss: &loss,
        loss_weight: None,
        grad_norm: 1.0,
        learning_rate: 1e-4,
        metrics: &BTreeMap::new(),
    };
    stack.observe(&scene, &finished)?;
    let scene = desk.at(5, Phase::SAMPLE);
    let begin = SampleBegin {
        batch,
        latents: latents.clone(),
        timesteps: vec![999.0],
        guidance: 1.0,
        first: 0,
        seed: 0,
    };
    let begin = stack.sample_begin(&scene, begin, 1000)?;
    let step = SampleStep {
        batch: &begin.batch,
        index: 0,
        steps: 1,
        timestep: 999.0,
        next_timestep: None,
        prediction: &latents,
        x0: &latents,
    };
    let drawn = stack.sample_step(&scene, &step, latents.clone())?;
    let names: Vec<String> = (0..8).map(|i| i.to_string()).collect();
    let images = zeros(&[8, 3, 2, 2]);
    stack.output(&scene, &begin.batch, &drawn, &images, &images, &names)?;
    stack.save_state(&desk.at(5, Phase::CHECKPOINT))?;
    Ok(())
}

fn layers() -> Vec<LayerInfo> {
    ["blocks.0.to_q", "blocks.0.to_k"]
        .iter()
        .enumerate()
        .map(|(id, path)| LayerInfo {
            id: id as u32,
            path: (*path).into(),
            kind: LayerKind::LINEAR,
            in_features: 2,
            out_features: 2,
            weight_shape: vec![2, 2],
            bias: false,
            conv: Vec::new(),
        })
        .collect()
}

#[test]
fn a_plugin_that_changes_nothing_passes_through_every_slot() {
    let desk = Desk::new();
    let mut stack = stack(&[json!({}), json!({})], &desk.train()).unwrap();
    run_all(&mut stack, &desk).unwrap();
    let metrics: Vec<String> = desk
        .metrics
        .borrow()
        .iter()
        .map(|(plugin, name, _)| format!("{plugin}/{name}"))
        .collect();
    assert_eq!(metrics, ["probe/loss_seen", "b/loss_seen"]);
    desk.profiler.finish_step();
    let times = desk.profiler.profile().sections;
    let calls = |hook: &str| {
        let time = times.iter().find(|time| time.section.name() == hook);
        time.map(|time| time.calls)
    };
    assert_eq!(calls("b.batch"), Some(1));
    assert_eq!(calls("b.noise"), None);
}

#[test]
fn no_plugin_leaves_everything_to_the_host() {
    let desk = Desk::new();
    let scene = desk.train();
    let stack = Stack::empty().unwrap();
    let (batch, latents) = (batch(), zeros(&[8, 4, 2, 2]));
    let timesteps = zeros(&[8]);
    assert!(
        stack
            .timesteps(&scene, &batch, &latents, 10)
            .unwrap()
            .is_none()
    );
    assert!(
        stack
            .loss_weight(&scene, &batch, &timesteps, &timesteps, 10)
            .unwrap()
            .is_empty()
    );
    assert!(stack.layer_hook(scene).is_none());
    let same = stack.batch(&scene, batch.clone()).unwrap();
    assert_eq!(same.tensors["images"].id(), batch.tensors["images"].id());
}

#[test]
fn weights_and_terms_come_by_plugin_and_residuals_add() {
    let desk = Desk::new();
    let scene = desk.train();
    let stack = stack(&[json!({"scale": 2}), json!({"scale": 3})], &scene).unwrap();
    let (batch, latents) = (batch(), zeros(&[8, 4, 2, 2]));
    let timesteps = Tensor::zeros(8, DType::U32, &Device::Cpu).unwrap();
    let loss = zeros(&[8]);
    let weights = stack
        .loss_weight(&scene, &batch, &timesteps, &loss, 1000)
        .unwrap();
    let weights: Vec<(&str, Vec<f32>)> = (weights.iter())
        .map(|(plugin, weight)| (plugin.as_str(), flat(weight)))
        .collect();
    assert_eq!(weights, [("probe", vec![2.0; 8]), ("b", vec![3.0; 8])]);
    let at = Predicted {
        batch: &batch,
        latents: &latents,
        noise: &latents,
        timesteps: &timesteps,
        noisy_latents: &latents,
        prediction: &latents,
        target: &latents,
        loss_mask: None,
    };
    let terms = stack.loss_terms(&scene, &at, &loss).unwrap();
    let terms: Vec<(String, f32)> = terms
        .into_iter()
        .map(|(name, term)| (name, term.to_scalar().unwrap()))
        .collect();
    assert_eq!(terms, [("probe".to_owned(), 1.0), ("b".to_owned(), 2.0)]);
    let at = NetworkInput {
        batch: &batch,
        noisy_latents: &latents,
        timesteps: &timesteps,
        latents: None,
        unconditional: false,
    };
    let residuals = stack.residuals(&scene, &at, &latents, 2).unwrap().unwrap();
    assert!(
        residuals
            .iter()
            .flatten()
            .all(|residual| flat(residual).iter().all(|&value| value == 5.0))
    );
    assert_eq!(residuals.len(), 2);
}

#[test]
fn layers_are_chained_where_they_are_adapted_and_free_elsewhere() {
    let desk = Desk::new();
    let scene = desk.at(0, Phase::PREPARE);
    let mut stack = stack(
        &[
            json!({"scale": 2}),
            json!({"scale": 5, "layers": ".0.to_q"}),
        ],
        &scene,
    )
    .unwrap();
    stack.choose_layers(&scene, &layers()).unwrap();
    assert_eq!(stack.adapters_of(0), ["probe", "b"]);
    assert_eq!(stack.adapters_of(1), [] as [&str; 0]);
    let hook = stack.layer_hook(desk.train()).unwrap();
    let ones = Tensor::ones((1, 2), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(
        flat(&hook.adapt(0, &ones, ones.clone()).unwrap()),
        [10.0, 10.0]
    );
    assert_eq!(hook.adapt(1, &ones, ones.clone()).unwrap().id(), ones.id());
}

#[test]
fn a_plugin_that_adapts_no_layer_says_so() {
    let desk = Desk::new();
    let scene = desk.at(0, Phase::PREPARE);
    let mut stack = stack(&[json!({"layers": "nothing"})], &scene).unwrap();
    let error = stack
        .choose_layers(&scene, &layers())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("adapts none of the backbone's 2 layers"),
        "{error}"
    );
}

#[test]
fn gradients_reach_a_plugins_parameter_through_the_layer() {
    let desk = Desk::new();
    let scene = desk.at(0, Phase::PREPARE);
    let mut stack = stack(&[json!({"gain": true})], &scene).unwrap();
    stack.prepare(&scene).unwrap();
    stack.choose_layers(&scene, &layers()).unwrap();
    let hook = stack.layer_hook(desk.train()).unwrap();
    let output = Tensor::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
    let adapted = hook.adapt(0, &output, output.clone()).unwrap();
    let gradients = adapted.sum_all().unwrap().backward().unwrap();
    let gain = desk.parameters.borrow()["probe/gain"].clone();
    assert_eq!(flat(gradients.get(gain.as_tensor()).unwrap()), [3.0]);
    // The host moves the parameter in place; the plugin keeps the tensor and sees it.
    gain.set(&Tensor::new(&[10f32], &Device::Cpu).unwrap())
        .unwrap();
    assert_eq!(
        flat(&hook.adapt(0, &output, output.clone()).unwrap()),
        [10.0, 20.0]
    );
}

#[test]
fn a_panic_is_told_with_plugin_slot_step_and_place_and_ends_the_plugins_part() {
    let desk = Desk::new();
    let scene = desk.train();
    let stack = stack(
        &[
            json!({"at": "batch", "how": "panic", "after": 4}),
            json!({}),
        ],
        &scene,
    )
    .unwrap();
    stack.batch(&desk.at(3, Phase::TRAIN), batch()).unwrap();
    let error = stack.batch(&scene, batch()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.starts_with(
            "plugin `probe` panicked in `batch` at step 5: the probe was asked to panic in batch ("
        ),
        "{text}"
    );
    assert!(text.contains("probe/src/lib.rs:"), "{text}");
    let again = stack.batch(&desk.at(5, Phase::TRAIN), batch()).unwrap_err();
    assert!(matches!(again, PluginError::Poisoned { .. }), "{again}");
    assert!(
        again.to_string().contains("the probe was asked to panic"),
        "{again}"
    );
    assert!(stack.plugins()[0].poisoned().is_some());
    assert!(stack.plugins()[1].poisoned().is_none());
}

#[test]
fn an_error_at_any_slot_names_the_slot() {
    for slot in Slot::ALL {
        let desk = Desk::new();
        let mut stack =
            stack(&[json!({"at": slot.name(), "how": "error"})], &desk.train()).unwrap();
        let error = run_all(&mut stack, &desk).unwrap_err();
        assert!(
            matches!(&error, PluginError::Failed { moment, .. } if moment.slot == Some(*slot)),
            "{slot}: {error}"
        );
        let expected = format!("the probe was asked to fail in {slot}");
        assert!(error.to_string().ends_with(&expected), "{error}");
    }
}

#[test]
fn another_shape_is_refused_with_both_shapes() {
    let desk = Desk::new();
    let mut composed = stack(
        &[json!({"at": "loss_weight", "how": "shape"})],
        &desk.train(),
    )
    .unwrap();
    assert_eq!(
        run_all(&mut composed, &desk).unwrap_err().to_string(),
        "plugin `probe` returned loss_weight of shape [3] in `loss_weight` at step 5, expected [8]"
    );
    for slot in [
        "batch",
        "timesteps",
        "noise",
        "noise_mask",
        "denoiser_input",
        "layer",
        "objective",
        "loss_term",
        "sample_begin",
        "sample_step",
        "output",
    ] {
        let desk = Desk::new();
        let mut stack = stack(&[json!({"at": slot, "how": "shape"})], &desk.train()).unwrap();
        let error = run_all(&mut stack, &desk).unwrap_err().to_string();
        assert!(
            error.contains("[3]") && error.contains(&format!("`{slot}`")),
            "{slot}: {error}"
        );
    }
}

#[test]
fn nonsense_values_are_refused() {
    for (slot, part) in [
        ("timesteps", "1000 is not below 1000"),
        ("residuals", "3 entries for 2 residual sites"),
        ("objective", "expected a finite loss"),
        ("loss_weight", "value 0 is -1, expected 0 or more"),
        ("loss_term", "value 0 is inf, expected a finite number"),
    ] {
        let desk = Desk::new();
        let mut stack = stack(&[json!({"at": slot, "how": "value"})], &desk.train()).unwrap();
        let error = run_all(&mut stack, &desk).unwrap_err();
        assert!(matches!(error, PluginError::Value { .. }), "{error}");
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[test]
fn a_plugin_cannot_call_itself_through_the_host() {
    let desk = Desk::new();
    let scene = desk.at(0, Phase::PREPARE);
    let mut composed = stack(&[json!({"at": "noise", "how": "reenter"})], &scene).unwrap();
    composed.choose_layers(&scene, &layers()).unwrap();
    let stack = std::rc::Rc::new(composed);
    *desk.current.borrow_mut() = Some(stack.clone());
    let latents = zeros(&[8, 4, 2, 2]);
    let timesteps = Tensor::zeros(8, DType::U32, &Device::Cpu).unwrap();
    let error = stack
        .noise(&desk.train(), &batch(), &latents, &timesteps)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("already running") && error.contains("frozen model"),
        "{error}"
    );
    *desk.current.borrow_mut() = None;
}

#[test]
fn a_request_to_stop_is_no_failure() {
    let desk = Desk::new();
    let mut stack = stack(&[json!({"at": "prepare", "how": "cancel"})], &desk.train()).unwrap();
    let error = run_all(&mut stack, &desk).unwrap_err();
    assert!(
        matches!(error, PluginError::Cancelled { .. }) && !error.is_failure(),
        "{error}"
    );
    assert!(stack.plugins()[0].poisoned().is_none());
}

#[test]
fn a_plugin_that_does_not_build_says_why() {
    let desk = Desk::new();
    let error = stack(&[json!({"at": "build", "how": "panic"})], &desk.train())
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("plugin `probe` panicked while it was built: "),
        "{error}"
    );
    let error = stack(&[json!({"scael": 1})], &desk.train())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("unknown setting `scael`, did you mean `scale`?"),
        "{error}"
    );
}

#[test]
fn state_comes_back_and_foreign_state_is_refused() {
    let desk = Desk::new();
    let scene = desk.at(0, Phase::CHECKPOINT);
    let first = stack(&[json!({}), json!({})], &scene).unwrap();
    for _ in 0..3 {
        first.batch(&desk.train(), batch()).unwrap();
    }
    let saved = first.save_state(&scene).unwrap();
    let files: Vec<Vec<u8>> = saved.iter().map(PluginState::to_file).collect();
    let read: Vec<PluginState> = files
        .iter()
        .map(|file| PluginState::from_file(file).unwrap())
        .collect();
    assert_eq!(read, saved);
    assert_eq!(
        (read[1].header.name.as_str(), read[1].header.id.as_str()),
        ("b", "probe")
    );

    let second = stack(&[json!({}), json!({})], &scene).unwrap();
    second.load_state(&scene, &read, false).unwrap();
    assert_eq!(second.save_state(&scene).unwrap(), saved);

    let alone = stack(&[json!({})], &scene).unwrap();
    let error = alone
        .load_state(&scene, &read, false)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the checkpoint holds state of plugin `b`, which this run does not have"
    );
    let error = second
        .load_state(&scene, &read[..1], false)
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "plugin `b` keeps state, and the checkpoint has none of it"
    );
    let mut other = read.clone();
    other[0].header.id = "lora".into();
    let error = second
        .load_state(&scene, &other, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("is of plugin `lora`"), "{error}");
    let mut cut = read;
    cut[0].bytes.pop();
    let error = second
        .load_state(&scene, &cut, false)
        .unwrap_err()
        .to_string();
    assert!(error.contains("has 8 bytes, not 7"), "{error}");
    PluginState::from_file(&files[0][..files[0].len() - 1]).unwrap_err();
}
