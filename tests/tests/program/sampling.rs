//! The slots of sampling in the real program: what plugins change there, what they see, and the pictures that they return.

use integration_tests::Lab;

/// A run of two steps that draws three samples, two at a time.
const DRAWN: &str = "--plugin probe --steps 2 --set sample.count=3 --set sample.batch_size=2 --set sample.classes=[1,0,3]";

/// Everything that a run's samples show at the end, but for kinds of their own.
fn after(lab: &Lab, run: &str) -> Vec<u8> {
    std::fs::read(lab.path(run).join("samples/after.png")).unwrap()
}

#[test]
fn both_halves_of_guidance_see_the_bag_that_sample_begin_left() {
    let lab = Lab::new();
    let watched = "--set probe.watch=true --set sample.guidance=2 --set probe.timesteps=999,499.5";
    lab.train(&format!("{DRAWN} {watched} --out run")).done();
    let seen = std::fs::read_to_string(lab.path("run/plugins/probe/passes.txt")).unwrap();
    let begin = |count: usize| format!("begin {count} at [500.0, 0.0]\n");
    // The tiny backbone has four classes, so 4 is none, and two blocks with one adapted layer each.
    let step = |labels: &str, none: &str, marks: &str, count: usize| {
        let half = |name: &str, labels: &str| {
            format!(
                "denoiser_input {name} {labels} {marks}\nresiduals {name} {labels} {marks}\nlayer {count}\nlayer {count}\n"
            )
        };
        half("with", labels) + &half("without", none)
    };
    let end = |labels: &str, marks: &str, names: &str| {
        format!("output with {labels} {marks}\nnames {names}\n")
    };
    let steps = |labels: &str, none: &str, marks: &str, count: usize| {
        step(labels, none, marks, count)
            + "step 0 of 2: 999 to Some(499.5)\n"
            + &step(labels, none, marks, count)
            + "step 1 of 2: 499.5 to None\n"
    };
    let expected = begin(2)
        + &steps("[1, 0]", "[4, 4]", "[0.0, 1.0]", 2)
        + &end("[1, 0]", "[0.0, 1.0]", r#"["000000", "000001"]"#)
        + &begin(1)
        + &steps("[3]", "[4]", "[2.0]", 1)
        + &end("[3]", "[2.0]", r#"["000002"]"#);
    assert_eq!(seen, expected);
}

#[test]
fn a_plugin_plans_the_sampling_and_the_saved_run_draws_the_same() {
    let lab = Lab::new();
    let mut seen = Vec::new();
    for (number, plan) in [
        "",
        "--set probe.timesteps=999",
        "--set probe.guidance=3",
        "--set sample.sampler=ddpm --set probe.timesteps=900,300,2",
        "--set sample.sampler=dpmpp_2m --set probe.timesteps=900,300,2",
        "--set sample.sampler=euler --set probe.timesteps=900,300,2",
    ]
    .iter()
    .enumerate()
    {
        lab.train(&format!("{DRAWN} {plan} --out run{number}"))
            .done();
        let drawn = after(&lab, &format!("run{number}"));
        assert!(!seen.contains(&drawn), "{plan} changes nothing");
        lab.host(&format!(
            "sample --run run{number} --threads 1 --out again.png"
        ))
        .done();
        assert_eq!(
            std::fs::read(lab.path("again.png")).unwrap(),
            drawn,
            "{plan}"
        );
        seen.push(drawn);
    }
    // A scale that a plugin sets is that scale.
    lab.train(&format!("{DRAWN} --set sample.guidance=3 --out asked"))
        .done();
    assert_eq!(after(&lab, "asked"), seen[2]);
}

#[test]
fn plans_that_no_sampler_can_follow_are_refused_by_the_plugins_name() {
    let lab = Lab::new();
    for (plan, problem) in [
        (
            "timesteps=1000",
            "[1000.0]; they must fall strictly, from at most 999 to at least 0",
        ),
        ("timesteps=10,10", "[10.0, 10.0]; they must fall strictly"),
        ("timesteps=10,20", "[10.0, 20.0]; they must fall strictly"),
        ("timesteps=10,-1", "[10.0, -1.0]; they must fall strictly"),
        ("timesteps=NaN", "[NaN]; they must fall strictly"),
        (
            "guidance=-2",
            "its guidance scale is -2, expected 0 or more",
        ),
    ] {
        lab.train(&format!("{DRAWN} --set probe.{plan} --overwrite --out run"))
            .refused(3, &["plugin `probe`", "`sample_begin`", problem]);
    }
}

#[test]
fn pictures_of_every_kind_are_kept_beside_the_grid() {
    let lab = Lab::new();
    lab.train(&format!("{DRAWN} --set probe.kinds=true --out run"))
        .done();
    let names = |folder: &str| -> Vec<String> {
        let files = lab.files(folder).into_keys();
        files.map(|file| file.display().to_string()).collect()
    };
    assert_eq!(
        names("run/samples"),
        [
            "after-depth.png",
            "after-shade.png",
            "after.png",
            "before.png",
            "target.png"
        ]
    );
    let open = |name: &str| image::open(lab.path(&format!("run/samples/{name}.png"))).unwrap();
    let (main, depth, shade) = (open("after"), open("after-depth"), open("after-shade"));
    let image::DynamicImage::ImageLuma16(depth) = depth else {
        panic!("depth is {:?}", depth.color());
    };
    assert_eq!(
        (main.width(), main.height()),
        (depth.width(), depth.height())
    );
    let main = main.to_rgb8();
    let mut levels = std::collections::BTreeSet::new();
    for (x, y, level) in depth.enumerate_pixels() {
        let mean = main
            .get_pixel(x, y)
            .0
            .iter()
            .map(|&byte| f64::from(byte))
            .sum::<f64>()
            / 765.0;
        assert!((f64::from(level.0[0]) / 65535.0 - mean).abs() < 0.004);
        levels.insert(level.0[0]);
    }
    assert!(levels.len() > 20, "{levels:?}");
    let colourful = |pixel: &image::Rgb<u8>| pixel.0[0] != pixel.0[1];
    assert!(shade.to_rgb8().pixels().any(colourful));
    let report = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(report.contains("After 2 steps: depth") && report.contains("After 2 steps: shade"));

    let drawn = lab
        .host("sample --run run --threads 1 --out drawn/grid.png --json")
        .done()
        .json();
    let files = [
        "drawn/grid.png",
        "drawn/grid-depth.png",
        "drawn/grid-shade.png",
    ];
    assert_eq!(drawn["files"], serde_json::json!(files));
    for (file, own) in files.iter().zip(["after", "after-depth", "after-shade"]) {
        assert_eq!(
            std::fs::read(lab.path(file)).unwrap(),
            std::fs::read(lab.path(&format!("run/samples/{own}.png"))).unwrap()
        );
    }
}

#[test]
fn a_plugin_that_fails_in_sampling_ends_it_in_one_sentence() {
    let lab = Lab::new();
    for slot in ["sample_begin", "sample_step", "output"] {
        let broken = format!("--set probe.at={slot} --set probe.how=error --overwrite");
        lab.train(&format!("{DRAWN} {broken} --out run")).refused(
            3,
            &[
                "plugin `probe` failed",
                &format!("the probe was asked to fail in {slot}"),
            ],
        );
    }
}
