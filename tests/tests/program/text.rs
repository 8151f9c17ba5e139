//! A backbone conditioned on text: trained on captions, drawn from prompts.

use candle_core::{Device, Tensor};
use integration_tests::{Lab, tensors, values};

/// A run on the text-to-image pipeline and the captioned pictures.
const RUN: &str = "run --backbone sd --data captioned --batch-size 2 --threads 1 --lr 0.01 --set train.warmup_steps=0 \
                   --set data.workers=1 --set sample.steps=2 --set sample.count=2";
const LORA: &str = "--plugin lora --set lora.rank=2";

fn losses(lab: &Lab, run: &str) -> Vec<f64> {
    lab.metrics(run).iter().map(|step| step["loss"]).collect()
}

/// The bytes of a picture drawn by these arguments.
fn drawn(lab: &Lab, arguments: &[&str]) -> Vec<u8> {
    let mut line = vec![
        "sample",
        "--count",
        "2",
        "--steps",
        "2",
        "--out",
        "drawn.png",
    ];
    line.extend(arguments);
    lab.host_with(&line).done();
    std::fs::read(lab.path("drawn.png")).unwrap()
}

#[test]
fn a_text_model_trains_resumes_bit_for_bit_draws_prompts_and_is_exported_whole() {
    let lab = Lab::of_text();
    let run = |steps: usize, further: &str| {
        lab.host(&format!("{RUN} {LORA} --steps {steps} {further}"))
            .done()
    };
    run(6, "--out whole --set train.caption_dropout=0.5");
    run(3, "--out halves --set train.caption_dropout=0.5");
    run(6, "--out halves --set train.caption_dropout=0.5 --resume");
    assert_eq!(lab.checkpoint("whole", 6), lab.checkpoint("halves", 6));
    run(6, "--out never --set train.caption_dropout=0");
    run(6, "--out always --set train.caption_dropout=1");
    assert_ne!(losses(&lab, "never"), losses(&lab, "always"));
    let report = lab.json("whole/report.json");
    let grid = report["samples"][1]["caption"].as_str().unwrap();
    assert!(grid.contains("\"dark stripes\""), "{grid}");

    let of = |further: &[&str]| drawn(&lab, &[&["--run", "whole"], further].concat());
    let dark = of(&["--prompt", "dark stripes"]);
    assert_ne!(dark, of(&["--prompt", "light stripes"]));
    assert_ne!(dark, of(&["--prompt", "dark stripes", "--guidance", "1"]));
    assert_ne!(
        dark,
        of(&["--prompt", "dark stripes", "--negative", "a floor"])
    );
    assert_eq!(
        of(&["--prompt", "dark stripes", "--prompt", "light stripes"]),
        of(&[]),
        "captions of the data, in turn"
    );

    // What is there as a variant alone is found by who asks for none.
    let variant = lab.path("sd/text_encoder");
    std::fs::rename(
        variant.join("model.safetensors"),
        variant.join("model.fp16.safetensors"),
    )
    .unwrap();
    lab.host("export --run whole --out exported").done();
    assert!(
        lab.path("exported/text_encoder/model.safetensors")
            .is_file()
    );
    for part in ["unet", "vae", "text_encoder", "tokenizer", "scheduler"] {
        assert!(lab.path("exported").join(part).is_dir(), "{part}");
    }
    let exported = drawn(
        &lab,
        &["--backbone", "exported", "--prompt", "dark stripes"],
    );
    assert_eq!(exported, dark);
}

#[test]
fn texts_condition_the_network_and_its_text_encoder_runs_by_itself() {
    let lab = Lab::of_text();
    let ids = Tensor::new(&[[1u32, 5, 7, 2], [1, 9, 2, 2]], &Device::Cpu).unwrap();
    let inputs = std::collections::HashMap::from([("input_ids", ids)]);
    candle_core::safetensors::save(&inputs, lab.path("ids.safetensors")).unwrap();
    for (backbone, output) in [("sd", "a"), ("sd/text_encoder", "b")] {
        lab.host(&format!(
            "model forward --backbone {backbone} --component text --inputs ids.safetensors --output {output}.safetensors"
        ))
        .done();
    }
    let found = tensors(&lab.path("a.safetensors"));
    assert_eq!(found["prediction"].dims(), [2, 4, 16]);
    assert_eq!(
        values(&found["prediction"]),
        values(&found["last_hidden_state"])
    );
    assert_ne!(
        values(&found["penultimate_hidden_state"]),
        values(&found["last_hidden_state"])
    );
    assert_eq!(found["pooled"].dims(), [2, 16]);
    let alone = tensors(&lab.path("b.safetensors"));
    assert_eq!(values(&found["prediction"]), values(&alone["prediction"]));
}

#[test]
fn kept_latents_and_texts_give_the_same_run_whoever_made_them() {
    let lab = Lab::of_text();
    let run = |further: &str| {
        let cached = "--set data.cache_latents=true --set sample.count=0";
        lab.host(&format!("{RUN} {LORA} --steps 5 {cached} {further}"))
            .done()
    };
    run("--out first");
    assert!(lab.path("cache/latents").is_dir() && lab.path("cache/texts").is_dir());
    run("--out second");
    assert_eq!(lab.checkpoint("first", 5), lab.checkpoint("second", 5));
    lab.host(&format!(
        "{RUN} {LORA} --steps 5 --set sample.count=0 --out plain"
    ))
    .done();
    for (kept, plain) in losses(&lab, "first").into_iter().zip(losses(&lab, "plain")) {
        assert!((kept - plain).abs() < 1e-4 * plain, "{kept} and {plain}");
    }
}

#[test]
fn pictures_in_buckets_train_and_resume_bit_for_bit() {
    let lab = Lab::of_text();
    let run = |steps: usize, further: &str| {
        let settings = "--set data.bucketing=true --set sample.count=1";
        lab.host(&format!(
            "{RUN} {LORA} {settings} --steps {steps} {further}"
        ))
        .done()
    };
    run(6, "--out whole");
    run(3, "--out halves");
    run(6, "--out halves --resume");
    assert_eq!(lab.checkpoint("whole", 6), lab.checkpoint("halves", 6));
}

#[test]
fn diff_tuning_remembers_what_prompts_draw_and_trains_them_without_text() {
    let lab = Lab::of_text();
    let tuned = "--plugin diff_tuning --set diff_tuning.memory=4 --set diff_tuning.memory_steps=2 --set diff_tuning.ratio=0.5";
    let with = |prompts: &str, out: &str| {
        let prompts = format!("diff_tuning.memory_prompts=[{prompts}]");
        let mut line: Vec<&str> = RUN.split_whitespace().collect();
        line.extend(LORA.split_whitespace());
        line.extend(tuned.split_whitespace());
        line.extend(["--steps", "3", "--out", out, "--set", &prompts]);
        lab.host_with(&line).done();
    };
    with("\"a floor\", \"blobs\"", "some");
    with("\"stripes\"", "others");
    assert_ne!(losses(&lab, "some"), losses(&lab, "others"));
    lab.host(&format!(
        "{RUN} {tuned} --set data.bucketing=true --steps 1 --out buckets"
    ))
    .refused(3, &["data.bucketing", "squares of"]);
    assert!(losses(&lab, "some").iter().all(|loss| loss.is_finite()));
    lab.train(&format!(
        "{tuned} --set diff_tuning.memory_prompts=[\"a\"] --steps 1 --out classes"
    ))
    .refused(3, &["memory_prompts", "not conditioned on text"]);
}

#[test]
fn a_canvas_of_pictures_is_told_a_caption_as_one_picture_is() {
    let lab = Lab::of_text();
    let canvas = "--data scenes:studio --set data.count=4 --set data.columns={source=\"edges\"} --plugin one_pic";
    let line = RUN.replace("--data captioned", canvas);
    lab.resumes_exactly(|further| lab.host(&format!("{line} {LORA} {further}")));
    let of = |prompt: &str| drawn(&lab, &["--run", "whole", "--prompt", prompt]);
    assert_ne!(of("a red cone"), of("a blue sphere"));
}

#[test]
fn what_a_text_model_lacks_is_said_before_anything_is_made() {
    let lab = Lab::of_text();
    std::fs::remove_file(lab.path("captioned/2.txt")).unwrap();
    lab.host(&format!("{RUN} --steps 1 --out run"))
        .refused(2, &["1 of 4 images", "2.png", "data.caption"]);
    assert!(!lab.path("run").exists());
    lab.host_with(
        &format!("{RUN} --steps 1 --out filled --set sample.count=0 --set")
            .split_whitespace()
            .chain(["data.caption=\"a picture\""])
            .collect::<Vec<_>>(),
    )
    .done();

    lab.host("sample --backbone sd --class 1")
        .refused(2, &["no classes", "--prompt"]);
    lab.host("sample --backbone tiny --prompt stripes")
        .refused(2, &["conditioned on classes", "--class"]);

    lab.copy("sd", "xl");
    let index = std::fs::read_to_string(lab.path("xl/model_index.json")).unwrap();
    lab.write(
        "xl/model_index.json",
        index.replace("StableDiffusionPipeline", "StableDiffusionXLPipeline"),
    );
    lab.host("sample --backbone xl --prompt stripes")
        .refused(2, &["second text encoder", "text_encoder_2/"]);
    std::fs::remove_dir_all(lab.path("sd/tokenizer")).unwrap();
    lab.host("sample --backbone sd --prompt stripes")
        .refused(2, &["tokenizer/"]);
    std::fs::remove_dir_all(lab.path("sd/text_encoder")).unwrap();
    std::fs::remove_file(lab.path("sd/model_index.json")).unwrap();
    lab.host("sample --backbone sd --prompt stripes")
        .refused(2, &["conditioned on texts", "no text encoder"]);
}
