//! `host model`, `host sample` and `host data`: what one does with a backbone, a run and rendered scenes.

use integration_tests::{DIFF_TUNING, Lab, goldens, tensors, values};

#[test]
fn inspecting_a_backbone_prints_its_architecture_and_its_layers() {
    let lab = Lab::new();
    let small = goldens("dit/small").display().to_string();
    let inspection = lab
        .host(&format!("model inspect {small} --json"))
        .done()
        .json();
    let info = &inspection["info"];
    assert_eq!(info["architecture"], "dit");
    assert_eq!(
        (&info["in_channels"], &info["num_classes"]),
        (&4.into(), &10.into())
    );
    let text = lab.host(&format!("model inspect {small}")).done().stdout;
    for part in [
        "architecture",
        "10 and the null class 10",
        "8 (learned variance)",
        "transformer_blocks.1.attn1.to_q",
        "linear",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
}

#[test]
fn the_raw_network_predicts_what_diffusers_does() {
    let lab = Lab::new();
    for (backbone, case) in [
        ("small", "small/case"),
        ("sharded", "sharded/case"),
        ("sharded", "sharded/resized"),
        ("pickled", "pickled/case"),
        ("original/DiT.pt", "original/case"),
    ] {
        let backbone = goldens("dit").join(backbone);
        let inputs = goldens("dit").join(format!("{case}.safetensors"));
        lab.host(&format!(
            "model forward --backbone {} --inputs {} --output out.safetensors",
            backbone.display(),
            inputs.display()
        ))
        .done();
        let (found, expected) = (
            &tensors(&lab.path("out.safetensors"))["prediction"],
            &tensors(&inputs)["prediction"],
        );
        assert_eq!(found.dims(), expected.dims(), "{case}");
        let largest = values(found)
            .iter()
            .zip(values(expected))
            .map(|(found, expected)| (found - expected).abs())
            .fold(0.0, f32::max);
        assert!(largest < 1e-4, "{case}: off by {largest}");
    }
}

#[test]
fn inputs_that_do_not_fit_the_network_are_refused() {
    let lab = Lab::new();
    let forward = |backbone: &str, inputs: &str| {
        lab.host(&format!(
            "model forward --backbone {} --inputs {inputs} --output out.safetensors",
            goldens(backbone).display()
        ))
    };
    let other = goldens("dit/pickled/case.safetensors")
        .display()
        .to_string();
    forward("dit/small", &other).refused(2, &["pickled/case.safetensors"]);
    forward("dit/small", "none.safetensors").refused(2, &["none.safetensors"]);
    let weights = lab
        .path("tiny/transformer/diffusion_pytorch_model.safetensors")
        .display()
        .to_string();
    forward("dit/small", &weights).refused(2, &["there is no `latents`"]);
    assert!(!lab.path("out.safetensors").exists());
}

#[test]
fn the_same_seed_draws_the_same_bytes_and_every_choice_matters() {
    let lab = Lab::new();
    let draw = |arguments: &str| {
        lab.host(&format!(
            "sample --backbone tiny --count 4 --out grid.png {arguments}"
        ))
        .done();
        std::fs::read(lab.path("grid.png")).unwrap()
    };
    let first = draw("--steps 4 --threads 1");
    assert_eq!(draw("--steps 4 --threads 1"), first);
    assert_eq!(
        draw("--steps 4 --batch-size 3 --threads 2"),
        first,
        "how the work is cut changes no picture"
    );
    let mut seen = vec![first];
    for other in [
        "--steps 7",
        "--steps 4 --seed 1",
        "--steps 4 --sampler ddpm",
        "--steps 4 --sampler dpmpp_2m",
        "--steps 4 --sampler euler",
        "--steps 4 --spacing linspace",
        "--steps 4 --guidance 5",
        "--steps 4 --class 3",
        "--steps 4 --eta 1",
    ] {
        let grid = draw(other);
        assert!(!seen.contains(&grid), "{other} changes nothing");
        seen.push(grid);
    }
}

#[test]
fn a_run_is_drawn_from_and_domain_guidance_takes_the_pretrained_model() {
    let lab = Lab::new();
    lab.train(&format!(
        "{DIFF_TUNING} --steps 6 --lr 0.02 --checkpoint-every 3 --out run"
    ))
    .done();
    let draw = |arguments: &str| {
        lab.host(&format!(
            "sample --run run --threads 1 --out grid.png {arguments}"
        ))
        .done();
        std::fs::read(lab.path("grid.png")).unwrap()
    };
    let after = std::fs::read(lab.path("run/samples/after.png")).unwrap();
    assert_eq!(
        draw(""),
        after,
        "the newest checkpoint draws what the run drew at its end"
    );
    assert_eq!(
        draw("--class blobs,stripes"),
        after,
        "its classes in turn are the default"
    );
    let guided = draw("--domain-guidance");
    assert_ne!(guided, after);
    assert_ne!(draw("--checkpoint 3"), after);
    assert_ne!(draw("--no-ema"), after);
    // Without guidance there is no unconditional model to choose.
    assert_eq!(draw("--domain-guidance --guidance 1"), draw("--guidance 1"));

    // The whole run may do it too.
    lab.train(&format!(
        "{DIFF_TUNING} --steps 6 --lr 0.02 --set sample.domain_guidance=true --out domain"
    ))
    .done();
    assert_eq!(
        std::fs::read(lab.path("domain/samples/after.png")).unwrap(),
        guided
    );
    lab.host("sample --run run --checkpoint 4")
        .refused(2, &["holds no checkpoint of step 4", "saved are 3, 6"]);
    lab.host("sample --run pictures")
        .refused(2, &["pictures is no run folder"]);
}

#[test]
fn exported_scenes_are_an_ordinary_folder_to_train_on() {
    let lab = Lab::new();
    let exported = lab
        .host("data export scenes:neon --count 8 --size 8 --maps depth --out scenes --json")
        .done()
        .json();
    assert_eq!(exported["images"], 8);
    let plan = lab.host("data domains").done().stdout;
    assert!(plan.contains("scenes:neon"), "{plan}");
    // The embedded backbone knows as many classes as the scenes have.
    let run = "run --data scenes --set data.size=8 --steps 2 --batch-size 2 --set sample.count=0 --set train.warmup_steps=0 --set train.trainable=bias";
    lab.host(&format!("{run} --out run")).done();
    assert_eq!(lab.metrics("run").len(), 2);
    lab.host("data export scenes:neon --count 2 --out scenes")
        .refused(2, &["scenes", "not empty"]);
    lab.host("data export scenes:neno --count 2 --out other")
        .refused(2, &["unknown scene domain `neno`", "did you mean `neon`?"]);
}

#[test]
fn the_doctor_finds_the_plugins() {
    let lab = Lab::new();
    let found = lab.host("doctor --json").done().json();
    let names: Vec<&str> = found["plugins"]
        .as_array()
        .unwrap()
        .iter()
        .map(|plugin| plugin["name"].as_str().unwrap())
        .collect();
    assert!(
        names.contains(&"diff_tuning") && names.contains(&"probe"),
        "{names:?}"
    );
    // The user's own folder has the name of the user's cache folder.
    let places = found["plugin_places"].to_string();
    let folder = lab.path("home/data/diffusion-host/plugins");
    assert!(places.contains(&*folder.to_string_lossy()), "{places}");
}

#[test]
fn a_backbone_without_a_scheduler_file_is_told_once_and_taken_for_a_plain_dit() {
    let lab = Lab::new();
    lab.copy("tiny", "bare");
    std::fs::remove_dir_all(lab.path("bare/scheduler")).unwrap();
    let draw = |backbone: &str| {
        let drawn = lab
            .host(&format!(
                "sample --backbone {backbone} --count 1 --steps 2 --out {backbone}.png"
            ))
            .done();
        (
            drawn.stderr.matches("has no scheduler_config.json").count(),
            std::fs::read(lab.path(&format!("{backbone}.png"))).unwrap(),
        )
    };
    let ((told, bare), (silent, whole)) = (draw("bare"), draw("tiny"));
    assert_eq!((told, silent), (1, 0));
    assert_eq!(bare, whole);
}
