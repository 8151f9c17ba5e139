//! What a pass may change, and what it must leave alone.

use std::cell::RefCell;

use candle_core::{Device, Tensor};

use super::super::{LayerHook, LayerKind, Positions};
use super::formula::unet;
use super::unet::{config, tiny_unets};
use super::*;

/// Adds zero to every output, keeping count of what it sees.
struct ZeroAdapter<'a> {
    backbone: &'a Backbone,
    seen: RefCell<Vec<usize>>,
}

impl LayerHook for ZeroAdapter<'_> {
    fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> candle_core::Result<Tensor> {
        let info = &self.backbone.layers()[layer];
        let (features, of) = match info.kind {
            LayerKind::Linear => (input.dims().last().copied(), output.dims().last().copied()),
            LayerKind::Conv2d => (Some(input.dim(1)?), Some(output.dim(1)?)),
            LayerKind::Embedding => (Some(info.in_features), output.dims().last().copied()),
        };
        assert_eq!(
            (features, of),
            (Some(info.in_features), Some(info.out_features)),
            "{}",
            info.path
        );
        self.seen.borrow_mut().push(layer);
        &output + output.zeros_like()?
    }
}

/// Every kind of network there is.
fn networks() -> Vec<Backbone> {
    let mut networks = vec![open("small"), open("sharded"), lively(tiny())];
    networks.extend(tiny_unets());
    networks
}

#[test]
fn a_zero_adapter_leaves_every_bit_and_sees_each_layer_once() {
    for backbone in networks() {
        let case = Case::random(&backbone, 2);
        let hook = ZeroAdapter {
            backbone: &backbone,
            seen: RefCell::default(),
        };
        let pass = Pass {
            layers: Some(&hook),
            ..Pass::frozen()
        };
        assert_eq!(
            values(&case.run(&backbone, &pass)),
            values(&case.run(&backbone, &Pass::frozen()))
        );
        let mut seen = hook.seen.into_inner();
        seen.sort_unstable();
        assert_eq!(seen, (0..backbone.layers().len()).collect::<Vec<_>>());
    }
}

#[test]
fn repeated_positions_make_equal_tiles_equal_and_change_nothing_at_the_trained_size() {
    let stretched = lively(tiny());
    let repeated = lively(tiny()).with_positions(Positions::Repeat);
    let case = Case::random(&stretched, 2);
    assert_eq!(
        values(&case.run(&stretched, &Pass::frozen())),
        values(&case.run(&repeated, &Pass::frozen()))
    );
    let tile = case.tensor("latents");
    let canvas = Tensor::cat(&[tile, tile], 3).unwrap();
    let halves = |backbone: &Backbone| {
        let prediction = case.run_on(backbone, &canvas, &Pass::frozen()).unwrap();
        assert_eq!(prediction.dims(), canvas.dims());
        [0, 8].map(|at| prediction.narrow(3, at, 8).unwrap())
    };
    let [left, right] = halves(&repeated);
    check_close("the right tile", &right, &left, 1e-5);
    let [left, right] = halves(&stretched);
    assert!(relative(&right, &left) > 1e-3);
}

/// Doubles the output of one layer.
struct Double(usize);

impl LayerHook for Double {
    fn adapt(&self, layer: usize, _input: &Tensor, output: Tensor) -> candle_core::Result<Tensor> {
        if layer == self.0 {
            output * 2.0
        } else {
            Ok(output)
        }
    }
}

#[test]
fn doubling_a_layers_output_equals_doubling_its_parameters() {
    doubled(&lively(tiny()));
    doubled(&unet(config("sd1")));
}

fn doubled(backbone: &Backbone) {
    let case = Case::random(backbone, 2);
    for (index, layer) in backbone.layers().iter().enumerate() {
        let doubled: Overlay = backbone
            .parameters()
            .filter(|(name, _)| layer.parameters().iter().any(|(own, _)| own == name))
            .map(|(name, value)| (name.to_owned(), (value * 2.0).unwrap()))
            .collect();
        assert!(!doubled.is_empty(), "{}", layer.path);
        let by_overlay = Pass {
            overlay: Some(&doubled),
            ..Pass::frozen()
        };
        let hook = Double(index);
        let by_hook = Pass {
            layers: Some(&hook),
            ..Pass::frozen()
        };
        let (hooked, expected) = (
            case.run(backbone, &by_hook),
            case.run(backbone, &by_overlay),
        );
        check_close(&layer.path, &hooked, &expected, 1e-5);
        let moved = relative(&hooked, &case.run(backbone, &Pass::frozen()));
        assert!(
            moved > 1e-6,
            "{} does not change the prediction",
            layer.path
        );
    }
}

#[test]
fn what_trains_gets_a_gradient_and_what_is_frozen_gets_none() {
    for backbone in [open("small"), open("sharded"), lively(tiny())] {
        let case = Case::random(&backbone, 3);
        let (variables, mut overlay) = all_trainable(&backbone);
        let frozen_again = "transformer_blocks.1.attn1.to_v.weight";
        overlay.remove(frozen_again);
        let pass = Pass {
            overlay: Some(&overlay),
            ..Pass::frozen()
        };
        let loss = case
            .run(&backbone, &pass)
            .sqr()
            .unwrap()
            .mean_all()
            .unwrap();
        let gradients = loss.backward().unwrap();
        for (name, variable) in &variables {
            let gradient = gradients.get(variable);
            if name == frozen_again {
                assert!(gradient.is_none(), "{name} is not in the overlay");
                continue;
            }
            let largest = values(gradient.unwrap_or_else(|| panic!("{name} has no gradient")))
                .into_iter()
                .fold(0.0, |largest: f32, value| largest.max(value.abs()));
            // A key's bias adds the same to all scores of a query, which the softmax ignores: its true gradient is zero.
            assert!(
                largest > 0.0 || name.ends_with("to_k.bias"),
                "{name} has a zero gradient"
            );
        }
        for (name, frozen) in backbone.parameters() {
            assert!(
                gradients.get(frozen).is_none(),
                "the frozen {name} has a gradient"
            );
        }
    }
}

#[test]
fn an_overlay_of_one_parameter_leaves_the_frozen_model_callable() {
    let backbone = lively(tiny());
    let case = Case::random(&backbone, 1);
    let before = values(&case.run(&backbone, &Pass::frozen()));
    let name = "proj_out_2.weight";
    let frozen = backbone
        .parameters()
        .find(|(own, _)| *own == name)
        .unwrap()
        .1;
    let overlay = Overlay::from([(name.to_owned(), frozen.zeros_like().unwrap())]);
    backbone.check_overlay(&overlay).unwrap();
    let pass = Pass {
        overlay: Some(&overlay),
        ..Pass::frozen()
    };
    assert_ne!(values(&case.run(&backbone, &pass)), before);
    assert_eq!(values(&case.run(&backbone, &Pass::frozen())), before);
}

#[test]
fn each_sample_has_its_own_timestep_and_label() {
    let backbone = open("small");
    let case = Case::read("small/case.safetensors");
    let together = case.run(&backbone, &Pass::frozen());
    for sample in 0..3 {
        let alone = Case(
            case.0
                .iter()
                .filter(|(name, _)| {
                    ["latents", "timesteps", "class_labels"].contains(&name.as_str())
                })
                .map(|(name, value)| (name.clone(), value.narrow(0, sample, 1).unwrap()))
                .collect(),
        );
        let expected = together.narrow(0, sample, 1).unwrap();
        check_close(
            "sample",
            &alone.run(&backbone, &Pass::frozen()),
            &expected,
            1e-5,
        );
    }
}

#[test]
fn residuals_add_after_each_block_and_zeros_add_nothing() {
    let backbone = lively(tiny());
    let case = Case::random(&backbone, 2);
    let (tokens, width) = (16, backbone.info().width);
    let site = |value: f64| {
        (Tensor::ones((2, tokens, width), candle_core::DType::F32, &Device::Cpu).unwrap() * value)
            .unwrap()
    };
    let run = |residuals: &[Option<Tensor>]| {
        let pass = Pass {
            residuals: Some(residuals),
            ..Pass::frozen()
        };
        values(&case.run(&backbone, &pass))
    };
    let frozen = values(&case.run(&backbone, &Pass::frozen()));
    assert_eq!(run(&[Some(site(0.0)), Some(site(0.0)), None]), frozen);
    // Layer norm hides a constant shift of the last hidden state, so a ramp over features is used there.
    let ramp = Tensor::arange(0.0f32, width as f32, &Device::Cpu)
        .unwrap()
        .broadcast_as((2, tokens, width))
        .unwrap();
    for index in 0..backbone.info().residual_sites {
        let mut residuals = vec![None, Some(site(0.0)), None];
        residuals[index] = Some(ramp.clone());
        assert_ne!(run(&residuals), frozen, "site {index}");
    }
}

#[test]
fn the_front_gives_the_states_that_residuals_are_added_to() {
    let backbone = lively(tiny());
    let (case, other) = (Case::random(&backbone, 2), Case::random(&backbone, 2));
    let other = (other.tensor("latents") * 0.5).unwrap();
    let sites = backbone.info().residual_sites;
    let conditioning = Conditioning::classes(case.tensor("class_labels").clone());
    let front = |latents: &Tensor, hint: Option<&Tensor>| {
        let input = Input {
            latents,
            timesteps: case.tensor("timesteps"),
            conditioning: &conditioning,
        };
        backbone
            .run_front(sites, &input, hint, &Pass::frozen())
            .unwrap()
    };
    let (here, there) = (front(case.tensor("latents"), None), front(&other, None));
    let expected = case.run_on(&backbone, &other, &Pass::frozen()).unwrap();
    for site in 0..sites {
        let mut residuals = vec![None; sites];
        residuals[site] = Some((&there[site] - &here[site]).unwrap());
        let pass = Pass {
            residuals: Some(&residuals),
            ..Pass::frozen()
        };
        let found = case.run(&backbone, &pass);
        check_close(&format!("site {site}"), &found, &expected, 1e-5);
    }
    // The patch embedding is linear, so that the difference of two inputs is a hint that turns one into the other.
    let embed = |latents: &Tensor| {
        let weight = backbone
            .parameters()
            .find(|(name, _)| *name == "pos_embed.proj.weight")
            .unwrap()
            .1;
        let map = latents.conv2d(weight, 0, 2, 1, 1).unwrap();
        map.flatten_from(2).unwrap().transpose(1, 2).unwrap()
    };
    let hint = (embed(&other) - embed(case.tensor("latents"))).unwrap();
    let hinted = front(case.tensor("latents"), Some(&hint));
    for (found, expected) in hinted.iter().zip(&there) {
        check_close("hinted", found, expected, 1e-5);
    }
}

#[test]
fn the_front_is_half_of_the_blocks_or_as_many_as_asked_for() {
    let backbone = lively(tiny());
    let named = |sites: Option<usize>, name: &str| {
        let front = backbone.front(sites).unwrap();
        (front.features.len(), front.parameters.contains(name))
    };
    let last = "transformer_blocks.1.ff.net.2.bias";
    assert_eq!(named(None, last), (2, true));
    assert_eq!(named(Some(1), last), (1, false));
    assert!(!named(Some(3), "proj_out_1.weight").1);
    for asked in [0, 4] {
        let error = backbone.front(Some(asked)).unwrap_err().to_string();
        assert!(error.contains("3 residual sites"), "{error}");
    }
}

#[test]
fn a_fresh_model_predicts_zero_and_only_its_last_layers_start_to_learn() {
    let backbone = Backbone::init(tiny(), 3, &Device::Cpu).unwrap();
    let case = Case::random(&backbone, 2);
    assert!(
        values(&case.run(&backbone, &Pass::frozen()))
            .iter()
            .all(|&value| value == 0.0)
    );
    let weight = |name: &str| {
        backbone
            .parameters()
            .find(|(own, _)| *own == name)
            .unwrap()
            .1
            .clone()
    };
    let bound = (6.0f32 / (16 + 3 * 16) as f32).sqrt();
    let query = values(&weight("transformer_blocks.0.attn1.to_q.weight"));
    let largest = query
        .iter()
        .fold(0.0f32, |largest, value| largest.max(value.abs()));
    assert!(
        largest <= bound && largest > 0.9 * bound,
        "{largest} against {bound}"
    );
    let again = Backbone::init(tiny(), 3, &Device::Cpu).unwrap();
    for ((name, first), (_, second)) in backbone.parameters().zip(again.parameters()) {
        assert_eq!(
            values(first),
            values(second),
            "{name} depends on more than the seed"
        );
    }
}
