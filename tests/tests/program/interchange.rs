//! Adapters and exported runs: what goes out comes back in, and what is merged predicts what it did beside the network.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use integration_tests::{Lab, goldens, tensors, values};

/// A run of lora that has moved far from the backbone.
const LORA: &str = "--plugin lora --set lora.rank=2 --set lora.alpha=3 --lr 0.05 --steps 6 --set train.ema_decay=0.5 --set sample.count=0";

/// Writes inputs for the tiny backbone to `in.safetensors`.
fn inputs(lab: &Lab) {
    let numbers = |count: usize| (0..count).map(|i| ((i * 37 % 101) as f32 / 50.0) - 1.0);
    let latents: Vec<f32> = numbers(2 * 3 * 8 * 8).collect();
    let tensors = std::collections::HashMap::from([
        (
            "latents",
            Tensor::from_vec(latents, (2, 3, 8, 8), &Device::Cpu).unwrap(),
        ),
        (
            "timesteps",
            Tensor::new(&[100u32, 700], &Device::Cpu).unwrap(),
        ),
        (
            "class_labels",
            Tensor::new(&[0u32, 2], &Device::Cpu).unwrap(),
        ),
    ]);
    candle_core::safetensors::save(&tensors, lab.path("in.safetensors")).unwrap();
}

/// The prediction of a backbone, `--adapter` and other flags behind its path.
#[track_caller]
fn predict(lab: &Lab, backbone: &str) -> Vec<f32> {
    lab.host(&format!(
        "model forward --backbone {backbone} --inputs in.safetensors --output out.safetensors"
    ))
    .done();
    values(&tensors(&lab.path("out.safetensors"))["prediction"])
}

fn difference(one: &[f32], two: &[f32]) -> f32 {
    assert_eq!(one.len(), two.len());
    one.iter()
        .zip(two)
        .map(|(one, two)| (one - two).abs())
        .fold(0.0, f32::max)
}

#[test]
fn an_adapter_of_another_program_is_merged_and_told() {
    let lab = Lab::new();
    let small = goldens("dit/small");
    let (adapter, inputs) = (goldens("adapters/lora"), small.join("case.safetensors"));
    let expected = tensors(&goldens("adapters/predictions.safetensors"));
    for (scale, name) in [("", "lora"), ("=0.5", "lora@0.5")] {
        let said = lab
            .host(&format!(
                "model forward --backbone {} --adapter {}{scale} --inputs {} --output out.safetensors",
                small.display(),
                adapter.display(),
                inputs.display()
            ))
            .done();
        assert!(
            said.stderr
                .contains("lora for 9 layers, 18 of its keys fit"),
            "{}",
            said.stderr
        );
        let found = values(&tensors(&lab.path("out.safetensors"))["prediction"]);
        assert!(
            difference(&found, &values(&expected[name])) < 1e-4,
            "{name}"
        );
    }
    let (small, adapter) = (small.display(), adapter.display());
    let told = lab
        .host(&format!("model inspect {small} --adapter {adapter} --json"))
        .done()
        .json();
    assert_eq!(told["adapters"][0]["matched"], 18);
    // Its first layer takes patches of another size.
    let other = goldens("adapters/kohya_lora.safetensors");
    lab.host(&format!(
        "plan --backbone tiny --adapter {}",
        other.display()
    ))
    .refused(
        2,
        &["pos_embed.proj.lora_A", "[4, 4, 2, 2]", "[32, 3, 4, 4]"],
    );
    lab.host("plan --backbone tiny --adapter nowhere")
        .refused(2, &["no adapter at", "nowhere"]);
}

#[test]
fn a_run_merged_into_a_pipeline_predicts_what_its_adapter_does() {
    let lab = Lab::new();
    inputs(&lab);
    lab.train(&format!("{LORA} --out run")).done();
    let plain = predict(&lab, "tiny");
    let beside = predict(&lab, "tiny --adapter run");
    assert!(difference(&plain, &beside) > 1e-2, "it has trained");

    lab.host("export --run run --out merged").done();
    assert!(difference(&predict(&lab, "merged"), &beside) < 1e-5);
    let index = lab.json("merged/model_index.json");
    assert_eq!(index["_class_name"], "DiTPipeline");
    assert_eq!(index["transformer"][1], "DiTTransformer2DModel");
    assert_eq!(index["vae"], serde_json::json!([null, null]));
    assert_eq!(index["scheduler"][0], "diffusers");
    assert!(lab.path("merged/scheduler/scheduler_config.json").is_file());
    assert!(
        lab.path("tiny/transformer/config.json").is_file(),
        "the source is as it was"
    );

    lab.host("export --run run --out merged")
        .refused(2, &["merged exists already", "--overwrite"]);
    lab.host("export --run run --out . --overwrite")
        .refused(2, &["holds the run itself"]);
    lab.host("export --run run --out merged --overwrite --no-ema")
        .done();
    let raw = predict(&lab, "merged");
    assert!(
        difference(&raw, &beside) > 1e-4,
        "the averages are not the last values"
    );
    lab.host("export --run run --out halves --dtype f16").done();
    let halves = predict(&lab, "halves");
    assert!(difference(&halves, &beside) < 2e-2 && difference(&halves, &beside) > 0.0);
    let weights = lab.path("halves/transformer/diffusion_pytorch_model.safetensors");
    assert!(
        tensors(&weights)
            .values()
            .all(|tensor| tensor.dtype() == DType::F16)
    );
}

#[test]
fn an_adapter_rewritten_in_another_format_means_the_same() {
    let lab = Lab::new();
    inputs(&lab);
    // The table's embedders are shared by all blocks here, and each block has its own in the files.
    let targets = r#"--set lora.targets=["**.to_q","**.linear_1"]"#;
    lab.train(&format!("{LORA} {targets} --out run")).done();
    let beside = predict(&lab, "tiny --adapter run");
    for (format, file) in [
        ("peft", "adapter_model.safetensors"),
        ("kohya", "adapter.safetensors"),
        ("diffusers", "pytorch_lora_weights.safetensors"),
    ] {
        let told = lab
            .host(&format!(
                "export --run run --format {format} --out {format} --json"
            ))
            .done()
            .json();
        assert_eq!(told["exported"]["step"], 6);
        let found = predict(&lab, &format!("tiny --adapter {format}"));
        assert!(difference(&found, &beside) < 1e-6, "{format}");
        assert_eq!(
            tensors(&lab.path(&format!("{format}/{file}"))).len(),
            if format == "kohya" { 12 } else { 8 }
        );
    }
    assert_eq!(lab.json("peft/adapter_config.json")["lora_alpha"], 3.0);
    lab.host("export --run run --out merged").done();
    assert!(difference(&predict(&lab, "merged"), &beside) < 1e-5);
}

#[test]
fn trained_parameters_of_the_backbone_are_exported_and_what_merges_nowhere_is_refused() {
    let lab = Lab::new();
    inputs(&lab);
    lab.train("--set train.trainable=diffit --lr 0.05 --steps 4 --set sample.count=0 --out run")
        .done();
    lab.host("export --run run --out merged").done();
    let merged = predict(&lab, "merged");
    assert!(difference(&merged, &predict(&lab, "run/adapter")) < 1e-6);
    assert!(difference(&merged, &predict(&lab, "tiny")) > 1e-3);

    lab.train("--plugin probe --set probe.gain=true --set sample.count=0 --steps 2 --out gain")
        .done();
    lab.host("export --run gain --out none")
        .refused(2, &["nothing of this run merges", "probe.safetensors"]);
    lab.host("export --run gain --out none --format peft")
        .refused(
            2,
            &["no adapter to write", "no plugin of it declares a file"],
        );
    assert!(!lab.path("none").exists());
    lab.host("export --run pictures --out none")
        .refused(2, &["pictures is no run folder"]);
}

#[test]
fn a_run_on_an_adapter_goes_on_from_it_and_only_from_it() {
    let lab = Lab::new();
    inputs(&lab);
    lab.train(&format!("{LORA} --out first")).done();
    lab.copy("first/adapter", "base");
    let second = "--adapter base=0.5 --set lora.targets=[\"**.to_q\"]";
    let plan = lab
        .host(&format!(
            "plan --backbone tiny --plugin lora {second} --json"
        ))
        .done()
        .json();
    assert_eq!(plan["adapters"][0]["scale"], 0.5);
    assert_eq!(plan["adapters"][0]["unmatched"], serde_json::json!([]));
    lab.train(&format!("{LORA} {second} --checkpoint-every 3 --out run"))
        .done();
    let stored = std::fs::read_to_string(lab.path("run/run.toml")).unwrap();
    assert!(
        stored.contains("[[adapter]]") && stored.contains("sha256"),
        "{stored}"
    );
    let report = lab.json("run/report.json");
    let facts = report["model"]["facts"].as_array().unwrap();
    let told = facts.iter().find(|fact| fact[0] == "adapter").unwrap();
    let told = told[1].as_str().unwrap();
    assert!(told.contains("base") && told.contains("keys fit"), "{told}");

    let both = predict(&lab, "tiny --adapter base=0.5 --adapter run");
    lab.host("export --run run --out merged").done();
    assert!(difference(&predict(&lab, "merged"), &both) < 1e-5);
    lab.host("sample --run run --count 1 --steps 2 --out a.png")
        .done();

    let resume = "run --resume --out run --threads 1 --steps 8";
    lab.host(&format!("{resume} --adapter base=0.7"))
        .refused(2, &["adapter was a file of hash", "0.5", "0.7"]);
    let file = lab.path("base/pytorch_lora_weights.safetensors");
    std::fs::rename(&file, lab.path("kept")).unwrap();
    std::fs::write(
        &file,
        std::fs::read(goldens("adapters/halves.safetensors")).unwrap(),
    )
    .unwrap();
    lab.host(resume).refused(2, &["has changed", "SHA-256"]);
    lab.host("sample --run run --count 1 --steps 2 --out b.png")
        .refused(2, &["has changed"]);
    std::fs::rename(lab.path("kept"), &file).unwrap();
    lab.host(resume).done();
    assert!(Path::new(&lab.path("run/checkpoints/step-8")).is_dir());
}
