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

/// Every way to change a layer, on linear layers and on the convolution of the patches.
const KINDS: [&str; 9] = [
    "--set lora.alpha=3",
    "--set lora.rslora=true --set lora.init=gaussian",
    "--set lora.dropout=0.3",
    "--set lora.dora=true",
    "--set lora.dora=true --set lora.dropout=0.3",
    "--set lora.kind=loha --set lora.rank=4",
    "--set lora.kind=loha --set lora.rank=4 --set lora.effective_conv=true",
    "--set lora.kind=lokr --set lora.rank=1 --set lora.decompose_both=true --set lora.effective_conv=true",
    "--set lora.kind=ia3",
];

/// The targets of those runs.
const EVERYWHERE: &str =
    r#"--set lora.targets=["pos_embed.proj","**.to_q","**.ff.net.2","proj_out_2"]"#;

#[test]
fn before_its_first_update_every_kind_is_the_backbone_to_the_bit() {
    let lab = Lab::new();
    let first_loss = |plugins: &str, out: &str| {
        lab.train(&format!(
            "{plugins} --steps 1 --set sample.count=0 --out {out}"
        ))
        .done();
        lab.metrics(out)[0]["loss"]
    };
    let plain = first_loss("--set train.trainable=bias", "plain");
    for (number, kind) in KINDS.iter().enumerate() {
        let loss = first_loss(
            &format!("--plugin lora {EVERYWHERE} {kind}"),
            &format!("kind{number}"),
        );
        assert_eq!(loss, plain, "{kind}");
        let listing = lab.path(&format!("kind{number}/plugins/lora/layers.txt"));
        let listing = std::fs::read_to_string(listing).unwrap();
        assert_eq!(listing.lines().count(), 6, "{listing}");
        assert!(
            listing.starts_with("pos_embed.proj [32, 3, 4, 4]: "),
            "{listing}"
        );
    }
}

#[test]
fn every_kind_trains_all_that_it_has_the_same_with_gradient_checkpointing() {
    let lab = Lab::new();
    for (number, kind) in KINDS.iter().enumerate() {
        let parameters = |further: &str, out: &str| {
            lab.train(&format!(
                "--plugin lora {EVERYWHERE} {kind} --steps 3 --set sample.count=0 --set train.weight_decay=0 {further} --out {out}"
            ))
            .done();
            tensors(&lab.path(&format!("{out}/checkpoints/step-3/parameters.safetensors")))
        };
        let kept = parameters("", &format!("kept{number}"));
        let again = parameters(
            "--set train.gradient_checkpointing=true",
            &format!("again{number}"),
        );
        assert_eq!(kept.len(), again.len());
        for (name, tensor) in &kept {
            assert_eq!(values(tensor), values(&again[name]), "{kind}: {name}");
            // Adam moves every number that ever had a gradient.
            let start = match name.as_str() {
                name if name.ends_with("ia3_l") => 1.0,
                _ => 0.0,
            };
            let moved = values(tensor)
                .iter()
                .filter(|value| **value != start)
                .count();
            assert_eq!(moved, tensor.elem_count(), "{kind}: {name}");
        }
    }
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
fn a_resumed_run_with_dropout_and_dora_equals_the_uninterrupted_one() {
    let lab = Lab::new();
    let run = |steps: u32, further: &str, out: &str| {
        lab.train(&format!(
            "--plugin lora --set lora.rank=2 --set lora.dropout=0.4 --set lora.dora=true --steps {steps} --set sample.count=0 --out {out} {further}"
        ))
        .done();
    };
    run(6, "", "whole");
    run(3, "", "halves");
    run(6, "--resume", "halves");
    assert_eq!(lab.checkpoint("whole", 6), lab.checkpoint("halves", 6));
}

/// Two uses of the plugin, each with settings of its own, in this order.
fn two(first: &str, second: &str, out: &str) -> String {
    format!(
        "--plugin lora:{first} --plugin lora:{second} --set style.rank=2 --set subject.rank=3 --set subject.alpha=6 \
         --set subject.targets=[\"**.to_v\",\"**.to_out.0\"] --steps 5 --set sample.count=0 --out {out}"
    )
}

#[test]
fn two_loras_train_side_by_side_under_their_own_names() {
    let lab = Lab::new();
    let run = lab.train(&two("style", "subject", "run")).done();
    assert!(
        run.stderr.contains("adapts 8 of") && run.stderr.contains("adapts 4 of"),
        "{}",
        run.told()
    );
    let saved = tensors(&lab.path("run/checkpoints/step-5/parameters.safetensors"));
    let path = "transformer_blocks.0.attn1.to_v.lora_A.weight";
    assert_eq!(saved[&format!("style.{path}")].dims(), [2, 32]);
    assert_eq!(saved[&format!("subject.{path}")].dims(), [3, 32]);
    // Both would write the same file, so each has a folder of its name.
    for (name, count) in [("style", 16), ("subject", 8)] {
        let file = format!("run/adapter/{name}/pytorch_lora_weights.safetensors");
        assert_eq!(tensors(&lab.path(&file)).len(), count);
    }
    assert_eq!(lab.files("run/adapter").len(), 2);
}

#[test]
fn the_order_of_two_loras_changes_nothing_but_rounding() {
    let lab = Lab::new();
    lab.train(&two("style", "subject", "one")).done();
    lab.train(&two("subject", "style", "other")).done();
    let losses =
        |run: &str| -> Vec<f64> { lab.metrics(run).iter().map(|step| step["loss"]).collect() };
    let (one, other) = (losses("one"), losses("other"));
    // At first both updates are zero, and the sums are the same to the bit.
    assert_eq!(one[0], other[0]);
    for (one, other) in one.iter().zip(&other) {
        assert!((one - other).abs() <= 1e-5 * one.abs(), "{one} and {other}");
    }
    let saved =
        |run: &str| tensors(&lab.path(&format!("{run}/checkpoints/step-5/parameters.safetensors")));
    assert_eq!(
        saved("one").keys().collect::<Vec<_>>(),
        saved("other").keys().collect::<Vec<_>>()
    );
}

#[test]
fn the_files_asked_for_are_written() {
    let lab = Lab::new();
    let run = |further: &str, out: &str| {
        lab.train(&format!(
            "--plugin lora --set lora.rank=2 {further} --steps 2 --set sample.count=0 --out {out}"
        ))
        .done();
    };
    run(
        r#"--set lora.dora=true --set lora.formats=["diffusers","peft","kohya"]"#,
        "all",
    );
    let files: Vec<String> = lab
        .files("all/adapter")
        .keys()
        .map(|file| file.display().to_string())
        .collect();
    assert_eq!(
        files,
        [
            "adapter_config.json",
            "adapter_model.safetensors",
            "kohya.safetensors",
            "pytorch_lora_weights.safetensors"
        ]
    );
    let read = |file: &str| tensors(&lab.path("all/adapter").join(file));
    let path = "transformer_blocks.1.attn1.to_out.0";
    let flat = path.replace('.', "_");
    let magnitude = values(
        &read("pytorch_lora_weights.safetensors")
            [&format!("transformer.{path}.lora_magnitude_vector")],
    );
    let peft = &read("adapter_model.safetensors")
        [&format!("base_model.model.{path}.lora_magnitude_vector")];
    let kohya = read("kohya.safetensors");
    let scale = &kohya[&format!("lora_unet_{flat}.dora_scale")];
    assert_eq!((values(peft), peft.dims()), (magnitude.clone(), &[32][..]));
    assert_eq!((values(scale), scale.dims()), (magnitude, &[32, 1][..]));
    assert_eq!(values(&kohya[&format!("lora_unet_{flat}.alpha")]), [2.0]);

    run("--set lora.kind=ia3 --set lora.rank=16", "ia3");
    assert_eq!(lab.files("ia3/adapter").len(), 2);
    assert_eq!(
        lab.json("ia3/adapter/adapter_config.json")["peft_type"],
        "IA3"
    );
}

#[test]
fn a_run_goes_on_from_the_files_of_another() {
    let lab = Lab::new();
    for (number, (kind, file)) in [
        ("--set lora.alpha=4", "pytorch_lora_weights.safetensors"),
        (
            "--set lora.rslora=true --set lora.dora=true",
            "kohya.safetensors",
        ),
        ("--set lora.kind=loha", "adapter_model.safetensors"),
        ("--set lora.kind=lokr", "kohya.safetensors"),
        (
            "--set lora.kind=ia3 --set lora.rank=16",
            "adapter_model.safetensors",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        let format = match file {
            "kohya.safetensors" => "kohya",
            "adapter_model.safetensors" => "peft",
            _ => "diffusers",
        };
        let settings = format!(
            "--plugin lora --set lora.rank=2 {kind} {EVERYWHERE} --set lora.formats={format} --set train.ema_decay=0 --set sample.count=0"
        );
        let (first, second) = (format!("first{number}"), format!("second{number}"));
        lab.train(&format!("{settings} --steps 3 --out {first}"))
            .done();
        let from = format!("{first}/adapter/{file}");
        let from = match format {
            "peft" => format!("{first}/adapter"),
            _ => from,
        };
        // A learning rate of nearly nothing leaves the parameters where they start.
        let run = lab
            .train(&format!(
                "{settings} --lr 1e-30 --steps 1 --set lora.from={from} --out {second}"
            ))
            .done();
        assert!(run.stderr.contains("6 layers go on from"), "{}", run.told());
        let saved = |run: &str, step: u64| {
            tensors(&lab.path(&format!(
                "{run}/checkpoints/step-{step}/parameters.safetensors"
            )))
        };
        let (then, now) = (saved(&first, 3), saved(&second, 1));
        assert_eq!(then.len(), now.len());
        for (name, tensor) in &then {
            assert_eq!(values(tensor), values(&now[name]), "{kind}: {name}");
        }
    }
}

#[test]
fn a_resumed_run_needs_the_file_no_more_that_it_began_from() {
    let lab = Lab::new();
    let lora = "--plugin lora --set lora.rank=2 --set sample.count=0";
    lab.train(&format!("{lora} --steps 2 --out first")).done();
    let from = "--set lora.from=first/adapter/pytorch_lora_weights.safetensors";
    lab.train(&format!("{lora} {from} --steps 4 --out whole"))
        .done();
    lab.train(&format!("{lora} {from} --steps 2 --out halves"))
        .done();
    std::fs::remove_dir_all(lab.path("first")).unwrap();
    lab.train(&format!("{lora} {from} --steps 4 --resume --out halves"))
        .done();
    assert_eq!(lab.checkpoint("whole", 4), lab.checkpoint("halves", 4));
}

#[test]
fn a_file_that_does_not_fit_the_settings_is_refused() {
    let lab = Lab::new();
    let lora = "--plugin lora --set sample.count=0 --overwrite --steps 1";
    lab.train(&format!("{lora} --set lora.rank=2 --out first"))
        .done();
    let refused = |further: &str, parts: &[&str]| {
        let from = "--set lora.from=first/adapter/pytorch_lora_weights.safetensors";
        lab.train(&format!("{lora} {from} {further} --out other"))
            .refused(3, parts);
    };
    refused("--set lora.rank=4", &["`lora`", "rank 2", "rank 4"]);
    refused(
        "--set lora.rank=2 --set lora.alpha=8",
        &["alpha 2", "alpha 8"],
    );
    refused("--set lora.rank=2 --set lora.dora=true", &["dora"]);
    refused(
        "--set lora.rank=2 --set lora.kind=loha",
        &["kind lora", "kind loha"],
    );
    refused(
        r#"--set lora.rank=2 --set lora.targets=["**.ff.net.2"]"#,
        &["8 layers", "none of them"],
    );
    lab.train(&format!(
        "{lora} --set lora.from=nowhere.safetensors --out other"
    ))
    .refused(3, &["nowhere.safetensors"]);
}

#[test]
fn dora_beside_trained_biases_and_scales_begins_at_the_backbone() {
    let lab = Lab::new();
    let losses = |further: &str, out: &str| -> Vec<f64> {
        lab.train(&format!(
            "{further} --steps 3 --set sample.count=0 --out {out}"
        ))
        .done();
        lab.metrics(out).iter().map(|step| step["loss"]).collect()
    };
    for trainable in ["bias", "diffit"] {
        let set = format!("--set train.trainable={trainable}");
        let plain = losses(&set, &format!("plain_{trainable}"));
        let dora = losses(
            &format!("{set} --plugin lora --set lora.dora=true"),
            &format!("dora_{trainable}"),
        );
        assert_eq!(plain[0], dora[0]);
        assert_ne!(plain[2], dora[2]);
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
        .done();
    lab.train(r#"--plugin lora --set lora.targets=["**.embedding_table"] --steps 1 --out table"#)
        .refused(3, &["no linear layer and no convolution"]);
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
