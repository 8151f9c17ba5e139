//! The pretrained pipeline of examples/tiny_sd: its captions say what is drawn, and the methods mix on it, through real plugin files.

use std::path::Path;

use integration_tests::{DIFF_TUNING, Lab, tensors, values, workspace};

/// Where a run leaves its LoRA and its ControlNet.
const LORA: &str = "adapter/pytorch_lora_weights.safetensors";
const CONTROLNET: &str = "adapter/diffusion_pytorch_model.safetensors";
const HINTS: &str = r#"--plugin controlnet --set data.columns={hint="edges"}"#;

fn pipeline() -> String {
    workspace().join("examples/tiny_sd").display().to_string()
}

/// Two steps on rendered scenes with these plugins, into `out`.
fn train(lab: &Lab, plugins: &str, out: &str) {
    lab.host(&format!(
        "run --backbone {} --data scenes:dusk --set data.size=64 --set data.count=8 --set data.workers=1 --set train.caption_dropout=0 --batch-size 2 --threads 1 \
         --lr 0.001 --set train.warmup_steps=0 --set train.ema_decay=0 --steps 2 --set sample.steps=2 --set sample.count=2 {plugins} --out {out}",
        pipeline()
    ))
    .done();
    let steps = lab.metrics(out);
    assert_eq!(steps.len(), 2);
    assert!(
        steps.iter().all(|step| step["grad_norm"] > 0.0),
        "{plugins}"
    );
}

fn first_loss(lab: &Lab, run: &str) -> f64 {
    lab.metrics(run)[0]["loss"]
}

/// Whether what begins at zero has left it, in every tensor of the file whose name has `part`.
#[track_caller]
fn assert_moved(file: &Path, part: &str) {
    let moved: Vec<bool> = tensors(file)
        .iter()
        .filter(|(name, _)| name.contains(part))
        .map(|(_, tensor)| values(tensor).iter().any(|&value| value != 0.0))
        .collect();
    assert!(
        !moved.is_empty() && moved.iter().all(|&moved| moved),
        "{part} of {}: {moved:?}",
        file.display()
    );
}

#[track_caller]
fn assert_remembers(lab: &Lab, run: &str) {
    for step in lab.metrics(run) {
        assert!(step["plugin/diff_tuning/loss_memory"] > 0.0, "{step:?}");
    }
}

/// The mean colour of the middle of four drawings of a text, 0 to 255.
fn drawn(lab: &Lab, text: &str, out: &str) -> [f64; 3] {
    let backbone = pipeline();
    let how = "--count 4 --seed 1 --sampler dpmpp_2m --steps 12 --guidance 3 --threads 1";
    let mut arguments = vec!["sample", "--backbone", &backbone, "--prompt", text];
    arguments.extend(how.split(' '));
    let grid = format!("{out}.png");
    arguments.extend(["--out", &grid, "--each", out]);
    lab.host_with(&arguments).done();
    let mut sum = [0.0; 3];
    let mut count = 0.0;
    for file in lab.files(out).into_values() {
        let picture = image::load_from_memory(&file).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (64, 64));
        for (_, _, pixel) in picture.enumerate_pixels().filter(|(x, y, _)| {
            let middle = 20..44;
            middle.contains(x) && middle.contains(y)
        }) {
            for (sum, &level) in sum.iter_mut().zip(&pixel.0) {
                *sum += f64::from(level);
            }
            count += 1.0;
        }
    }
    assert_eq!(count, 4.0 * 24.0 * 24.0);
    sum.map(|sum| sum / count)
}

#[test]
fn captions_say_what_is_drawn() {
    let lab = Lab::new();
    let [red, _, blue] = drawn(&lab, "a large red sphere on a blue floor", "red");
    assert!(red > blue + 20.0, "red {red}, blue {blue}");
    let [red, _, blue] = drawn(&lab, "a large blue box on a yellow floor", "blue");
    assert!(blue > red + 20.0, "red {red}, blue {blue}");
    let lines = "a large blue box on a yellow floor, in neon lines";
    let dark = drawn(&lab, lines, "neon");
    assert!(dark.iter().all(|&level| level < 100.0), "{dark:?}");
}

#[test]
fn lora_mixes_with_diff_tuning_and_with_a_controlnet_and_all_begin_at_the_backbone() {
    let lab = Lab::new();
    train(&lab, "--plugin lora", "lora");
    assert_moved(&lab.path("lora").join(LORA), "lora_B");

    train(&lab, &format!("--plugin lora {HINTS}"), "both");
    assert_moved(&lab.path("both").join(LORA), "lora_B");
    assert_moved(&lab.path("both").join(CONTROLNET), "controlnet_mid_block");
    assert_eq!(first_loss(&lab, "both"), first_loss(&lab, "lora"));

    let prompts = r#"--set diff_tuning.memory_prompts=["a_red_box"]"#;
    train(
        &lab,
        &format!("--plugin lora {DIFF_TUNING} {prompts}"),
        "kept",
    );
    assert_moved(&lab.path("kept").join(LORA), "lora_B");
    assert_remembers(&lab, "kept");
}

#[test]
fn a_controlnet_mixes_with_diff_tuning() {
    let lab = Lab::new();
    train(&lab, &format!("{HINTS} {DIFF_TUNING}"), "run");
    assert_moved(&lab.path("run").join(CONTROLNET), "controlnet_down_blocks");
    assert_remembers(&lab, "run");
}

#[test]
fn depth_is_learnt_by_lora_through_the_frozen_decoder() {
    let lab = Lab::new();
    let plugins = "--plugin e2e_ft --set e2e_ft.task=depth --plugin lora";
    train(&lab, plugins, "run");
    assert_moved(&lab.path("run").join(LORA), "lora_B");
    lab.host("data export scenes:dusk --out unseen --count 2 --size 64 --seed 9")
        .done();
    lab.host("sample --run run --input unseen --count 2 --threads 1 --each drawn --out drawn.png")
        .done();
    let depth = (lab.files("drawn").into_keys())
        .filter(|file| file.to_string_lossy().contains("depth"))
        .collect::<Vec<_>>();
    assert_eq!(depth.len(), 2, "{:?}", lab.files("drawn").keys());
    for file in depth {
        let picture = image::open(lab.path("drawn").join(file)).unwrap();
        assert_eq!(picture.color(), image::ColorType::L16);
        assert_eq!((picture.width(), picture.height()), (64, 64));
    }
}

#[test]
fn one_picture_of_source_and_target_is_learnt_by_lora() {
    let lab = Lab::new();
    let layout = r#"--plugin one_pic --set one_pic.layout=[["source","target"]] --set data.columns={source="edges"}"#;
    train(&lab, &format!("{layout} --plugin lora"), "run");
    assert_moved(&lab.path("run").join(LORA), "lora_B");
}

#[test]
fn it_is_small_and_whole() {
    let files = Lab::new().files(&pipeline());
    let size: usize = files.values().map(Vec::len).sum();
    assert!(size <= 25_000_000, "{size} bytes");
    for part in [
        "model_index.json",
        "unet",
        "vae",
        "text_encoder",
        "tokenizer",
        "scheduler",
    ] {
        assert!(files.keys().any(|file| file.starts_with(part)), "{part}");
    }
}
