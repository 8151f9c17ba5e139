//! Plugin files that cannot be used: each is refused with exit code 2 and one sentence, before anything is written.

use integration_tests::{Lab, Library};

/// The program refuses `--plugin NAME`, and inspecting it too if it is no plugin at all.
#[track_caller]
fn check(lab: &Lab, plugin: &str, parts: &[&str]) {
    lab.train(&format!("--plugin {plugin} --out run"))
        .refused(2, parts);
    lab.host(&format!("plan --plugin {plugin}"))
        .refused(2, parts);
    assert!(!lab.path("run").exists() && !lab.path("cache").exists());
}

#[test]
fn an_unknown_plugin_lists_the_places_searched_and_near_names() {
    let lab = Lab::new();
    let searched = lab.path("plugins").display().to_string();
    let beside = lab.plugin("probe").parent().unwrap().display().to_string();
    check(
        &lab,
        "dif-tunning",
        &[
            "no plugin `dif-tunning`",
            "libdif_tunning.so",
            &searched,
            "HOST_PLUGIN_PATH",
            &beside,
            "did you mean `diff_tuning`?",
        ],
    );
    check(
        &lab,
        "./libnone.so",
        &["no plugin file", "libnone.so", "No such file"],
    );
}

#[test]
fn what_is_not_a_shared_library_is_told_for_what_it_is() {
    let lab = Lab::new();
    lab.write("plugins/libtext.so", "#!/bin/sh\necho hello\n");
    lab.write("plugins/libempty.so", "");
    check(&lab, "text", &["libtext.so", "is not a shared library"]);
    check(
        &lab,
        "empty",
        &["libempty.so", "is not a shared library", "empty"],
    );
    check(
        &lab,
        "./pictures/blobs/0.png",
        &["0.png", "is not a shared library"],
    );
}

#[test]
fn a_truncated_library_is_refused_at_every_length() {
    let lab = Lab::new();
    let whole = Library::read(&lab.plugin("diff_tuning"));
    let length = whole.0.len();
    for keep in [64, 4096, length / 3, length / 2, length - 4096, length - 1] {
        whole.clone().cut(keep).write(&lab.path("plugins"), "cut");
        check(&lab, "cut", &["libcut.so", "cut short", &keep.to_string()]);
    }
}

#[test]
fn a_library_for_another_processor_is_refused() {
    let lab = Lab::new();
    Library::read(&lab.plugin("diff_tuning"))
        .for_another_processor()
        .write(&lab.path("plugins"), "foreign");
    check(
        &lab,
        "foreign",
        &["libforeign.so", "is built for", "this host runs on"],
    );
}

#[test]
fn a_library_that_is_no_plugin_is_refused() {
    let lab = Lab::new();
    // A procedural macro is a shared library that every machine with these tests has.
    let deps = lab.plugin("probe").with_file_name("deps");
    let library = std::fs::read_dir(deps)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with("libserde_derive") && name.ends_with(".so")
        });
    Library::read(&library.unwrap()).write(&lab.path("plugins"), "other");
    check(
        &lab,
        "other",
        &[
            "libother.so",
            "is a shared library but not a plugin",
            "export_plugin!",
        ],
    );
}

#[test]
fn a_plugin_for_a_newer_host_is_refused_and_can_still_be_inspected() {
    let lab = Lab::new();
    let newer = Library::read(&lab.plugin("probe")).replaced(
        r#""needs":{"major":1,"minor":0}"#,
        r#""needs":{"major":1,"minor":7}"#,
    );
    newer.write(&lab.path("plugins"), "probe");
    check(
        &lab,
        "probe",
        &[
            "`probe` needs host ABI 1.7",
            "this host offers 1.",
            "update the host",
        ],
    );
    let inspection = lab.host("plugin inspect probe").done();
    assert!(
        inspection.stdout.contains("needs host ABI 1.7"),
        "{}",
        inspection.told()
    );
}

#[test]
fn a_plugin_whose_code_and_manifest_differ_is_refused_before_its_first_hook() {
    let lab = Lab::new();
    let symbol = "_1as_0lib_1header_0root_bmodule_bloader";
    Library::read(&lab.plugin("probe"))
        .replaced(symbol, &symbol.replace("root", "toor"))
        .write(&lab.path("plugins"), "probe");
    lab.train("--plugin probe --out run")
        .refused(3, &["libprobe.so", "exports no plugin"]);
}

#[test]
fn settings_of_a_plugin_are_checked_before_any_of_its_code_runs() {
    let lab = Lab::new();
    Library::read(&lab.plugin("probe"))
        .deadly()
        .write(&lab.path("plugins"), "probe");
    check(
        &lab,
        "probe --set probe.scael=2",
        &["probe: unknown setting `scael`, did you mean `scale`?"],
    );
    check(
        &lab,
        "probe --set probe.scale=101",
        &["probe: `scale` must be in -100..=100", "got 101"],
    );
    check(
        &lab,
        "probe --set probe.how=explode",
        &["`how`", "explode", "panic"],
    );
    check(&lab, "probe --set probe.gain=maybe", &["`gain`", "maybe"]);
    check(
        &lab,
        "diff_tuning --set diff_tuning.ratio=1.5",
        &["diff_tuning: `ratio` must be in 0.0..=1.0", "got 1.5"],
    );
    check(
        &lab,
        "diff_tuning --set probe.scale=2",
        &["`probe`", "neither a section nor a plugin of this run"],
    );
}

#[cfg(unix)]
#[test]
fn a_file_that_everyone_may_write_is_not_loaded() {
    use std::os::unix::fs::PermissionsExt;
    let lab = Lab::new();
    let file = Library::read(&lab.plugin("probe")).write(&lab.path("plugins"), "probe");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    check(
        &lab,
        "probe",
        &["libprobe.so", "can be written by every user", "chmod o-w"],
    );
}
