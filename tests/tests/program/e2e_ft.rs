//! The e2e_ft plugin through its real file: depth and normals, both objectives, alone and with lora; resuming, sampling, measuring, and data that do not do.

use candle_core::{DType, Device};
use host::backbone::{Backbone, Config, Overlay};
use host::random::Stream;
use image::{DynamicImage, ImageBuffer, Luma, Rgb, RgbImage};
use integration_tests::{DIFF_TUNING, Lab, goldens, picture, tensors};
use serde_json::{Value, json};

/// A run on the folder that [`measured`] writes.
const MEASURED: &str = "--plugin e2e_ft --data measured --steps 3";

/// Writes six pictures of 8 by 8 with depth, that lies deeper to the right, and normals; and gives the backbones v-prediction, since what predicts noise has
/// next to nothing to say about a picture at the last timestep.
fn measured(lab: &Lab) {
    let scheduler = json!({
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction",
        "clip_sample": false, "timestep_spacing": "trailing",
    });
    for backbone in ["tiny", "latent"] {
        lab.write(
            format!("{backbone}/scheduler/scheduler_config.json"),
            scheduler.to_string(),
        );
    }
    let mut table = String::new();
    for number in 0..6u32 {
        picture(
            &lab.path(&format!("measured/images/{number}.png")),
            |x, y| [(30 * number) as u8, (30 * x) as u8, (25 * y) as u8],
        );
        let depth = ImageBuffer::from_fn(8, 8, |x, y| {
            Luma([if x + y == 0 {
                0
            } else {
                (9000 + 2000 * x + 700 * number * y) as u16
            }])
        });
        let normals = RgbImage::from_fn(8, 8, |x, y| match x + y {
            0 => Rgb([128; 3]),
            _ => Rgb([204, 128, 230]),
        });
        lab.write(format!("measured/depth/{number}.png"), "");
        lab.write(format!("measured/normals/{number}.png"), "");
        let path = |kind: &str| lab.path(&format!("measured/{kind}/{number}.png"));
        DynamicImage::ImageLuma16(depth)
            .save(path("depth"))
            .unwrap();
        normals.save(path("normals")).unwrap();
        let line = json!({
            "file_name": format!("images/{number}.png"),
            "depth": format!("depth/{number}.png"),
            "normals": format!("normals/{number}.png"),
        });
        table += &format!("{line}\n");
    }
    lab.write("measured/metadata.jsonl", table);
}

#[track_caller]
fn assert_trained(lab: &Lab, run: &str) {
    for step in lab.metrics(run) {
        assert!(
            step["loss"].is_finite() && step["grad_norm"] > 0.0,
            "{run}: {step:?}"
        );
    }
}

/// The input channels in a `config.json`.
fn in_channels(lab: &Lab, folder: &str) -> (Value, Value) {
    let config = lab.json(&format!("{folder}/config.json"));
    (
        config["in_channels"].clone(),
        config["out_channels"].clone(),
    )
}

#[test]
fn depth_is_learnt_and_written_in_16_bits_and_the_result_is_as_wide_as_it_says() {
    let lab = Lab::new();
    measured(&lab);
    lab.train(&format!("{MEASURED} --out run")).done();
    assert_trained(&lab, "run");
    assert_eq!(
        in_channels(&lab, "run/adapter/transformer"),
        (json!(6), json!(6))
    );
    let weights = tensors(&lab.path("run/adapter/transformer/diffusion_pytorch_model.safetensors"));
    assert_eq!(weights["pos_embed.proj.weight"].dims(), [32, 6, 4, 4]);
    for (kind, sixteen) in [("", false), ("-depth", true), ("-truth", false)] {
        let file = lab.path(&format!("run/samples/after{kind}.png"));
        let colours = image::open(&file).unwrap().color();
        assert_eq!(colours == image::ColorType::L16, sixteen, "{file:?}");
    }

    lab.host("export --run run --out exported").done();
    assert_eq!(
        in_channels(&lab, "exported/transformer"),
        (json!(6), json!(6))
    );
    // What is wide already goes on as it is, and without the plugin it is told why it cannot.
    let goes_on = "run --backbone exported --data measured --batch-size 2 --threads 1 --steps 1";
    lab.host(&format!("{goes_on} --plugin e2e_ft --out again"))
        .done();
    assert_trained(&lab, "again");
    assert_eq!(
        in_channels(&lab, "again/adapter/transformer"),
        (json!(6), json!(6))
    );
    for wide in [
        format!("{goes_on} --out other"),
        "sample --backbone exported".to_owned(),
    ] {
        lab.host(&wide).refused(
            2,
            &["takes 6 channels", "latents have 3", "`denoiser_input`"],
        );
    }
}

#[test]
fn every_way_to_learn_trains_and_draws() {
    let lab = Lab::new();
    measured(&lab);
    for (out, settings) in [
        ("normals", "task=normals"),
        ("gaussian", "noise=gaussian"),
        ("pyramid", "task=normals noise=pyramid"),
        ("alone", "input=rgb"),
        ("steps", "objective=diffusion"),
        (
            "pyramid_steps",
            "task=normals objective=diffusion noise=pyramid",
        ),
    ] {
        let set: Vec<String> = (settings.split(' '))
            .map(|setting| format!("--set e2e_ft.{setting}"))
            .collect();
        lab.train(&format!("{MEASURED} {} --out {out}", set.join(" ")))
            .done();
        assert_trained(&lab, out);
        let kind = if settings.contains("normals") {
            "normals"
        } else {
            "depth"
        };
        assert!(
            lab.path(&format!("{out}/samples/after-{kind}.png"))
                .is_file(),
            "{out}"
        );
    }
    assert_eq!(in_channels(&lab, "alone/adapter/transformer").0, json!(3));
}

#[test]
fn a_resumed_run_equals_the_uninterrupted_one_whatever_it_drew_in_between() {
    let lab = Lab::new();
    measured(&lab);
    let settings = "--plugin e2e_ft --data measured --set e2e_ft.noise=pyramid --set sample.every=1 --set train.ema_decay=0.9";
    lab.resumes_exactly(|further| lab.train(&format!("{settings} {further}")));
}

#[test]
fn with_lora_the_first_layer_and_the_adapter_train_through_the_decoder_and_nothing_else() {
    let lab = super::latent::lab();
    measured(&lab);
    let small = "--batch-size 2 --threads 1 --lr 0.01 --steps 3 --set train.warmup_steps=0 --set sample.count=2 --set sample.steps=2";
    lab.host(&format!(
        "run --backbone latent --data measured --plugin lora --plugin e2e_ft {small} --out run"
    ))
    .done();
    assert_trained(&lab, "run");
    for step in lab.metrics("run") {
        assert!(step["plugin/lora/grad_norm"] > 0.0 && step["backbone/grad_norm"] > 0.0);
    }
    assert!(
        lab.path("run/adapter/pytorch_lora_weights.safetensors")
            .is_file()
    );
    let file = "transformer/diffusion_pytorch_model.safetensors";
    let (ours, before) = (
        tensors(&lab.path(&format!("run/adapter/{file}"))),
        tensors(&lab.path(&format!("latent/{file}"))),
    );
    for (name, before) in &before {
        let ours = &ours[name];
        let same = ours.dims() == before.dims()
            && integration_tests::values(ours) == integration_tests::values(before);
        assert_eq!(same, !name.starts_with("pos_embed.proj"), "{name}");
    }
    // Pictures of 16 by 16 pixels of latents of 8 by 8.
    lab.host("sample --run run --input pictures --count 3 --each each --out grid.png")
        .done();
    let depth = image::open(lab.path("each/blobs/1-depth.png")).unwrap();
    assert_eq!((depth.color(), depth.width()), (image::ColorType::L16, 16));
}

/// A text encoder that has seen one batch.
const TEXT: &str = r#"
[text_encoder]
hidden_size = 12
intermediate_size = 24
num_hidden_layers = 1
num_attention_heads = 2
max_position_embeddings = 12

[data]
source = "scenes:studio"
size = 16
count = 12

[train]
steps = 1
batch_size = 6
lr = 1e-2
warmup_steps = 0
threads = 1
"#;

/// Writes a pipeline as Stable Diffusion 2 is one, of random weights: latents of 8 by 8, pictures twice as high and wide, v-prediction.
fn write_stable_diffusion(lab: &Lab) {
    lab.write("text.toml", TEXT);
    lab.host("pretrain --config text.toml --out sd").done();
    super::latent::copy(&goldens("vae/plain"), &lab.path("sd/vae"));
    let config = std::fs::read_to_string(goldens("unet/sd2/config.json")).unwrap();
    let config = Config::from_json(&config, "config.json").unwrap();
    let fresh = Backbone::init(config, 1, &Device::Cpu).unwrap();
    // A fresh network predicts zero.
    let mut overlay = Overlay::new();
    for (name, tensor) in fresh.parameters() {
        if name.starts_with("conv_out") {
            let random = Stream::new(2, name).normal(tensor.shape(), &Device::Cpu);
            overlay.insert(name.to_owned(), (random.unwrap() * 0.1).unwrap());
        }
    }
    fresh.save(&lab.path("sd"), &overlay, DType::F32).unwrap();
    let scheduler = json!({
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012,
        "prediction_type": "v_prediction", "clip_sample": false, "set_alpha_to_one": false, "steps_offset": 1,
    });
    lab.write("sd/scheduler/scheduler_config.json", scheduler.to_string());
    let index = json!({
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
    });
    lab.write("sd/model_index.json", index.to_string());
}

#[test]
fn stable_diffusion_estimates_without_captions_alone_and_with_lora() {
    let lab = Lab::new();
    measured(&lab);
    write_stable_diffusion(&lab);
    let small = "--backbone sd --data measured --batch-size 2 --threads 1 --lr 0.001 --steps 3 --set train.warmup_steps=0 --set sample.count=2 --set sample.steps=2";
    for (out, plugins) in [("alone", ""), ("both", "--plugin lora --set lora.rank=2")] {
        lab.host(&format!(
            "run --plugin e2e_ft {plugins} {small} --out {out}"
        ))
        .done();
        assert_trained(&lab, out);
        let written = format!("{out}/adapter/unet");
        assert_eq!(in_channels(&lab, &written), (json!(8), json!(4)), "{out}");
        let file = "diffusion_pytorch_model.safetensors";
        let (ours, before) = (
            tensors(&lab.path(&format!("{written}/{file}"))),
            tensors(&lab.path(&format!("sd/unet/{file}"))),
        );
        assert_eq!(ours["conv_in.weight"].dims(), [8, 8, 3, 3]);
        let name = "mid_block.resnets.0.conv1.weight";
        let moved =
            integration_tests::values(&ours[name]) != integration_tests::values(&before[name]);
        assert_eq!(moved, plugins.is_empty(), "{out}");
    }
    lab.host("sample --run both --input pictures --count 2 --each each --out grid.png")
        .done();
    let depth = image::open(lab.path("each/blobs/1-depth.png")).unwrap();
    assert_eq!((depth.color(), depth.width()), (image::ColorType::L16, 16));
}

#[test]
fn a_saved_run_estimates_from_plain_pictures_each_in_a_file_of_its_own() {
    let lab = Lab::new();
    measured(&lab);
    lab.train(&format!(
        r#"{MEASURED} --set data.columns={{depth="depth"}} --out run"#
    ))
    .done();
    let drawn = lab
        .host("sample --run run --threads 1 --input pictures --each each --out grid.png --json")
        .done()
        .json();
    assert_eq!(drawn["sample"]["count"], 6);
    // Without the truth there are two kinds of picture.
    assert_eq!(drawn["each"].as_array().unwrap().len(), 12);
    for (file, colours) in [
        ("1-depth.png", image::ColorType::L16),
        ("1.png", image::ColorType::Rgb8),
    ] {
        let picture = image::open(lab.path("each/stripes").join(file)).unwrap();
        assert_eq!(
            (picture.color(), picture.width(), picture.height()),
            (colours, 8, 8)
        );
    }
    // Without noise an estimate depends on the picture alone.
    let read = || std::fs::read(lab.path("each/stripes/2-depth.png")).unwrap();
    let before = read();
    lab.host("sample --run run --threads 1 --seed 99 --input pictures --each each --out grid.png")
        .done();
    assert_eq!(read(), before);
}

#[test]
fn estimates_are_measured_against_the_truth() {
    let lab = Lab::new();
    measured(&lab);
    for (task, number) in [("depth", "abs_rel"), ("normals", "median")] {
        lab.train(&format!("{MEASURED} --set e2e_ft.task={task} --out {task}"))
            .done();
        let found = lab
            .host(&format!(
                "eval --run {task} --input measured --threads 1 --json"
            ))
            .done()
            .json();
        let estimates = &found["estimates"];
        assert_eq!(estimates["generated"]["count"], 6);
        assert!(
            estimates[task][number].as_f64().unwrap() > 0.0,
            "{estimates}"
        );
        assert_eq!(estimates[task]["images"], 6);
        assert_eq!(lab.json(&format!("{task}/estimates.json")), *estimates);
        let report = std::fs::read_to_string(lab.path(&format!("{task}/report.html"))).unwrap();
        assert!(report.contains("against the truth of 6 images"), "{task}");
    }
    lab.host("eval --run depth --input pictures --threads 1")
        .refused(2, &["estimates depth", "no `depth`", "--input"]);
}

#[test]
fn the_embedded_model_learns_the_depth_of_its_scenes_without_a_word_about_data() {
    let lab = Lab::new();
    lab.host(
        "run --plugin e2e_ft --threads 1 --batch-size 2 --steps 2 --set sample.count=2 --out run",
    )
    .done();
    assert_trained(&lab, "run");
    let found = lab
        .host("eval --run run --count 4 --threads 1 --json")
        .done()
        .json();
    assert!(
        found["estimates"]["depth"]["abs_rel"].as_f64().unwrap() > 0.0,
        "{found}"
    );
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let lab = Lab::new();
    lab.train("--plugin e2e_ft --steps 1 --out first").refused(
        3,
        &[
            "`e2e_ft`",
            "the data's `depth`",
            "no pictures beside the images",
            "data.columns",
        ],
    );
    lab.host(&format!("plan --plugin e2e_ft {DIFF_TUNING}"))
        .refused(2, &["`e2e_ft`", "`diff_tuning`", "exclusive slot"]);
    lab.host("plan --plugin e2e_ft --plugin one_pic")
        .refused(2, &["`e2e_ft`", "`one_pic`", "exclusive slot `output`"]);
    measured(&lab);
    lab.train(&format!(
        "{MEASURED} --set e2e_ft.objective=diffusion --set e2e_ft.noise=zeros --out second"
    ))
    .refused(3, &["step by step", "\"gaussian\""]);
    // A ControlNet's copy takes what the backbone was pretrained on, whichever plugin comes first.
    for (first, second) in [("e2e_ft", "controlnet"), ("controlnet", "e2e_ft")] {
        let both = format!("--plugin {first} --plugin {second} --data measured --steps 1");
        let edges = "--set controlnet.hint=canny --set sample.count=0";
        lab.train(&format!("{both} {edges} --out wide_{first}"))
            .refused(
                2,
                &[
                    "`controlnet`",
                    "takes 3 channels",
                    "the backbone 6",
                    "e2e_ft.input=rgb",
                ],
            );
        lab.train(&format!(
            "{both} {edges} --set e2e_ft.input=rgb --out narrow_{first}"
        ))
        .done();
    }
    let empty = ImageBuffer::<Luma<u16>, Vec<u16>>::new(8, 8);
    let file = lab.path("measured/depth/4.png");
    DynamicImage::ImageLuma16(empty).save(&file).unwrap();
    lab.train(&format!("{MEASURED} --out third")).refused(
        2,
        &[
            "`depth` of images/4.png",
            "depth/4.png",
            "no pixel has a depth",
        ],
    );
    RgbImage::new(8, 8).save(&file).unwrap();
    lab.train(&format!("{MEASURED} --out third")).refused(
        2,
        &[
            "metadata.jsonl, line 5",
            "depth/4.png",
            "8-bit RGB",
            "16-bit grey",
        ],
    );
    ImageBuffer::<Luma<u16>, Vec<u16>>::from_pixel(9, 8, Luma([7]))
        .save(&file)
        .unwrap();
    lab.train(&format!("{MEASURED} --out third"))
        .refused(2, &["line 5", "`depth` is 9x8 and its image 8x8"]);
    assert!(!lab.path("third").exists());
}
