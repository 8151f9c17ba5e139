//! `host run` from its first line to the adapter it leaves.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use integration_tests::{DIFF_TUNING, Lab, picture, tensors, third_party, values};

/// The mean of a number over a run.
#[track_caller]
fn mean(steps: &[BTreeMap<String, f64>], name: &str) -> f64 {
    steps.iter().map(|step| step[name]).sum::<f64>() / steps.len() as f64
}

fn check_whole_run(mode: &str) -> (Lab, Vec<BTreeMap<String, f64>>) {
    let lab = Lab::new();
    lab.train(&format!(
        "{DIFF_TUNING} --set diff_tuning.mode={mode} --steps 20 --out run"
    ))
    .done();
    let steps = lab.metrics("run");
    let numbers: Vec<f64> = steps.iter().map(|step| step["step"]).collect();
    assert_eq!(numbers, (1..=20).map(f64::from).collect::<Vec<_>>());
    for name in ["loss", "lr", "grad_norm", "step_ms"] {
        assert!(
            steps.iter().all(|step| step[name].is_finite()),
            "{name} in {mode}"
        );
    }
    for name in ["loss_target", "loss_memory", "t_target", "t_memory"] {
        let name = format!("plugin/diff_tuning/{name}");
        assert!(
            steps.iter().all(|step| step[&name].is_finite()),
            "{name} in {mode}"
        );
    }
    for name in ["target", "before", "after"] {
        let png = std::fs::read(lab.path(&format!("run/samples/{name}.png"))).unwrap();
        let picture = image::load_from_memory(&png).unwrap();
        assert!(
            picture.width() >= 16 && picture.height() >= 8,
            "{name}: two 8x8 pictures do not fit in it"
        );
    }
    let files = lab.files("run");
    assert_ne!(
        files[Path::new("samples/before.png")],
        files[Path::new("samples/after.png")]
    );
    let report = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    for part in ["diff_tuning", "samples/after.png", "diff_tuning.memory=4"] {
        let shown = report.contains(part)
            || part.starts_with("samples") && report.contains("data:image/png;base64,");
        assert!(shown, "{part} is not in the report");
    }
    assert_eq!(lab.checkpoints("run"), [20]);
    (lab, steps)
}

#[test]
fn diff_tuning_trains_through_its_file_and_draws_targets_nearer_the_noise() {
    let (lab, steps) = check_whole_run("sampling");
    let (target, memory) = (
        mean(&steps, "plugin/diff_tuning/t_target"),
        mean(&steps, "plugin/diff_tuning/t_memory"),
    );
    // Their expectations are 2/3 and 1/3 of 1000.
    assert!(target > memory + 150.0, "{target} against {memory}");

    lab.train("--backbone run/adapter --steps 1 --out again")
        .done();
    let (trained, again) = ("run/adapter/transformer", "tiny/transformer");
    assert_eq!(
        lab.files(trained).keys().collect::<Vec<_>>(),
        lab.files(again).keys().collect::<Vec<_>>()
    );
}

#[test]
fn diff_tuning_trains_in_its_weighting_mode() {
    check_whole_run("weighting");
}

#[test]
fn the_memory_bank_is_drawn_once_for_each_of_its_settings_and_backbones() {
    let lab = Lab::new();
    let train = |further: &str, out: &str| {
        lab.train(&format!(
            "{DIFF_TUNING} --steps 1 --set sample.count=0 --out {out} {further}"
        ))
        .done()
    };
    let banks = || {
        let mut banks: Vec<_> = std::fs::read_dir(lab.path("cache/diff_tuning"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        banks.sort();
        banks
    };
    let first = train("--lr 0.05 --set train.ema_decay=0", "first");
    assert!(
        !first.stderr.contains("reusing the memory bank"),
        "{}",
        first.told()
    );
    let bank = lab.files("cache/diff_tuning");
    assert_eq!(bank.len(), 4, "{:?}", bank.keys());
    assert!(
        bank.keys()
            .all(|file| file.extension().is_some_and(|extension| extension == "png"))
    );
    let changed = std::fs::metadata(banks()[0].join("000000.png"))
        .unwrap()
        .modified()
        .unwrap();

    // How a run trains is nothing to its bank.
    let second = train(
        "--lr 0.01 --set diff_tuning.ratio=0.25 --set diff_tuning.memory_batch=3",
        "second",
    );
    assert!(
        second.stderr.contains("reusing the memory bank"),
        "{}",
        second.told()
    );
    assert_eq!(lab.files("cache/diff_tuning"), bank);
    assert_eq!(
        std::fs::metadata(banks()[0].join("000000.png"))
            .unwrap()
            .modified()
            .unwrap(),
        changed
    );

    for (number, other) in [
        "diff_tuning.memory_seed=7",
        "diff_tuning.memory=5",
        "diff_tuning.memory_guidance=4",
    ]
    .iter()
    .enumerate()
    {
        let run = train(&format!("--set {other}"), &format!("other{number}"));
        assert!(
            !run.stderr.contains("reusing the memory bank"),
            "{}",
            run.told()
        );
        assert_eq!(banks().len(), number + 2);
    }
    train("--backbone first/adapter", "tuned");
    assert_eq!(banks().len(), 5, "another backbone has another memory");
    let contents: BTreeSet<Vec<u8>> = banks()
        .iter()
        .map(|bank| std::fs::read(bank.join("000000.png")).unwrap())
        .collect();
    assert_eq!(
        contents.len(),
        4,
        "only the larger bank begins with the same picture"
    );
}

#[test]
fn training_on_one_colour_lowers_the_loss_and_leaves_the_backbone_alone() {
    let lab = Lab::new();
    for number in 0..4 {
        picture(&lab.path(&format!("red/{number}.png")), |_, _| {
            [230, 30, 30]
        });
    }
    let before = lab.files("tiny");
    lab.train("--data red --steps 120 --lr 0.003 --batch-size 8 --set sample.count=0 --out run")
        .done();
    let steps = lab.metrics("run");
    let (first, last) = (mean(&steps[..20], "loss"), mean(&steps[100..], "loss"));
    assert!(last < 0.75 * first, "the loss went from {first} to {last}");
    assert_eq!(lab.files("tiny"), before);
}

/// The tensors of the adapter that differ from the backbone's, and those that do not.
fn changed_and_kept(lab: &Lab, run: &str) -> (Vec<String>, Vec<String>) {
    const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";
    let pretrained = tensors(&lab.path("tiny").join(WEIGHTS));
    let tuned = tensors(&lab.path(run).join("adapter").join(WEIGHTS));
    assert_eq!(
        pretrained.keys().collect::<Vec<_>>(),
        tuned.keys().collect::<Vec<_>>()
    );
    pretrained
        .into_iter()
        .map(|(name, tensor)| (values(&tensor) != values(&tuned[&name]), name))
        .fold(
            (Vec::new(), Vec::new()),
            |(mut changed, mut kept), (differs, name)| {
                if differs {
                    changed.push(name)
                } else {
                    kept.push(name)
                }
                (changed, kept)
            },
        )
}

#[test]
fn training_biases_changes_exactly_the_biases() {
    let lab = Lab::new();
    lab.train("--steps 8 --set train.trainable=bias --set sample.count=0 --out run")
        .done();
    let (changed, kept) = changed_and_kept(&lab, "run");
    assert!(
        changed.iter().all(|name| name.ends_with(".bias")),
        "{changed:?}"
    );
    assert!(!kept.iter().any(|name| name.ends_with(".bias")), "{kept:?}");
}

#[test]
fn training_what_globs_select_changes_exactly_that() {
    let lab = Lab::new();
    lab.train(r#"--steps 3 --set train.trainable=["**.attn1.to_v.weight","proj_out_2.*"] --set sample.count=0 --out run"#).done();
    let (changed, _) = changed_and_kept(&lab, "run");
    let expected = [
        "proj_out_2.bias",
        "proj_out_2.weight",
        "transformer_blocks.0.attn1.to_v.weight",
        "transformer_blocks.1.attn1.to_v.weight",
    ];
    assert_eq!(changed, expected);
}

#[test]
fn difffits_scales_start_at_one_train_and_fold_into_the_exported_layers() {
    let lab = Lab::new();
    let train = |selection: &str, further: &str| {
        lab.train(&format!(
            "--set train.trainable={selection} {further} --out {selection}"
        ))
        .done();
        lab.metrics(selection)
    };
    let [scaled, plain] = ["diffit", "bias"].map(|selection| {
        let further = "--steps 12 --lr 0.02 --set sample.guidance=2";
        train(selection, further)
    });
    // The first step's loss is the pretrained model's in both, to the last bit.
    assert_eq!(scaled[0]["loss"], plain[0]["loss"]);

    let saved = tensors(&lab.path("diffit/checkpoints/step-12/ema.safetensors"));
    let scales: Vec<(&String, f32)> = saved
        .iter()
        .filter(|(name, _)| name.ends_with(".scale"))
        .map(|(name, scale)| (name, values(scale)[0]))
        .collect();
    let names: Vec<&str> = scales.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "transformer_blocks.0.attn1.to_out.0.scale",
        "transformer_blocks.0.ff.net.2.scale",
        "transformer_blocks.1.attn1.to_out.0.scale",
        "transformer_blocks.1.ff.net.2.scale",
    ];
    assert_eq!(names, expected);
    assert!(scales.iter().all(|(_, scale)| *scale != 1.0), "{scales:?}");

    const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";
    let pretrained = tensors(&lab.path("tiny").join(WEIGHTS));
    let exported = tensors(&lab.path("diffit/adapter").join(WEIGHTS));
    for (name, scale) in &scales {
        let layer = name.trim_end_matches(".scale");
        let weight = format!("{layer}.weight");
        let bias = format!("{layer}.bias");
        let close = |before: &[f32], after: &[f32]| {
            let mut pairs = before.iter().zip(after);
            pairs.all(|(before, after)| (before * scale - after).abs() < 1e-6)
        };
        assert!(close(
            &values(&pretrained[&weight]),
            &values(&exported[&weight])
        ));
        assert!(close(&values(&saved[&bias]), &values(&exported[&bias])));
    }
    // Who knows no scales draws the same with what was exported.
    let draw = |model: &str| {
        let out = model.replace([' ', '/', '-'], "");
        let settings = "--count 2 --steps 2 --guidance 2 --class 0,1 --threads 1";
        lab.host(&format!("sample {model} {settings} --out {out}.png"))
            .done();
        image::open(lab.path(&format!("{out}.png")))
            .unwrap()
            .to_rgb8()
    };
    let (run, adapter, before) = (
        draw("--run diffit"),
        draw("--backbone diffit/adapter"),
        draw("--backbone tiny"),
    );
    let apart = |a: &image::RgbImage, b: &image::RgbImage| {
        let pairs = a.as_raw().iter().zip(b.as_raw());
        pairs.map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    };
    assert!(apart(&run, &adapter) <= 1, "{}", apart(&run, &adapter));
    assert!(apart(&run, &before) > 3, "{}", apart(&run, &before));
}

#[test]
fn a_strangers_plugin_trains_together_with_ours() {
    let lab = Lab::new();
    let stranger = third_party().display();
    let run = |weight: f64, out: &str| {
        lab.train(&format!(
            "{DIFF_TUNING} --plugin {stranger} --set edge_consistency.weight={weight} --set edge_consistency.every=2 --steps 6 --set sample.count=0 --out {out}"
        ))
        .done();
        lab.metrics(out)
    };
    let (strong, silent) = (run(2.0, "strong"), run(0.0, "silent"));
    for (step, (strong, silent)) in strong.iter().zip(&silent).enumerate() {
        assert!(
            strong["plugin/edge_consistency/loss_term"] > 0.0,
            "step {step}: {strong:?}"
        );
        assert_eq!(silent["plugin/edge_consistency/loss_term"], 0.0);
        assert!(strong.contains_key("plugin/diff_tuning/t_target"));
        let observed = strong
            .keys()
            .any(|name| name.starts_with("plugin/edge_consistency/edge_error_near_"));
        assert_eq!(
            observed,
            step % 2 == 0,
            "it observes every second step: {strong:?}"
        );
    }
    // Until the first update both are the same model, so the whole difference of the loss is the term.
    let difference = strong[0]["loss"] - silent[0]["loss"];
    assert!(
        (difference - strong[0]["plugin/edge_consistency/loss_term"]).abs() < 1e-5,
        "{difference}"
    );
    assert_ne!(
        strong[5]["plugin/diff_tuning/loss_target"],
        silent[5]["plugin/diff_tuning/loss_target"]
    );
    let report = std::fs::read_to_string(lab.path("strong/report.html")).unwrap();
    assert!(report.contains("edge_consistency") && report.contains("diff_tuning"));
}
