//! The controlnet plugin through its real file: what its first step leaves alone, what trains, resuming, mixing, files and refusals.

use integration_tests::{DIFF_TUNING, Lab, picture, tensors, values};
use serde_json::json;

/// A run on the folder that [`hinted`] writes.
const HINTED: &str = "--plugin controlnet --data hinted --set sample.classes=[0]";

/// Writes six images with hints: bright where the image is dark.
fn hinted(lab: &Lab) {
    let mut table = String::new();
    for number in 0..6u8 {
        let shade = |x: u32, y: u32| [40 * number, (30 * x) as u8, (25 * y) as u8];
        picture(&lab.path(&format!("hinted/images/{number}.png")), shade);
        picture(&lab.path(&format!("hinted/hints/{number}.png")), |x, y| {
            shade(x, y).map(|level| 255 - level)
        });
        let line = json!({
            "file_name": format!("images/{number}.png"),
            "hint": format!("hints/{number}.png"),
        });
        table += &format!("{line}\n");
    }
    lab.write("hinted/metadata.jsonl", table);
}

fn lab() -> Lab {
    let lab = Lab::new();
    hinted(&lab);
    lab
}

fn losses(lab: &Lab, run: &str) -> Vec<f64> {
    lab.metrics(run).iter().map(|step| step["loss"]).collect()
}

#[test]
fn the_first_step_is_the_backbones_bit_for_bit_and_later_ones_are_not() {
    let lab = lab();
    lab.train(&format!("{HINTED} --steps 3 --out controlled"))
        .done();
    // Nothing of the backbone trains to speak of at this rate.
    lab.train("--data hinted --set sample.count=0 --lr 1e-30 --steps 3 --out plain")
        .done();
    let (controlled, plain) = (losses(&lab, "controlled"), losses(&lab, "plain"));
    assert_eq!(controlled[0], plain[0]);
    assert_ne!(controlled[1..], plain[1..]);

    let read = |file: &str| std::fs::read(lab.path(file)).unwrap();
    let draw = |what: &str, out: &str| {
        let how = "--threads 1 --count 2 --steps 2 --class 0 --seed 0 --guidance 1";
        lab.host(&format!("sample {what} {how} --out {out}")).done();
        read(out)
    };
    let backbone = draw("--backbone tiny", "backbone.png");
    let untrained = "--backbone tiny --plugin controlnet --input hinted";
    assert_eq!(draw(untrained, "untrained.png"), backbone);
    let strong = draw("--run controlled", "strong.png");
    assert_ne!(strong, backbone);
    let off = "--run controlled --set controlnet.strength=0";
    assert_eq!(draw(off, "off.png"), backbone);
    let half = "--run controlled --set controlnet.strength=0.5";
    let half = draw(half, "half.png");
    assert!(half != backbone && half != strong);
}

#[test]
fn only_the_control_trains_and_is_written_as_a_folder() {
    let lab = lab();
    lab.train(&format!(
        "{HINTED} --steps 2 --set sample.count=0 --out run"
    ))
    .done();
    let saved = tensors(&lab.path("run/checkpoints/step-2/parameters.safetensors"));
    assert!(saved.keys().all(|name| name.starts_with("controlnet.")));
    let copied = "controlnet.copy.transformer_blocks.0.attn1.to_q.weight";
    assert!(saved.contains_key(copied) && !saved.keys().any(|name| name.contains("blocks.1.attn")));
    assert!(!lab.path("run/adapter/transformer").exists());
    let config = lab.json("run/adapter/config.json");
    assert_eq!(config["copied_blocks"], 1, "{config}");
    let written = tensors(&lab.path("run/adapter/diffusion_pytorch_model.safetensors"));
    assert_eq!(written.len(), saved.len());
    for name in [
        "pos_embed.proj.weight",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
        "controlnet_cond_embedding.conv_in.weight",
        "controlnet_cond_embedding.conv_out.bias",
        "controlnet_blocks.0.weight",
    ] {
        assert!(written.contains_key(name), "{name}");
    }
    // 8x8 pictures, patches of 4: two halvings.
    assert_eq!(
        written["controlnet_cond_embedding.blocks.5.weight"].dims(),
        [256, 96, 3, 3]
    );

    lab.host("export --run run --format controlnet --out exported")
        .done();
    assert_eq!(lab.files("exported"), lab.files("run/adapter"));
    lab.host("export --run run --out merged")
        .refused(2, &["nothing of this run merges", "--format controlnet"]);
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_and_blocks_may_run_twice() {
    let lab = lab();
    let settings = "--set controlnet.dropout=0.5 --set controlnet.blocks=2 --set sample.count=0";
    let run = |further: &str| lab.train(&format!("{HINTED} {settings} {further}"));
    lab.resumes_exactly(run);
    run("--steps 4 --out replayed --set train.gradient_checkpointing=true").done();
    let parameters =
        |run: &str| tensors(&lab.path(&format!("{run}/checkpoints/step-4/parameters.safetensors")));
    let replayed = parameters("replayed");
    for (name, whole) in parameters("whole") {
        let pairs = values(&whole).into_iter().zip(values(&replayed[&name]));
        let apart = pairs.map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        assert!(apart < 1e-5, "{name}: {apart}");
    }
}

#[test]
fn another_run_goes_on_from_its_folder() {
    let lab = lab();
    lab.train(&format!(
        "{HINTED} --steps 3 --set train.ema_decay=0 --out first"
    ))
    .done();
    let read = |file: &str| std::fs::read(lab.path(file)).unwrap();
    let how = "--threads 1 --count 2 --steps 2 --class 0 --seed 0 --guidance 1";
    lab.host(&format!("sample --run first {how} --out run.png"))
        .done();
    let from = "--plugin controlnet --set controlnet.from=first/adapter";
    lab.host(&format!(
        "sample --backbone tiny {from} --input hinted {how} --out folder.png"
    ))
    .done();
    assert_eq!(read("run.png"), read("folder.png"));

    lab.train(
        &format!("{HINTED} {from} --steps 2 --set sample.count=0 --out second").replacen(
            "--plugin controlnet ",
            "",
            1,
        ),
    )
    .done();
    assert_ne!(losses(&lab, "second")[0], losses(&lab, "first")[0]);
    lab.train(&format!("{HINTED} --set controlnet.from=first/adapter --set controlnet.blocks=2 --steps 1 --out third"))
        .refused(3, &["first/adapter", "controlnet.blocks=1"]);
}

#[test]
fn it_trains_beside_lora_and_diff_tuning() {
    let lab = lab();
    lab.train(&format!("{HINTED} --plugin lora --steps 2 --out lora"))
        .done();
    assert!(
        lab.path("lora/adapter/pytorch_lora_weights.safetensors")
            .is_file()
    );
    assert!(lab.path("lora/adapter/config.json").is_file());

    for (hint, out) in [("column", "column"), ("canny", "canny")] {
        lab.train(&format!(
            "{DIFF_TUNING} {HINTED} --set controlnet.hint={hint} --steps 3 --out {out}"
        ))
        .done();
        let steps = lab.metrics(out);
        assert!(
            steps
                .iter()
                .all(|step| step["plugin/diff_tuning/loss_memory"] > 0.0)
        );
        assert!(steps.iter().all(|step| step["grad_norm"] > 0.0));
    }
    assert_ne!(losses(&lab, "column")[2], losses(&lab, "canny")[2]);
}

#[test]
fn a_latent_model_is_controlled_at_the_size_of_its_pictures() {
    let lab = super::latent::lab();
    lab.host("run --backbone latent --data pictures --plugin controlnet --set controlnet.hint=canny --batch-size 2 --steps 2 --set sample.count=2 --set sample.steps=2 --out run")
        .done();
    assert!(
        lab.metrics("run")
            .iter()
            .all(|step| step["grad_norm"] > 0.0)
    );
}

#[test]
fn a_text_model_is_controlled_and_goes_on_from_what_it_wrote() {
    let lab = Lab::of_text();
    let run = "run --backbone sd --data captioned --batch-size 2 --threads 1 --lr 0.01 --set train.warmup_steps=0 --set data.workers=1 \
               --set sample.steps=2 --set sample.count=2 --set train.ema_decay=0 --set train.caption_dropout=0.5";
    let control = "--plugin controlnet --set controlnet.hint=canny";
    let train = |further: &str| lab.host(&format!("{run} {further}")).done();
    lab.resumes_exactly(|further| train(&format!("{control} {further}")));
    // Neither has changed the backbone at its first step.
    train("--plugin lora --steps 1 --out lora");
    assert_eq!(losses(&lab, "whole")[0], losses(&lab, "lora")[0]);
    train(&format!(
        "{control} --steps 4 --set train.gradient_checkpointing=true --out replayed"
    ));
    for (once, twice) in losses(&lab, "whole")
        .into_iter()
        .zip(losses(&lab, "replayed"))
    {
        assert!((once - twice).abs() < 1e-5, "{once} and {twice}");
    }

    let config = lab.json("whole/adapter/config.json");
    assert_eq!(config["_class_name"], "ControlNetModel");
    let written = tensors(&lab.path("whole/adapter/diffusion_pytorch_model.safetensors"));
    for name in [
        "conv_in.weight",
        "time_embedding.linear_2.bias",
        "controlnet_down_blocks.0.weight",
        "controlnet_mid_block.bias",
        "controlnet_cond_embedding.conv_out.weight",
    ] {
        assert!(written.contains_key(name), "{name}");
    }
    assert!(
        !written
            .keys()
            .any(|name| name.contains("up_blocks") || name.starts_with("conv_out"))
    );

    let read = |file: &str| std::fs::read(lab.path(file)).unwrap();
    let how = "--threads 1 --count 2 --steps 2 --seed 0 --input captioned";
    lab.host(&format!("sample --run whole {how} --out run.png"))
        .done();
    let from = "--set controlnet.from=whole/adapter";
    lab.host(&format!(
        "sample --backbone sd {control} {from} {how} --out folder.png"
    ))
    .done();
    assert_eq!(read("run.png"), read("folder.png"));
    lab.host(&format!(
        "sample --run whole --set controlnet.strength=0 {how} --out off.png"
    ))
    .done();
    assert_ne!(read("run.png"), read("off.png"));
    lab.host(&format!(
        "{run} {control} --set controlnet.blocks=2 --steps 1 --out part"
    ))
    .refused(3, &["`blocks` is 2", "UNet", "leave it out"]);
}

#[test]
fn what_it_cannot_do_is_told_before_the_first_step() {
    let lab = lab();
    let run = "--plugin controlnet --steps 1";
    lab.train(&format!("{run} --data pictures --out first"))
        .refused(
            3,
            &[
                "`controlnet`",
                "hints come from `hint`",
                "no pictures",
                "data.columns",
                "canny",
            ],
        );
    lab.train(&format!(
        "{run} --data hinted --out third --set controlnet.column=edges"
    ))
    .refused(3, &["`edges`", "only hint"]);
    for (number, (settings, parts)) in [
        ("blocks=9", &["2 residual sites", "not 9"][..]),
        ("canny.low=300", &["`canny.low` is 300", "swap"]),
        ("strength=-1", &["strength"]),
        ("embedding_channels=[8]", &["at least 3"]),
        ("from=nowhere", &["nowhere"]),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("run{number}");
        let outcome = lab.train(&format!(
            "{run} --data hinted --out {out} --set controlnet.{settings}"
        ));
        let code = if settings.starts_with("strength") {
            2
        } else {
            3
        };
        outcome.refused(code, parts);
        assert!(!lab.path(&out).join("checkpoints").exists());
    }
    lab.train("--plugin lora --steps 1 --set sample.count=0 --out lora")
        .done();
    lab.train(&format!("{run} --data hinted --out second --set controlnet.from=lora/adapter/pytorch_lora_weights.safetensors"))
        .refused(3, &["no config.json"]);
    lab.host("export --run lora --format controlnet --out none")
        .refused(2, &["no network of its own", "lora"]);

    let wide = |x: u32, y: u32| [x as u8, y as u8, 0];
    let image = image::RgbImage::from_fn(16, 16, |x, y| image::Rgb(wide(x, y)));
    image.save(lab.path("hinted/hints/3.png")).unwrap();
    lab.train(&format!("{HINTED} --steps 1 --out other"))
        .refused(
            2,
            &[
                "line 4",
                "`hint` is 16x16 and its image 8x8",
                "size of its image",
            ],
        );
}
