//! The lora plugin through its real file: alone, and beside diff_tuning.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;
use integration_tests::{DIFF_TUNING, Lab, tensors, values};

/// The plugin's parameters in a run's adapter.
fn updates(lab: &Lab, run: &str) -> BTreeMap<String, Tensor> {
    tensors(
        &lab.path(run)
            .join("adapter/pytorch_lora_weights.safetensors"),
    )
}

#[test]
fn lora_trains_its_updates_and_nothing_else() {
    let lab = Lab::new();
    let run = lab.train("--plugin lora --set lora.rank=2 --steps 6 --set train.ema_decay=0 --set sample.count=2 --out run").done();
    assert!(run.stderr.contains("adapts 8 of"), "{}", run.told());
    let steps = lab.metrics("run");
    assert!(
        steps
            .iter()
            .all(|step| step["loss"].is_finite() && step["grad_norm"] > 0.0)
    );
    assert!(steps.iter().all(|step| step["time/lora.layer"] > 0.0));

    let updates = updates(&lab, "run");
    let names: Vec<&str> = updates.keys().map(String::as_str).collect();
    let expected: Vec<String> = (0..2)
        .flat_map(|block| {
            ["to_k", "to_out.0", "to_q", "to_v"]
                .map(|end| format!("transformer.transformer_blocks.{block}.attn1.{end}"))
        })
        .flat_map(|path| ["A", "B"].map(|part| format!("{path}.lora_{part}.weight")))
        .collect();
    assert_eq!(names, expected);
    for (name, tensor) in &updates {
        let shape = if name.contains("lora_A") {
            [2, 32]
        } else {
            [32, 2]
        };
        assert_eq!(tensor.dims(), shape, "{name}");
        assert!(
            values(tensor).iter().any(|value| *value != 0.0),
            "{name} has not moved"
        );
    }
    assert!(
        !lab.path("run/adapter/transformer").exists(),
        "nothing of the backbone trained"
    );
    let files = lab.files("run");
    assert_ne!(
        files[Path::new("samples/before.png")],
        files[Path::new("samples/after.png")]
    );
}

#[test]
fn before_its_first_update_lora_is_the_backbone() {
    let lab = Lab::new();
    let first_loss = |plugins: &str, out: &str| {
        lab.train(&format!(
            "{plugins} --steps 1 --set sample.count=0 --out {out}"
        ))
        .done();
        lab.metrics(out)[0]["loss"]
    };
    let plain = first_loss("--set train.trainable=bias", "plain");
    assert_eq!(
        first_loss("--plugin lora --set lora.alpha=3", "lora"),
        plain
    );
}

#[test]
fn lora_and_diff_tuning_train_together() {
    let lab = Lab::new();
    lab.train(&format!("--plugin lora {DIFF_TUNING} --steps 4 --out run"))
        .done();
    let steps = lab.metrics("run");
    for name in [
        "loss",
        "plugin/diff_tuning/loss_target",
        "plugin/diff_tuning/loss_memory",
        "time/lora.layer",
    ] {
        assert!(steps.iter().all(|step| step[name].is_finite()), "{name}");
    }
    assert_eq!(updates(&lab, "run").len(), 16);
    assert!(!lab.path("run/adapter/transformer").exists());
    let report = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(report.contains("lora") && report.contains("diff_tuning"));
}

#[test]
fn a_resumed_lora_run_equals_the_uninterrupted_one() {
    let lab = Lab::new();
    let run = |steps: u32, further: &str, out: &str| {
        lab.train(&format!("--plugin lora --set lora.rank=2 --steps {steps} --set sample.count=0 --out {out} {further}")).done();
    };
    run(6, "", "whole");
    run(3, "", "halves");
    run(6, "--resume", "halves");
    for (name, whole) in updates(&lab, "whole") {
        assert_eq!(
            values(&whole),
            values(&updates(&lab, "halves")[&name]),
            "{name}"
        );
    }
}

#[test]
fn targets_without_a_match_end_the_run_before_its_first_step_and_name_near_paths() {
    let lab = Lab::new();
    lab.train(r#"--plugin lora --set lora.targets=["**.to_qq"] --steps 1 --out run"#)
        .refused(
            3,
            &["`lora`", "`**.to_qq`", "transformer_blocks.0.attn1.to_q"],
        );
    lab.train(r#"--plugin lora --set lora.targets=["pos_embed.proj"] --steps 1 --out other"#)
        .refused(3, &["no linear layer"]);
    lab.host("plan --plugin lora --set lora.rank=0")
        .refused(2, &["rank"]);
}

#[test]
fn two_uses_of_the_plugin_have_their_own_settings_learning_rates_and_files() {
    let lab = Lab::new();
    lab.train(
        "--plugin lora:style --plugin lora:subject --set style.rank=2 --set subject.rank=3 --set subject.lr=0.01 --lr 0.001 \
         --steps 1 --set train.warmup_steps=0 --set train.ema_decay=0 --set train.clip=0 --set sample.count=0 --out run",
    )
    .done();
    let step = &lab.metrics("run")[0];
    let [style, subject] =
        ["style", "subject"].map(|name| step[&format!("plugin/{name}/grad_norm")]);
    assert!(style > 0.0 && subject > 0.0 && style != subject);
    let whole = (style * style + subject * subject).sqrt();
    assert!((whole - step["grad_norm"]).abs() < 1e-9 * whole);

    // AdamW's first step moves a weight by the learning rate, whatever its gradient.
    for (name, rank, lr) in [("style", 2, 0.001), ("subject", 3, 0.01)] {
        let file = format!("adapter/{name}/pytorch_lora_weights.safetensors");
        let weights = tensors(&lab.path("run").join(file));
        let b = &weights["transformer.transformer_blocks.0.attn1.to_q.lora_B.weight"];
        assert_eq!(b.dims(), [32, rank]);
        let moved: Vec<f32> = values(b).iter().map(|value| value.abs()).collect();
        let largest = moved.iter().copied().fold(0.0, f32::max);
        assert!((largest - lr).abs() < 0.02 * lr, "{largest} for {lr}");
    }
    lab.train("--plugin lora --set lora.lr=0 --out other")
        .refused(2, &["lora.lr must be a number above 0", "--set"]);
}
