//! `host plugin list` and `host plugin inspect`: what there is, without executing any of it.

use integration_tests::{Lab, Library, third_party};
use serde_json::json;

#[test]
fn plugins_are_listed_with_their_slots_and_those_that_cannot_be_used_with_the_reason() {
    let lab = Lab::new();
    lab.write("plugins/libbroken.so", "nothing to see");
    let found = lab.host("plugin list --json").done().json();
    let entry = |name: &str| {
        found["plugins"]
            .as_array()
            .unwrap()
            .iter()
            .find(|entry| entry["name"] == name)
            .unwrap()
            .clone()
    };
    assert_eq!(
        entry("diff_tuning")["slots"],
        json!(["prepare", "batch", "timesteps", "loss_weight"])
    );
    assert_eq!(entry("diff_tuning")["problem"], json!(null));
    assert!(
        entry("broken")["problem"]
            .as_str()
            .unwrap()
            .contains("not a shared library"),
        "{found}"
    );
    let text = lab.host("plugin list").done().stdout;
    assert!(
        text.lines()
            .any(|line| line.starts_with("diff_tuning") && line.contains("timesteps")),
        "{text}"
    );
    assert!(
        text.lines()
            .any(|line| line.starts_with("broken") && line.contains("cannot be used")),
        "{text}"
    );
}

#[test]
fn the_first_place_wins_and_the_hidden_file_is_told() {
    let lab = Lab::new();
    let copy = Library::read(&lab.plugin("probe")).write(&lab.path("plugins"), "probe");
    let text = lab.host("plugin list").done().stdout;
    assert!(text.contains(&copy.display().to_string()), "{text}");
    assert!(
        text.contains(&format!(
            "note: {} is not used",
            lab.plugin("probe").display()
        )),
        "{text}"
    );
}

#[test]
fn a_plugin_is_inspected_by_name_and_by_path() {
    let lab = Lab::new();
    let inspection = lab.host("plugin inspect diff-tuning --json").done().json();
    assert_eq!(inspection["manifest"]["id"], "diff_tuning");
    let settings = inspection["settings"].as_array().unwrap();
    let ratio = settings
        .iter()
        .find(|setting| setting["key"] == "ratio")
        .unwrap();
    assert_eq!(ratio["default"], json!(0.2));
    assert!(
        ratio["help"].as_str().unwrap().contains("memory bank"),
        "{ratio}"
    );

    let text = lab
        .host(&format!("plugin inspect {}", third_party().display()))
        .done()
        .stdout;
    for part in [
        "edge_consistency 0.1.0",
        "loss_term",
        "observe",
        "--set edge_consistency.KEY=VALUE",
        "both | horizontal | vertical",
        "default 0.1",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
}

#[test]
fn inspecting_executes_nothing_of_a_file_that_no_process_survives() {
    let lab = Lab::new();
    let deadly = Library::read(&lab.plugin("probe"))
        .deadly()
        .write(&lab.path("plugins"), "probe");
    let inspection = lab.host("plugin inspect probe --json").done().json();
    assert_eq!(inspection["path"], json!(deadly.canonicalize().unwrap()));
    assert_eq!(inspection["slots"].as_array().unwrap().len(), 17);
    lab.host("plugin list").done();
    // It would have shown.
    let ran = lab.train("--plugin probe --steps 1 --out run");
    assert_eq!(ran.code, None, "{}", ran.told());
}
