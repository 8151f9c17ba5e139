//! Against diffusers' numbers (`tests/goldens/vae.py`), forward and backward.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor, Var};

use super::{Vae, VaeConfig};
use crate::ops::autograd::Recording;

fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/goldens/vae")
        .join(name)
}

fn case(name: &str) -> (Vae, HashMap<String, Tensor>) {
    let device = Device::Cpu;
    let file = folder(name).join("case.safetensors");
    let tensors = candle_core::safetensors::load(file, &device).unwrap();
    (Vae::open(&folder(name), &device).unwrap(), tensors)
}

/// The largest difference as a share of the largest expected value.
fn difference(found: &Tensor, expected: &Tensor) -> f32 {
    assert_eq!(found.dims(), expected.dims());
    let largest = |tensor: &Tensor| tensor.abs().unwrap().max_all().unwrap();
    let scalar = |tensor: Tensor| tensor.to_scalar::<f32>().unwrap();
    scalar(largest(&(found - expected).unwrap())) / scalar(largest(expected))
}

#[track_caller]
fn check(name: &str, found: &Tensor, expected: &Tensor, tolerance: f32) {
    let difference = difference(found, expected);
    assert!(difference < tolerance, "{name}: {difference}");
}

#[test]
fn both_halves_equal_diffusers_forward_and_backward() {
    for name in ["plain", "old"] {
        let (vae, case) = case(name);
        let images = Var::from_tensor(&case["images"]).unwrap();
        let recording = Recording::start();
        let posterior = vae.posterior(images.as_tensor()).unwrap();
        check("mean", &posterior.mean, &case["mean"], 1e-4);
        check("std", &posterior.std, &case["std"], 1e-4);
        let weighted = (&posterior.mean * &case["weight_mean"]).unwrap();
        let loss = (weighted.sum_all().unwrap() + posterior.std.sum_all().unwrap()).unwrap();
        let mut gradients = recording.backward(&loss).unwrap();
        let gradient = gradients.remove(images.as_tensor()).unwrap();
        check("images", &gradient, &case["grad_images"], 1e-3);

        let latents = Var::from_tensor(&case["latents"]).unwrap();
        let recording = Recording::start();
        let decoded = vae.decode_raw(latents.as_tensor()).unwrap();
        check("decoded", &decoded, &case["decoded"], 1e-4);
        let loss = (decoded * &case["weight_decoded"])
            .unwrap()
            .sum_all()
            .unwrap();
        let mut gradients = recording.backward(&loss).unwrap();
        let gradient = gradients.remove(latents.as_tensor()).unwrap();
        check("latents", &gradient, &case["grad_latents"], 1e-3);
    }
}

#[test]
fn scaling_and_shifting_are_undone_by_decoding() {
    let (vae, case) = case("old");
    let scaled = vae.scaled(&case["latents"]).unwrap();
    let by_hand = ((&case["latents"] - 0.25).unwrap() * 1.5).unwrap();
    check("scaled", &scaled, &by_hand, 1e-6);
    check(
        "decoded",
        &vae.decode(&scaled).unwrap(),
        &case["decoded"],
        1e-4,
    );
}

#[test]
fn what_does_not_fit_is_refused_in_words() {
    let (vae, case) = case("old");
    let odd = case["images"].narrow(3, 0, 22).unwrap();
    let error = vae.posterior(&odd).unwrap_err().to_string();
    assert!(error.contains("multiples of 4"), "{error}");
    let few = case["latents"].narrow(1, 0, 4).unwrap();
    let error = vae.decode(&few).unwrap_err().to_string();
    assert!(error.contains("6 channels"), "{error}");

    let text = std::fs::read_to_string(folder("old").join("config.json")).unwrap();
    for (from, to, told) in [
        ("AutoencoderKL", "VQModel", "VQModel"),
        (
            "\"UpDecoderBlock2D\"",
            "\"AttnUpDecoderBlock2D\"",
            "AttnUpDecoderBlock2D",
        ),
        ("\"silu\"", "\"gelu\"", "gelu"),
        (
            "\"norm_num_groups\": 2",
            "\"norm_num_groups\": 3",
            "3 groups",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = text.replace(from, to);
        let error = VaeConfig::from_json(&changed, "config.json").unwrap_err();
        assert!(error.to_string().contains(told), "{error}");
    }
}

#[test]
fn weights_of_another_configuration_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = std::fs::read_to_string(folder("plain").join("config.json")).unwrap();
    let weights = "diffusion_pytorch_model.safetensors";
    std::fs::copy(folder("plain").join(weights), dir.path().join(weights)).unwrap();
    let opened = |text: String| {
        std::fs::write(dir.path().join("config.json"), text).unwrap();
        Vae::open(dir.path(), &Device::Cpu).unwrap_err().to_string()
    };
    let deeper = text.replace("\"layers_per_block\": 1", "\"layers_per_block\": 2");
    assert_ne!(deeper, text);
    let error = opened(deeper);
    assert!(
        error.contains("missing") && error.contains("resnets.1"),
        "{error}"
    );
    let without = text.replace("\"use_quant_conv\": true", "\"use_quant_conv\": false");
    assert_ne!(without, text);
    let error = opened(without);
    assert!(
        error.contains("unexpected") && error.contains("quant_conv"),
        "{error}"
    );
}
