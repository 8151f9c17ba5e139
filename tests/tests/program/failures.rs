//! What fails while a run goes: the last good step is on disk, and the sentence says what happened.

use integration_tests::{DIFF_TUNING, Lab};

#[test]
fn a_panic_in_a_plugin_is_told_with_its_place_and_keeps_the_last_good_step() {
    let lab = Lab::new();
    let broken = "--plugin probe --set probe.at=batch --set probe.how=panic --set probe.after=3 --steps 8 --set sample.count=0";
    let sentence = lab.train(&format!("{broken} --out run")).refused(
        3,
        &[
            "plugin `probe` panicked in `batch` at step 4",
            "the probe was asked to panic in batch",
            "probe/src/lib.rs:",
        ],
    );
    let line = sentence.rsplit(':').next().unwrap().trim_end_matches(')');
    assert!(line.parse::<u32>().is_ok(), "{sentence}");
    assert_eq!(lab.checkpoints("run"), [3]);
    assert_eq!(lab.metrics("run").len(), 3);
    let page = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(page.contains("the probe was asked to panic in batch"));

    // The saved state is that of the same run without the panic.
    let sound = "--plugin probe --set probe.at= --set probe.how=panic --set probe.after=3 --set sample.count=0";
    lab.train(&format!("{sound} --steps 3 --out sound")).done();
    assert_eq!(lab.checkpoint("run", 3), lab.checkpoint("sound", 3));

    let again = lab
        .host("run --resume --out run")
        .refused(3, &["panicked in `batch` at step 4"]);
    assert_eq!(again, sentence);
    assert_eq!(lab.checkpoints("run"), [3]);
}

#[test]
fn a_plugin_that_fails_in_any_slot_ends_the_run_in_one_sentence() {
    let lab = Lab::new();
    for slot in [
        "build",
        "trainable",
        "prepare",
        "timesteps",
        "noise",
        "layer",
        "residuals",
        "objective",
        "loss_weight",
        "loss_term",
        "observe",
        "state",
    ] {
        let run = lab.train(&format!("--plugin probe --set probe.at={slot} --set probe.how=error --steps 2 --set sample.count=0 --out run_{slot}"));
        run.refused(
            3,
            &[
                "plugin `probe` failed",
                &format!("the probe was asked to fail in {slot}"),
            ],
        );
    }
    for (slot, what) in [
        ("noise", "noise"),
        ("layer", "layer"),
        ("loss_weight", "loss"),
        ("timesteps", "timesteps"),
    ] {
        let run = lab.train(&format!("--plugin probe --set probe.at={slot} --set probe.how=shape --steps 2 --set sample.count=0 --out shape_{slot}"));
        run.refused(3, &["plugin `probe`", what, "[3]", "expected"]);
    }
}

#[test]
fn an_adapter_that_matches_no_layer_is_refused() {
    let lab = Lab::new();
    let run = lab
        .train("--plugin probe --set probe.layers=to_qq --steps 2 --set sample.count=0 --out run");
    run.refused(
        3,
        &["plugin `probe`", "adapts none of the backbone's", "layers"],
    );
}

#[test]
fn a_loss_that_is_no_number_stops_the_run_with_the_last_good_step() {
    let lab = Lab::new();
    let run = lab.train("--lr 1e30 --set train.clip=0 --steps 30 --set sample.count=0 --out run");
    run.refused(
        4,
        &[
            "stopped before it was applied",
            "lower the learning rate (train.lr)",
        ],
    );
    let steps = lab.metrics("run");
    assert!(
        steps.iter().all(|step| step["loss"].is_finite()),
        "{steps:?}"
    );
    assert_eq!(lab.checkpoints("run"), [steps.len() as u64]);
}

#[cfg(unix)]
#[test]
fn a_disk_that_takes_no_more_keeps_the_earlier_checkpoint_and_the_run_can_go_on() {
    let lab = Lab::new();
    let settings = format!(
        "{DIFF_TUNING} --checkpoint-every 2 --set sample.count=0 --set train.tensorboard=false"
    );
    lab.train(&format!("{settings} --steps 5 --out straight"))
        .done();
    lab.train(&format!("{settings} --steps 2 --out run")).done();

    // A limit on the size of files stands for the full disk, which a test cannot make: a write fails there as it would on one.
    let mut limited = std::process::Command::new("sh");
    let program = lab.command();
    limited
        .args(["-c", "trap '' XFSZ; ulimit -f 200; exec \"$@\"", "sh"])
        .arg(program.get_program());
    limited
        .args(["run", "--resume", "--out", "run", "--steps", "5"])
        .current_dir(lab.path(""));
    limited.envs(
        program
            .get_envs()
            .filter_map(|(name, value)| Some((name, value?))),
    );
    let output = limited.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    let error = told
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap();
    assert!(
        error.contains("cannot write") && error.contains("checkpoints"),
        "{error}"
    );
    assert_eq!(
        lab.checkpoints("run"),
        [2],
        "nothing half-written is left beside the earlier checkpoint"
    );

    lab.host("run --resume --out run --steps 5").done();
    assert_eq!(lab.checkpoint("run", 5), lab.checkpoint("straight", 5));
}

#[test]
fn a_damaged_checkpoint_is_named_and_an_earlier_one_serves_once_it_is_gone() {
    let lab = Lab::new();
    lab.train("--steps 4 --checkpoint-every 2 --set sample.count=0 --out run")
        .done();
    let newest = lab.path("run/checkpoints/step-4");
    let last = lab.checkpoint("run", 4);
    for file in lab.files("run/checkpoints/step-4").keys() {
        let whole = std::fs::read(newest.join(file)).unwrap();
        std::fs::write(newest.join(file), &whole[..whole.len() / 2]).unwrap();
        let name = file.display().to_string();
        lab.host("run --resume --out run --steps 5")
            .refused(2, &["cannot read", "step-4", &name]);
        std::fs::write(newest.join(file), whole).unwrap();
    }
    std::fs::remove_dir_all(newest).unwrap();
    lab.host("run --resume --out run --steps 4").done();
    assert_eq!(lab.checkpoint("run", 4), last);
}
