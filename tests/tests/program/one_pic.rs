//! The one_pic plugin through its real file: alone, with lora, with diff_tuning and lora; sampling from pictures, and data that lack them.

use image::RgbImage;
use integration_tests::{DIFF_TUNING, Lab, picture};
use serde_json::json;

/// A run of the default layout on the folder that [`pairs`] writes.
const PAIRS: &str = "--plugin one_pic --data pairs --steps 3 --set sample.classes=[0]";

/// Writes six pairs with masks: an image, the source it is to be made from, and one bright quarter.
fn pairs(lab: &Lab) {
    let mut table = String::new();
    for number in 0..6u8 {
        let shade = |x: u32, y: u32| [30 * number, (20 * x) as u8, (25 * y) as u8];
        picture(&lab.path(&format!("pairs/images/{number}.png")), shade);
        picture(&lab.path(&format!("pairs/sources/{number}.png")), |x, y| {
            shade(x, y).map(|level| 255 - level)
        });
        picture(&lab.path(&format!("pairs/masks/{number}.png")), |x, y| {
            [255 * u8::from(x < 4 && y >= 4); 3]
        });
        let line = json!({
            "file_name": format!("images/{number}.png"),
            "source": format!("sources/{number}.png"),
            "mask_file_name": format!("masks/{number}.png"),
            "text": format!("picture {number}"),
        });
        table += &format!("{line}\n");
    }
    lab.write("pairs/metadata.jsonl", table);
}

fn open(lab: &Lab, file: &str) -> RgbImage {
    let path = lab.path(file);
    let opened = image::open(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    opened.to_rgb8()
}

/// The first picture of a grid of 8x8 tiles `across` side by side, as the program writes it: enlarged by whole numbers behind four pixels of padding.
fn first(grid: &RgbImage, across: u32) -> impl Fn(u32, u32) -> [u8; 3] + '_ {
    let scale = 96u32.div_ceil(8 * across);
    move |x, y| grid.get_pixel(4 + x * scale, 4 + y * scale).0
}

#[test]
fn the_samples_show_the_untouched_source_the_result_and_the_truth() {
    let lab = Lab::new();
    pairs(&lab);
    lab.train(&format!("{PAIRS} --out run")).done();
    let grid = open(&lab, "run/samples/after-canvas.png");
    let shown = first(&grid, 3);
    let (source, truth) = (
        open(&lab, "pairs/sources/0.png"),
        open(&lab, "pairs/images/0.png"),
    );
    let main = open(&lab, "run/samples/after.png");
    let result = first(&main, 1);
    let mut differs = false;
    for (x, y) in (0..64).map(|at| (at % 8, at / 8)) {
        assert_eq!(shown(x, y), source.get_pixel(x, y).0, "source at {x}, {y}");
        assert_eq!(shown(x + 8, y), result(x, y), "result at {x}, {y}");
        assert_eq!(
            shown(x + 16, y),
            truth.get_pixel(x, y).0,
            "truth at {x}, {y}"
        );
        differs |= result(x, y) != truth.get_pixel(x, y).0;
    }
    assert!(differs, "the result is not the truth");
    let steps = lab.metrics("run");
    assert!(
        steps
            .iter()
            .all(|step| step["loss"].is_finite() && step["grad_norm"] > 0.0)
    );
    let report = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(report.contains("After 3 steps: canvas"));
}

#[test]
fn inpainting_keeps_every_pixel_outside_the_mask() {
    let lab = Lab::new();
    pairs(&lab);
    let single = r#"--set one_pic.layout=[["target"]] --set one_pic.mask=image"#;
    lab.train(&format!("{PAIRS} {single} --out run")).done();
    let (grid, truth) = (
        open(&lab, "run/samples/after.png"),
        open(&lab, "pairs/images/0.png"),
    );
    let result = first(&grid, 1);
    let mut changed = 0;
    for (x, y) in (0..64).map(|at| (at % 8, at / 8)) {
        if x < 4 && y >= 4 {
            changed += u32::from(result(x, y) != truth.get_pixel(x, y).0);
        } else {
            assert_eq!(result(x, y), truth.get_pixel(x, y).0, "at {x}, {y}");
        }
    }
    assert!(changed > 8, "{changed} of the hole's 16 pixels are new");
}

#[test]
fn a_saved_run_draws_the_same_again_and_from_other_pictures() {
    let lab = Lab::new();
    pairs(&lab);
    lab.train(&format!("{PAIRS} --out run")).done();
    let read = |file: &str| std::fs::read(lab.path(file)).unwrap();
    lab.host("sample --run run --threads 1 --out again.png")
        .done();
    assert_eq!(read("again.png"), read("run/samples/after.png"));
    assert_eq!(
        read("again-canvas.png"),
        read("run/samples/after-canvas.png")
    );

    // Two pairs of their own, in another order.
    let line = |number: u32| json!({ "file_name": format!("../pairs/images/{number}.png"), "source": format!("../pairs/sources/{number}.png") });
    lab.write("others/two.jsonl", format!("{}\n\n{}\n", line(4), line(1)));
    let drawn = lab
        .host("sample --run run --threads 1 --input others/two.jsonl --out others.png --json")
        .done()
        .json();
    assert_eq!(drawn["sample"]["count"], 2);
    let grid = open(&lab, "others-canvas.png");
    let shown = first(&grid, 3);
    let source = open(&lab, "pairs/sources/4.png");
    for (x, y) in (0..64).map(|at| (at % 8, at / 8)) {
        assert_eq!(shown(x, y), source.get_pixel(x, y).0, "source at {x}, {y}");
    }

    lab.host("sample --run run --input pictures --out none.png")
        .refused(
            3,
            &[
                "`one_pic`",
                "the layout needs `source`",
                "no pictures beside the images",
                "metadata.jsonl",
            ],
        );
    lab.host("sample --run run --input nowhere --out none.png")
        .refused(2, &["no data folder at", "nowhere"]);
    assert!(!lab.path("none.png").exists());
}

#[test]
fn the_runs_own_data_may_be_gone_when_others_are_given() {
    let lab = Lab::new();
    pairs(&lab);
    lab.train(&format!("{PAIRS} --out run")).done();
    lab.copy("pairs", "kept");
    std::fs::remove_dir_all(lab.path("pairs")).unwrap();
    lab.host("sample --run run --out none.png")
        .refused(3, &["`one_pic`", "the layout needs `source`"]);
    lab.host("sample --run run --input kept --count 2 --out some.png")
        .done();
}

#[test]
fn lora_and_one_pic_train_together() {
    let lab = Lab::new();
    pairs(&lab);
    lab.train(&format!("{PAIRS} --plugin lora --out run"))
        .done();
    assert!(
        lab.path("run/adapter/pytorch_lora_weights.safetensors")
            .is_file()
    );
    assert!(!lab.path("run/adapter/transformer").exists());
}

#[test]
fn a_latent_model_sees_the_canvas_through_its_autoencoder() {
    let lab = super::latent::lab();
    pairs(&lab);
    let small = "--batch-size 2 --steps 2 --set sample.count=2 --set sample.steps=2 --set sample.classes=[0]";
    for (mask, out) in [("tile", "tile"), ("image", "image")] {
        lab.host(&format!("run --backbone latent --data pairs --plugin lora --plugin one_pic --set one_pic.mask={mask} {small} --out {out}"))
            .done();
        let steps = lab.metrics(out);
        assert!(
            steps
                .iter()
                .all(|step| step["loss"].is_finite() && step["grad_norm"] > 0.0)
        );
        // Three tiles of 16 pixels side by side.
        let report = lab.json(&format!("{out}/report.json"));
        let samples = report["samples"].as_array().unwrap();
        let canvas = |sample: &&serde_json::Value| {
            sample["file"] == "samples/after-canvas.png" && sample["tile"] == 48
        };
        assert!(samples.iter().any(|sample| canvas(&sample)), "{samples:?}");
    }
}

#[test]
fn memory_samples_become_canvases_whatever_the_order_of_the_plugins() {
    let lab = Lab::new();
    pairs(&lab);
    let image = "--set one_pic.mask=image --set sample.count=0";
    let mut losses = Vec::new();
    for (out, plugins) in [
        (
            "one",
            format!("--plugin one_pic {DIFF_TUNING} --plugin lora"),
        ),
        (
            "two",
            format!("--plugin lora {DIFF_TUNING} --plugin one_pic"),
        ),
    ] {
        lab.train(&format!(
            "{plugins} {image} --data pairs --steps 3 --out {out}"
        ))
        .done();
        let steps = lab.metrics(out);
        // A memory sample has an empty mask, and would count for nothing if that meant nothing.
        assert!(
            steps
                .iter()
                .all(|step| step["plugin/diff_tuning/loss_memory"] > 0.0)
        );
        losses.push(steps.iter().map(|step| step["loss"]).collect::<Vec<_>>());
        let plan = lab.host(&format!("plan {plugins} --json")).done().json();
        let slots = plan["slots"].as_array().unwrap();
        let batch = slots.iter().find(|slot| slot["slot"] == "batch").unwrap();
        assert_eq!(batch["plugins"], json!(["diff_tuning", "one_pic"]));
    }
    assert_eq!(losses[0], losses[1]);
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one() {
    let lab = Lab::new();
    pairs(&lab);
    let settings = "--plugin one_pic --data pairs --set sample.count=0";
    lab.resumes_exactly(|further| lab.train(&format!("{settings} {further}")));
}

#[test]
fn another_plugin_on_its_exclusive_slots_is_refused_by_both_names() {
    let lab = Lab::new();
    for slot in ["noise_mask", "output"] {
        let without = match slot {
            "noise_mask" => "output",
            _ => "noise_mask",
        };
        lab.host(&format!(
            "plan --plugin one_pic --plugin probe --set probe.without={without}"
        ))
        .refused(
            2,
            &[
                "`one_pic`",
                "`probe`",
                &format!("exclusive slot `{slot}`"),
                "drop one",
            ],
        );
    }
}

#[test]
fn scenes_and_their_export_are_the_same_data() {
    let lab = Lab::new();
    let columns = "--column source=edges --column before=domain:studio --column mask=hole --column reference_1=reference_1";
    lab.host(&format!(
        "data export scenes:dusk --out dusk --count 12 --seed 5 {columns}"
    ))
    .done();
    let train = |data: &str, out: &str| {
        let wanted = r#"--set data.columns={source="edges",before="domain:studio",mask="hole",reference_1="reference_1"}"#;
        let layout = r#"--set one_pic.layout=[["source","before"],["reference_1","target"]] --set one_pic.mask=image"#;
        // The tiny backbone has fewer classes than the scenes.
        lab.host(&format!("run --threads 1 --batch-size 2 --plugin one_pic --data {data} --set data.seed=5 --set data.count=12 {wanted} {layout} --set sample.count=0 --steps 2 --out {out}"))
            .done();
        let steps = lab.metrics(out);
        steps.iter().map(|step| step["loss"]).collect::<Vec<_>>()
    };
    let scenes = train("scenes:dusk", "scenes");
    assert!(scenes.iter().all(|loss| loss.is_finite()));
    // The folder goes by classes and numbers, the scenes by numbers alone, and the classes take turns.
    let table = std::fs::read_to_string(lab.path("dusk/metadata.jsonl")).unwrap();
    let mut lines: Vec<&str> = table.lines().collect();
    let number = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let name = line["file_name"].as_str().unwrap().to_owned();
        name.rsplit('/').next().unwrap().to_owned()
    };
    lines.sort_by_key(|line| number(line));
    lab.write("dusk/metadata.jsonl", lines.join("\n"));
    assert_eq!(train("dusk", "folder"), scenes);
}

#[test]
fn what_the_layout_needs_and_the_data_lack_is_told_before_anything_is_computed() {
    let lab = Lab::new();
    lab.train("--plugin one_pic --steps 1 --out run").refused(
        3,
        &[
            "`one_pic`",
            "the layout needs `source`",
            "no pictures beside the images",
            "data.columns",
        ],
    );
    pairs(&lab);
    lab.train(r#"--plugin one_pic --data pairs --set one_pic.layout=[["sources","target"]] --steps 1 --out other"#)
        .refused(3, &["the layout needs `sources`", "only mask, source"]);
    // Ten pixels a tile make a canvas that patches of four do not cover.
    lab.train(&format!("{PAIRS} --set data.size=10 --out third"))
        .refused(2, &["image size", "patch size 4", "data.size"]);
    lab.train(r#"--plugin one_pic --set one_pic.layout=[["source","source"]] --data pairs --steps 1 --out fourth"#)
        .refused(3, &["0 tiles called `target`"]);
}
