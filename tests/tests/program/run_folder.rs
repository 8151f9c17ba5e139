//! A run folder that exists is never touched by accident.

use integration_tests::Lab;

#[test]
fn a_run_folder_that_exists_is_refused_until_overwriting_is_asked_for() {
    let lab = Lab::new();
    lab.train("--steps 2 --set sample.count=0 --out run").done();
    lab.write("run/notes.txt", "mine");
    let before = lab.files("run");
    lab.train("--steps 3 --set sample.count=0 --out run")
        .refused(
            2,
            &["run", "exists already", "--resume", "--overwrite", "--out"],
        );
    assert_eq!(lab.files("run"), before);

    lab.train("--steps 3 --set sample.count=0 --out run --overwrite")
        .done();
    assert_eq!(lab.metrics("run").len(), 3);
    assert_eq!(
        lab.checkpoints("run"),
        [3],
        "the first run's checkpoint is gone"
    );
    assert_eq!(
        std::fs::read_to_string(lab.path("run/notes.txt")).unwrap(),
        "mine"
    );
}

#[test]
fn overwriting_leaves_a_folder_alone_that_holds_no_run() {
    let lab = Lab::new();
    let before = lab.files("pictures");
    lab.train("--steps 1 --out pictures --overwrite")
        .refused(2, &["pictures", "holds no run", "run.toml", "--out"]);
    assert_eq!(lab.files("pictures"), before);
}

#[test]
fn resuming_and_overwriting_at_once_is_wrong_usage() {
    let outcome = Lab::new().host("run --resume --overwrite").ended(2);
    assert!(
        outcome.stderr.contains("cannot be used with"),
        "{}",
        outcome.told()
    );
}

#[test]
fn the_page_of_a_run_is_made_anew_from_its_folder() {
    let lab = Lab::new();
    lab.train("--steps 2 --set sample.count=1 --out run").done();
    let page = lab.path("run/report.html");
    let first = std::fs::read_to_string(&page).unwrap();
    std::fs::remove_file(&page).unwrap();
    let told = lab.host("report --run run").done();
    assert_eq!(told.stdout.trim(), "wrote run/report.html");
    assert_eq!(std::fs::read_to_string(&page).unwrap(), first);

    // It follows the folder: a run that was killed early has no report.json.
    std::fs::remove_file(lab.path("run/report.json")).unwrap();
    std::fs::copy(
        lab.path("run/samples/before.png"),
        lab.path("run/samples/by_hand.png"),
    )
    .unwrap();
    let json = lab.host("report --run run --json").done().json();
    assert_eq!(json["report"], "run/report.html");
    let again = std::fs::read_to_string(&page).unwrap();
    assert!(again.contains("by_hand") && !first.contains("by_hand"));
    lab.host("report --run pictures")
        .refused(2, &["pictures is no run folder", "run.toml"]);
}
