//! A backbone with an autoencoder: trained on latents, drawn as pictures.

use candle_core::{Device, Tensor};
use integration_tests::{Lab, goldens, tensors, values};

/// A class-conditional DiT of 8x8 latents whose pictures are twice as high and wide.
pub(super) fn lab() -> Lab {
    let lab = Lab::new();
    for (from, to) in [("dit/small", "latent"), ("vae/plain", "latent/vae")] {
        copy(&goldens(from), &lab.path(to));
    }
    lab
}

pub(super) fn copy(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let place = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &place),
            false => drop(std::fs::copy(entry.path(), place).unwrap()),
        }
    }
}

#[test]
fn a_latent_model_trains_resumes_bit_for_bit_and_draws_pictures() {
    let lab = lab();
    let run = |steps: usize, further: &str| {
        let settings = "--backbone latent --data pictures --batch-size 2 --set sample.count=2 --set sample.steps=2";
        lab.host(&format!(
            "run {settings} --plugin lora --set lora.rank=2 --steps {steps} {further}"
        ))
        .done()
    };
    run(4, "--out whole");
    run(2, "--out halves");
    run(4, "--out halves --resume");
    let losses =
        |run: &str| -> Vec<f64> { lab.metrics(run).iter().map(|step| step["loss"]).collect() };
    assert_eq!(losses("whole"), losses("halves"));
    assert!(losses("whole").iter().all(|loss| loss.is_finite()));
    // Tiles are enlarged by whole factors; latents of 8 pixels would be of another size than pictures of 16.
    let report = lab.json("whole/report.json");
    assert_eq!(report["samples"][1]["tile"], 16, "{}", report["samples"]);
    let size = report["model"]["facts"].as_array().unwrap();
    assert!(
        size.iter()
            .any(|fact| fact[0] == "image size" && fact[1] == "16")
    );

    lab.host("export --run whole --out exported").done();
    let index = lab.json("exported/model_index.json");
    assert_eq!(index["vae"][1], "AutoencoderKL", "{index}");
    lab.host("run --backbone exported --data pictures --batch-size 2 --steps 1 --set sample.count=0 --out again")
        .done();

    lab.host("run --backbone latent --data pictures --set data.size=18 --steps 1 --out other")
        .refused(2, &["multiples of 4", "autoencoder's 2"]);
}

#[test]
fn both_halves_of_the_autoencoder_run_on_inputs_from_a_file() {
    let lab = lab();
    let case = goldens("vae/plain/case.safetensors").display().to_string();
    for (component, expected) in [("vae-encode", "mean"), ("vae-decode", "decoded")] {
        lab.host(&format!(
            "model forward --backbone latent --component {component} --inputs {case} --output out.safetensors"
        ))
        .done();
        let found = &tensors(&lab.path("out.safetensors"))["prediction"];
        let expected = &tensors(&goldens("vae/plain/case.safetensors"))[expected];
        assert_eq!(found.dims(), expected.dims());
        let pairs = values(found).into_iter().zip(values(expected));
        let worst = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 1e-4, "{component}: {worst}");
    }
    let odd = Tensor::zeros((1, 3, 9, 8), candle_core::DType::F32, &Device::Cpu).unwrap();
    let file = lab.path("odd.safetensors");
    candle_core::safetensors::save(&std::collections::HashMap::from([("images", odd)]), file)
        .unwrap();
    lab.host("model forward --backbone latent --component vae-encode --inputs odd.safetensors --output out.safetensors")
        .refused(2, &["odd.safetensors", "multiples of 2"]);
    lab.host(&format!(
        "model forward --backbone tiny --component vae-decode --inputs {case} --output out.safetensors"
    ))
    .refused(2, &["no autoencoder"]);
}
