//! `host bench`: the losses of another framework on the same weights and inputs, and numbers that hold together.

use integration_tests::{Lab, goldens};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f64> {
    let list = value.as_array().unwrap();
    list.iter().map(|number| number.as_f64().unwrap()).collect()
}

/// `host bench` on the weights and inputs of the golden, as JSON.
fn measured(lab: &Lab, further: &str) -> Value {
    let golden = goldens("bench");
    lab.host(&format!(
        "bench --backbone {} --inputs {} --steps 3 --json {further}",
        golden.display(),
        golden.join("inputs.safetensors").display()
    ))
    .done()
    .json()
}

fn golden() -> Value {
    serde_json::from_slice(&std::fs::read(goldens("bench/losses.json")).unwrap()).unwrap()
}

#[test]
fn full_fine_tuning_repeats_the_losses_of_pytorch() {
    let golden = golden();
    let measured = measured(
        &Lab::new(),
        &format!("--set train.lr={} --threads 1", golden["lr"]),
    );
    let (ours, theirs) = (numbers(&measured["losses"]), numbers(&golden["losses"]));
    assert_eq!(ours.len(), theirs.len());
    for (step, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        let tolerance = if step == 0 { 1e-4 } else { 1e-3 };
        assert!(
            (ours - theirs).abs() < tolerance * theirs,
            "step {step}: {ours} and {theirs}"
        );
    }
    assert_eq!(measured["mode"], "full");
    assert_eq!(
        (&measured["batch"], &measured["size"], &measured["threads"]),
        (&2.into(), &8.into(), &1.into())
    );
    let inspection = Lab::new()
        .host(&format!(
            "model inspect {} --json",
            goldens("bench").display()
        ))
        .done()
        .json();
    assert_eq!(measured["trainable"], inspection["info"]["parameters"]);
}

#[test]
fn lora_begins_at_the_loss_of_the_backbone_and_then_leaves_it() {
    let lab = Lab::new();
    let golden = golden();
    let lora = measured(
        &lab,
        &format!(
            "--plugin lora --set lora.rank=4 --set train.lr={}",
            golden["lr"]
        ),
    );
    let (lora_losses, full_losses) = (numbers(&lora["losses"]), numbers(&golden["losses"]));
    assert!((lora_losses[0] - full_losses[0]).abs() < 1e-4 * full_losses[0]);
    assert!(
        (lora_losses[3] - full_losses[3]).abs() > 1e-3 * full_losses[3],
        "only the update trains"
    );
    assert_eq!(lora["mode"], "lora");
    // Four square projections of width 16 in each of two blocks.
    assert_eq!(lora["trainable"], 2 * 4 * (4 * 16 + 16 * 4));
    let hook = lora["plugins_ms"]["lora"].as_f64().unwrap();
    assert!(
        hook > 0.0 && lora["parts_ms"]["lora.layer"].as_f64().unwrap() == hook,
        "{lora}"
    );
    let boundary = lora["boundary_ms"].as_f64().unwrap();
    assert!(boundary > 0.0 && boundary < hook, "{boundary} of {hook}");

    let both = measured(&lab, "--plugin lora --full");
    assert_eq!(both["mode"], "full+lora");
    assert!(both["trainable"].as_u64().unwrap() > lora["trainable"].as_u64().unwrap());
}

#[test]
fn the_parts_add_up_to_the_step_and_every_number_is_there() {
    let lab = Lab::new();
    let measured = lab
        .host("bench --batch-size 2 --size 8 --steps 4 --backbone tiny --json")
        .done()
        .json();
    for name in [
        "import_s",
        "build_s",
        "first_step_s",
        "step_ms_median",
        "step_ms_min",
        "step_cpu_ms",
        "peak_rss_mb",
    ] {
        let value = measured[name]
            .as_f64()
            .unwrap_or_else(|| panic!("no {name} in {measured}"));
        assert!(value >= 0.0 && value.is_finite(), "{name} is {value}");
    }
    assert_eq!(measured["model"], "tiny");
    assert_eq!(measured["losses"].as_array().unwrap().len(), 5);
    let (median, least) = (
        measured["step_ms_median"].as_f64().unwrap(),
        measured["step_ms_min"].as_f64().unwrap(),
    );
    assert!(least <= median);
    let parts: f64 = measured["parts_ms"]
        .as_object()
        .unwrap()
        .values()
        .map(|part| part.as_f64().unwrap())
        .sum();
    assert!(
        parts >= 0.9 * least,
        "the parts are {parts} ms of steps of at least {least} ms"
    );
    let linear = measured["ops"]
        .as_array()
        .unwrap()
        .iter()
        .find(|op| op["name"] == "linear")
        .unwrap();
    assert!(
        linear["calls"].as_f64().unwrap() >= 12.0 && linear["backward_ms"].as_f64().unwrap() > 0.0,
        "{linear}"
    );

    let text = lab
        .host("bench --batch-size 1 --steps 1 --backbone tiny")
        .done()
        .stdout;
    for part in [
        "first step",
        "peak memory",
        "backward",
        "operation",
        "linear",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    assert!(
        !lab.path("runs").exists(),
        "a benchmark leaves nothing behind"
    );
}

#[test]
fn the_same_inputs_are_drawn_again_and_threads_change_no_loss() {
    let lab = Lab::new();
    let losses = |threads: u32| {
        lab.host(&format!(
            "bench --backbone tiny --steps 2 --threads {threads} --json"
        ))
        .done()
        .json()["losses"]
            .clone()
    };
    assert_eq!(losses(1), losses(2));
}

#[cfg(target_os = "linux")]
#[test]
fn no_pool_has_more_threads_than_asked_for() {
    let lab = Lab::new();
    // Large enough for every pool to start, candle's for elementwise operations included.
    let line = [
        "bench",
        "--batch-size",
        "32",
        "--size",
        "32",
        "--steps",
        "1",
        "--threads",
        "1",
        "--set",
        "train.trainable=bias",
        "--json",
    ];
    let output = lab
        .command()
        .args(line)
        .env("CANDLE_NUM_THREADS", "7")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let measured: Value = serde_json::from_slice(&output.stdout).unwrap();
    // The main thread, which waits while the one of a pool works.
    assert!(
        measured["process_threads"].as_u64().unwrap() <= 2,
        "{measured}"
    );
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let lab = Lab::new();
    let bench =
        |backbone: &str, further: &str| lab.host(&format!("bench --backbone {backbone} {further}"));
    let golden = goldens("bench");
    let (backbone, inputs) = (
        golden.display().to_string(),
        golden.join("inputs.safetensors").display().to_string(),
    );
    bench(&backbone, &format!("--inputs {inputs} --steps 4")).refused(
        2,
        &["inputs.safetensors", "4 forward passes", "5 are asked for"],
    );
    bench("tiny", &format!("--inputs {inputs} --steps 1"))
        .refused(2, &["inputs.safetensors", "4 channels", "takes 3"]);
    bench(&backbone, "--inputs none.safetensors").refused(2, &["none.safetensors"]);
    bench("tiny", "--size 9").refused(2, &["patch size 4", "9 a side", "--size"]);
    assert_eq!(
        bench("tiny", &format!("--inputs {inputs} --batch-size 2")).code,
        Some(2)
    );
}
