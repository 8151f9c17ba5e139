//! Which plugins run together, and what `host plan` says of it before anything loads.

use integration_tests::{DIFF_TUNING, Lab, workspace};
use serde_json::{Value, json};

#[test]
fn two_plugins_on_one_exclusive_slot_are_refused_in_one_sentence_before_anything_is_written() {
    let lab = Lab::new();
    let parts = [
        "`diff_tuning`",
        "`probe`",
        "exclusive slot `timesteps`",
        "drop one of them",
        "`--set probe.without=timesteps`",
    ];
    let ran = lab
        .train(&format!("{DIFF_TUNING} --plugin probe --out run"))
        .refused(2, &parts);
    let planned = lab
        .host("plan --plugin diff_tuning --plugin probe --backbone tiny --data pictures --out run")
        .refused(2, &parts);
    assert_eq!(ran, planned, "both refuse in the same words");
    assert!(!lab.path("run").exists() && !lab.path("cache").exists());

    let twice = [
        "run",
        "--plugin",
        "probe",
        "--plugin",
        "probe as second",
        "--out",
        "run",
    ];
    lab.host_with(&twice).refused(
        2,
        &["`probe`", "`second`", "exclusive slot", "second.without="],
    );
    lab.train("--plugin probe --plugin probe --out run")
        .refused(2, &["`probe`"]);

    // The way out that the sentence names is one.
    lab.train(&format!("{DIFF_TUNING} --plugin probe --set probe.without=timesteps --steps 1 --set sample.count=0 --out run")).done();
}

/// The value of a setting in a plan, and where it comes from.
#[track_caller]
fn setting(plan: &Value, key: &str) -> (Value, String) {
    let settings = plan["settings"].as_array().unwrap();
    let setting = settings
        .iter()
        .find(|setting| setting["key"] == key)
        .unwrap_or_else(|| panic!("no {key} in the plan"));
    (
        setting["value"].clone(),
        setting["where"].as_str().unwrap().to_owned(),
    )
}

#[test]
fn a_plan_shows_the_step_and_where_every_setting_comes_from() {
    let lab = Lab::new();
    lab.write("run.toml", "[train]\nlr = 0.25\nseed = 9\n[[plugin]]\nname = \"diff_tuning\"\nweight = 0.5\nratio = 0.3\n");
    let line = "plan --config run.toml --steps 7 --seed 4 --set diff_tuning.ratio=0.4 --set train.clip=2 --out run";
    let plan = lab.host(&format!("{line} --json")).done().json();
    for (key, value, origin) in [
        ("train.lr", json!(0.25), "run.toml"),
        ("train.seed", json!(4), "--seed"),
        ("train.steps", json!(7), "--steps"),
        ("train.clip", json!(2.0), "--set"),
        ("diff_tuning.weight", json!(0.5), "run.toml"),
        ("diff_tuning.ratio", json!(0.4), "--set"),
        ("diff_tuning.memory", json!(128), "the default"),
        ("train.batch_size", json!(32), "the default"),
    ] {
        assert_eq!(setting(&plan, key), (value, origin.to_owned()), "{key}");
    }
    let slot = |name: &str| {
        plan["slots"]
            .as_array()
            .unwrap()
            .iter()
            .find(|slot| slot["slot"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        (
            slot("timesteps")["mode"].clone(),
            slot("timesteps")["plugins"].clone()
        ),
        (json!("exclusive"), json!(["diff_tuning"]))
    );
    assert_eq!(slot("noise")["plugins"], json!([]));
    assert_eq!(plan["plugins"][0]["id"], "diff_tuning");

    let text = lab.host(line).done().stdout;
    let row = |start: &str| {
        text.lines()
            .find(|line| line.starts_with(start))
            .unwrap()
            .split_whitespace()
            .collect::<Vec<_>>()
    };
    assert_eq!(row("train.steps"), ["train.steps", "7", "--steps"]);
    assert_eq!(row("timesteps"), ["timesteps", "exclusive", "diff_tuning"]);
    assert!(
        !lab.path("run").exists() && !lab.path("cache").exists(),
        "planning writes nothing"
    );
}

#[test]
fn every_example_is_a_run_file_that_can_be_planned() {
    let lab = Lab::new();
    let mut planned = 0;
    for entry in std::fs::read_dir(workspace().join("examples")).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_some_and(|ending| ending == "toml") {
            lab.host(&format!("plan --config {}", file.display()))
                .done();
            planned += 1;
        }
    }
    assert!(planned >= 8, "{planned} examples");
}

#[test]
fn a_plan_reads_neither_backbone_nor_data_nor_executes_a_plugin() {
    let lab = Lab::new();
    let deadly = integration_tests::Library::read(&lab.plugin("probe"))
        .deadly()
        .write(&lab.path("plugins"), "probe");
    let plan = lab
        .host("plan --plugin probe --backbone nowhere --data nowhere --json")
        .done()
        .json();
    assert_eq!(
        plan["plugins"][0]["path"],
        json!(deadly.canonicalize().unwrap())
    );
}

#[test]
fn the_order_on_the_command_line_is_the_order_in_a_chain() {
    let lab = Lab::new();
    let chain = |plugins: &str| {
        let plan = lab
            .host(&format!(
                "plan {plugins} --set probe.without=timesteps --json"
            ))
            .done()
            .json();
        plan["slots"]
            .as_array()
            .unwrap()
            .iter()
            .find(|slot| slot["slot"] == "batch")
            .unwrap()["plugins"]
            .clone()
    };
    assert_eq!(
        chain("--plugin diff_tuning --plugin probe"),
        json!(["diff_tuning", "probe"])
    );
    assert_eq!(
        chain("--plugin probe --plugin diff_tuning"),
        json!(["probe", "diff_tuning"])
    );
}
