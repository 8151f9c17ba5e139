//! Flags and run files with mistakes: exit code 2 and one sentence that names the key, the place and what was meant.

use integration_tests::Lab;

#[track_caller]
fn check(lab: &Lab, arguments: &str, parts: &[&str]) {
    lab.train(&format!("--out run {arguments}"))
        .refused(2, parts);
    lab.host(&format!("plan {arguments}")).refused(2, parts);
    assert!(!lab.path("run").exists());
}

#[test]
fn an_unknown_key_is_told_with_the_nearest_one() {
    let lab = Lab::new();
    check(
        &lab,
        "--set train.batchsize=3",
        &[
            "unknown key `train.batchsize`",
            "--set",
            "did you mean `batch_size`?",
        ],
    );
    check(
        &lab,
        "--set trian.steps=3",
        &["`trian`", "did you mean `train`?"],
    );
    check(
        &lab,
        "--set steps",
        &["`--set steps` is not of the form SECTION.KEY=VALUE"],
    );
    lab.write("typo.toml", "[train]\nstepps = 3\n");
    check(
        &lab,
        "--config typo.toml",
        &[
            "unknown key `train.stepps`",
            "typo.toml",
            "did you mean `steps`?",
        ],
    );
}

#[test]
fn a_value_out_of_its_range_is_told_with_the_range_and_the_place() {
    let lab = Lab::new();
    check(
        &lab,
        "--lr -3",
        &["train.lr must be above 0", "--lr gives -3"],
    );
    check(
        &lab,
        "--steps 0",
        &["train.steps must be at least 1", "--steps gives 0"],
    );
    check(
        &lab,
        "--set train.ema_decay=1",
        &["train.ema_decay must be", "not including, 1"],
    );
    check(
        &lab,
        "--set train.schedule=cosin",
        &["train.schedule", "cosine"],
    );
    check(&lab, "--set sample.eta=2", &["sample.eta must be 0 to 1"]);
    lab.write("range.toml", "[train]\nlabel_dropout = 1.5\n");
    check(
        &lab,
        "--config range.toml",
        &["train.label_dropout must be 0 to 1", "range.toml", "1.5"],
    );
}

#[test]
fn a_run_file_that_is_no_toml_is_told_with_line_and_column() {
    let lab = Lab::new();
    lab.write("torn.toml", "[train]\nsteps = \n");
    check(&lab, "--config torn.toml", &["torn.toml, line 2, column"]);
    check(
        &lab,
        "--config none.toml",
        &["cannot read the run file", "none.toml", "No such file"],
    );
}

#[test]
fn a_trainable_selection_that_matches_nothing_is_refused_before_anything_is_written() {
    let lab = Lab::new();
    let refused = |set: &str, parts: &[&str]| {
        lab.train(&format!("--set train.trainable={set} --out run"))
            .refused(2, parts);
        assert!(!lab.path("run").exists(), "{set} left a run folder behind");
    };
    refused(
        r#"["transformer_blocks.*.attn.to_q.weight"]"#,
        &[
            "`transformer_blocks.*.attn.to_q.weight`",
            "matches no parameter",
            "near: `transformer_blocks.",
        ],
    );
    refused("none", &["nothing to train", "train.trainable"]);
}
