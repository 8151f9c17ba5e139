//! What plugins leave in `adapter/`: files in the formats that they declare.

use std::path::Path;

use integration_tests::{Lab, tensors, values};

/// A run in which the probe trains one number and nothing else does.
const GAIN: &str =
    "--plugin probe --set probe.gain=true --set sample.count=0 --steps 4 --lr 0.05 --out run";

/// Every exclusive slot that the probe takes.
const EXCLUSIVE: &str =
    r#"["timesteps","noise","noise_mask","denoiser_input","objective","output"]"#;

#[test]
fn a_declared_file_holds_the_averaged_parameters_under_the_formats_names() {
    let lab = Lab::new();
    let declared = "--set probe.adapter=lora/adapter_model.safetensors --set train.ema_decay=0.9";
    lab.train(&format!("{GAIN} {declared}")).done();
    let files = lab.files("run/adapter");
    let names: Vec<&Path> = files.keys().map(|name| name.as_path()).collect();
    assert_eq!(
        names,
        ["lora/adapter_model.safetensors", "probe_config.json"].map(Path::new)
    );
    assert_eq!(files[Path::new("probe_config.json")], b"{\"alpha\": 4}\n");

    let file = lab.path("run/adapter/lora/adapter_model.safetensors");
    let written = tensors(&file);
    let keys: Vec<&str> = written.keys().map(String::as_str).collect();
    assert_eq!(keys, ["model.alpha", "model.gain"]);
    assert_eq!(values(&written["model.alpha"]), [4.0]);
    let saved = |name: &str| {
        let file = lab.path(&format!("run/checkpoints/step-4/{name}.safetensors"));
        values(&tensors(&file)["probe.gain"])
    };
    assert_eq!(values(&written["model.gain"]), saved("ema"));
    assert_ne!(saved("ema"), saved("parameters"));
    assert_ne!(saved("ema"), [1.0], "it has trained");

    let bytes = std::fs::read(file).unwrap();
    let header = String::from_utf8_lossy(&bytes).into_owned();
    assert!(
        header.contains(r#""__metadata__":{"format":"pt","probe":"{}"}"#),
        "{header}"
    );
}

#[test]
fn parameters_that_no_plugin_declares_are_exported_by_their_own_names() {
    let lab = Lab::new();
    lab.train(GAIN).done();
    let file = lab.path("run/adapter/probe.safetensors");
    let saved = lab.path("run/checkpoints/step-4/ema.safetensors");
    assert_eq!(
        values(&tensors(&file)["gain"]),
        values(&tensors(&saved)["probe.gain"])
    );
    assert_eq!(lab.files("run/adapter").len(), 1);
}

#[test]
fn two_plugins_that_declare_one_file_get_folders_of_their_own() {
    let lab = Lab::new();
    let run = format!(
        "run --backbone tiny --data pictures --batch-size 2 --steps 2 --set sample.count=0 --set data.workers=1 --threads 1 \
         --set probe.gain=true --set probe.adapter=a.safetensors --set other.gain=true --set other.adapter=a.safetensors \
         --set other.without={EXCLUSIVE} --out run"
    );
    let mut arguments: Vec<&str> = run.split_whitespace().collect();
    arguments.extend(["--plugin", "probe", "--plugin", "probe as other"]);
    lab.host_with(&arguments).done();
    let read = |plugin: &str| {
        let file = lab.path(&format!("run/adapter/{plugin}/a.safetensors"));
        values(&tensors(&file)["model.gain"])
    };
    let saved = tensors(&lab.path("run/checkpoints/step-2/ema.safetensors"));
    assert_eq!(read("probe"), values(&saved["probe.gain"]));
    assert_eq!(read("other"), values(&saved["other.gain"]));
}

#[test]
fn a_file_that_would_not_be_true_is_refused_before_the_first_step() {
    let lab = Lab::new();
    let refused = |settings: &str, parts: &[&str]| {
        lab.train(&format!("{GAIN} --overwrite {settings}"))
            .refused(3, parts);
        assert!(!lab.path("run/adapter").exists());
    };
    refused(
        "--set probe.adapter=a.safetensors --set probe.at=adapter --set probe.how=value",
        &[
            "`probe`",
            "`model.gain`",
            "`a.safetensors`",
            "computed from parameters",
        ],
    );
    for (file, problem) in [
        ("a.bin", "must end in .safetensors"),
        ("../a.safetensors", "no path inside"),
        ("/a.safetensors", "no path inside"),
        ("transformer/a.safetensors", "a folder that the host writes"),
    ] {
        refused(
            &format!("--set probe.adapter={file}"),
            &["`probe`", file, problem],
        );
    }
}
