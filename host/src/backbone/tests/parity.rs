//! Forward and backward against diffusers' numbers.

use candle_core::{DType, Device, Var};

use super::*;

const FORWARD: f64 = 1e-4;
const BACKWARD: f64 = 1e-3;

#[track_caller]
fn check_forward(backbone: &str, case: &str) {
    let (backbone, case) = (open(backbone), Case::read(case));
    let prediction = case.run(&backbone, &Pass::frozen());
    check_close(
        "prediction",
        &prediction,
        case.tensor("prediction"),
        FORWARD,
    );
}

#[test]
fn forward_equals_diffusers_with_learned_variance_and_embedders_per_block() {
    check_forward("small", "small/case.safetensors");
}

#[test]
fn forward_equals_diffusers_for_half_precision_shards_and_affine_norms() {
    check_forward("sharded", "sharded/case.safetensors");
}

#[test]
fn forward_equals_diffusers_at_another_size_than_the_one_trained() {
    check_forward("sharded", "sharded/resized.safetensors");
}

#[test]
fn forward_equals_diffusers_for_an_old_pickled_folder_with_geglu() {
    check_forward("pickled", "pickled/case.safetensors");
}

#[test]
fn the_original_layout_predicts_what_diffusers_does() {
    check_forward("original/DiT.pt", "original/case.safetensors");
}

#[track_caller]
fn check_gradients(name: &str) {
    let (backbone, case) = (open(name), Case::read(&format!("{name}/case.safetensors")));
    let (variables, overlay) = all_trainable(&backbone);
    let latents = Var::from_tensor(case.tensor("latents")).unwrap();
    let pass = Pass {
        overlay: Some(&overlay),
        ..Pass::frozen()
    };
    let prediction = case.run_on(&backbone, &latents, &pass).unwrap();
    let loss = (prediction - case.tensor("target"))
        .unwrap()
        .sqr()
        .unwrap()
        .mean_all()
        .unwrap();
    check_close(
        "loss",
        &loss.reshape(1).unwrap(),
        case.tensor("loss"),
        FORWARD,
    );
    let gradients = loss.backward().unwrap();
    check_close(
        "latents",
        gradients.get(&latents).unwrap(),
        case.tensor("grad_latents"),
        BACKWARD,
    );
    let mut compared = 0;
    for (name, variable) in &variables {
        if let Some(expected) = case.0.get(&format!("grad.{name}")) {
            check_close(name, gradients.get(variable).unwrap(), expected, BACKWARD);
            compared += 1;
        }
    }
    let stored = case
        .0
        .keys()
        .filter(|name| name.starts_with("grad."))
        .count();
    assert!(
        compared == stored && compared >= 15,
        "compared {compared} of {stored} gradients"
    );
}

#[test]
fn gradients_equal_diffusers_with_learned_variance_and_embedders_per_block() {
    check_gradients("small");
}

#[test]
fn gradients_equal_diffusers_for_half_precision_shards_and_affine_norms() {
    check_gradients("sharded");
}

#[test]
fn half_precision_compute_stays_near_single_precision() {
    let case = Case::read("small/case.safetensors");
    for (dtype, tolerance) in [(DType::BF16, 5e-2), (DType::F16, 1e-2)] {
        let backbone = Backbone::open(&golden("small"), &Device::Cpu, dtype).unwrap();
        let prediction = case.run(&backbone, &Pass::frozen());
        assert_eq!(
            prediction.dtype(),
            DType::F32,
            "the prediction comes in the type of the latents"
        );
        check_close(
            &format!("{dtype:?}"),
            &prediction,
            case.tensor("prediction"),
            tolerance,
        );
    }
}
