//! `host plugin list`, `inspect` and `lock`: what there is, without executing any of it.

use integration_tests::{Lab, Library, third_party};
use serde_json::json;

#[test]
fn plugins_are_listed_with_their_slots_and_those_that_cannot_be_used_with_the_reason() {
    let lab = Lab::new();
    let whole = Library::read(&lab.plugin("probe"));
    let half = whole.0.len() / 2;
    whole.cut(half).write(&lab.path("plugins"), "half");
    lab.write("plugins/libtext.so", "no plugin of anyone's");
    let found = lab.host("plugin list --json").done().json();
    let entry = |name: &str| {
        let mut entries = found["plugins"].as_array().unwrap().iter();
        entries.find(|entry| entry["name"] == name).cloned()
    };
    let ours = entry("diff_tuning").unwrap();
    assert_eq!(
        ours["slots"],
        json!(["prepare", "batch", "timesteps", "loss_weight"])
    );
    assert_eq!(ours["problem"], json!(null));
    let problem = entry("half").unwrap()["problem"].clone();
    assert!(problem.as_str().unwrap().contains("cut short"), "{problem}");
    assert_eq!(entry("text"), None, "what is no library is no plugin");

    let text = lab.host("plugin list").done().stdout;
    let line = |start: &str| text.lines().find(|line| line.starts_with(start)).unwrap();
    assert!(line("diff_tuning").contains("timesteps"), "{text}");
    assert!(line("half").contains("cannot be used: "), "{text}");
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

#[test]
fn a_locked_run_refuses_plugin_files_other_than_those_locked() {
    let lab = Lab::new();
    let original = std::fs::read(lab.plugin("diff_tuning")).unwrap();
    let lock = |plugins: &str| lab.host(&format!("plugin lock {plugins} --out my.lock"));
    lock("").refused(2, &["no plugins to lock"]);
    lab.host("plan --plugin diff_tuning --locked my.lock")
        .refused(2, &["my.lock"]);

    lock("--plugin diff_tuning").done();
    lab.host("plan --plugin diff_tuning --locked my.lock")
        .done();
    lab.host("plan --plugin probe --locked my.lock")
        .refused(2, &["`probe` is not in the lock file"]);

    // A byte more changes nothing but the hash.
    let changed = lab.path("plugins").join("libdiff_tuning.so");
    std::fs::create_dir_all(lab.path("plugins")).unwrap();
    std::fs::write(&changed, [original.as_slice(), &[0]].concat()).unwrap();
    lab.host("plan --plugin diff_tuning").done();
    for command in ["plan", "run"] {
        lab.host(&format!("{command} --plugin diff_tuning --locked my.lock"))
            .refused(2, &["is not the locked `diff_tuning`", "SHA-256"]);
    }
    lock("--plugin diff_tuning").done();
    lab.host("plan --plugin diff_tuning --locked my.lock")
        .done();
}
