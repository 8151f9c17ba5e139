//! The command line as a user meets it: names, precedence, sentences, exit codes.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use clap::CommandFactory;

use super::failure::Failure;
use super::*;
use crate::report::Progress;

/// Runs a command line, without the program's name.
fn host(arguments: &[&str]) -> Result<Listing, Failure> {
    let arguments: Vec<OsString> = std::iter::once("host")
        .chain(arguments.iter().copied())
        .map(OsString::from)
        .collect();
    let cli = parse(&arguments).unwrap_or_else(|error| panic!("{error}"));
    dispatch(cli.command, &Progress::hidden())
}

/// Checks the exit code and the sentence of a command line that fails.
fn check_failure(arguments: &[&str], code: u8, message: &str, help: Option<&str>) {
    let failure = host(arguments).unwrap_err();
    assert_eq!(
        (
            failure.code,
            failure.message.as_str(),
            failure.help.as_deref()
        ),
        (code, message, help)
    );
}

/// Checks that clap refuses a command line, with these words among its own.
fn check_usage(arguments: &[&str], words: &str) {
    let arguments: Vec<OsString> = std::iter::once("host")
        .chain(arguments.iter().copied())
        .map(OsString::from)
        .collect();
    let error = parse(&arguments).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains(words), "{error}");
}

fn json(arguments: &[&str]) -> serde_json::Value {
    host(arguments).unwrap().json.unwrap()
}

#[test]
fn clap_finds_no_fault_in_the_definitions() {
    Cli::command().debug_assert();
}

#[test]
fn every_listing_is_also_json() {
    assert!(
        json(&["doctor", "--json"])["environment"]["cpus"]
            .as_u64()
            .unwrap()
            >= 1
    );
    assert!(
        json(&["doctor", "--json"])["embedded_backbone"]["parameters"]
            .as_u64()
            .unwrap()
            > 100_000
    );
    let plugins = json(&["plugin", "list", "--json"]);
    assert!(
        plugins["plugins"].is_array() && plugins["searched"].is_array(),
        "{plugins}"
    );
    assert_eq!(json(&["plan", "--json"])["plugins"], serde_json::json!([]));
    let domains = json(&["data", "domains", "--json"]);
    assert_eq!(domains[0]["name"], "studio");
    assert_eq!(domains[0]["classes"][0], "sphere");
}

#[test]
fn flags_reach_their_keys_and_plan_tells_where_values_come_from() {
    let plan = json(&[
        "plan",
        "--backbone",
        "dit",
        "--data",
        "scenes:neon",
        "--steps",
        "7",
        "--batch-size",
        "3",
        "--lr",
        "2",
        "--seed",
        "9",
        "--threads",
        "1",
        "--checkpoint-every",
        "5",
        "--out",
        "there",
        "--set",
        "sample.guidance=3",
        "--json",
    ]);
    let settings = plan["settings"].as_array().unwrap();
    let setting = |key: &str| {
        settings
            .iter()
            .find(|setting| setting["key"] == key)
            .unwrap()
    };
    for (key, value, flag) in [
        ("data.source", serde_json::json!("scenes:neon"), "--data"),
        ("train.steps", 7.into(), "--steps"),
        ("train.batch_size", 3.into(), "--batch-size"),
        ("train.lr", 2.0.into(), "--lr"),
        ("train.seed", 9.into(), "--seed"),
        ("train.threads", 1.into(), "--threads"),
        ("train.checkpoint_every", 5.into(), "--checkpoint-every"),
        ("sample.guidance", 3.0.into(), "--set"),
    ] {
        assert_eq!(
            (&setting(key)["value"], setting(key)["where"].as_str()),
            (&value, Some(flag)),
            "{key}"
        );
    }
    for (key, end) in [("backbone.path", "dit"), ("run.out", "there")] {
        let path = Path::new(setting(key)["value"].as_str().unwrap());
        assert!(
            path.is_absolute() && path.ends_with(end),
            "{}",
            path.display()
        );
    }
    assert_eq!(setting("train.eps")["from"], "default");
}

#[test]
fn a_plan_without_plugins_says_so_and_lists_every_slot() {
    let text = host(&["plan"]).unwrap().text;
    assert!(
        text.starts_with("no plugins: standard fine-tuning\n"),
        "{text}"
    );
    for slot in crate::plugin::slots::Slot::ALL {
        assert!(text.contains(slot.name()), "{slot}");
    }
}

#[test]
fn wrong_input_ends_with_2_and_one_sentence() {
    check_failure(
        &["plan", "--set", "train.stepps=1"],
        2,
        "unknown key `train.stepps` in --set, did you mean `steps`?",
        None,
    );
    check_failure(
        &["plan", "--lr", "-1"],
        2,
        "train.lr must be above 0, but --lr gives -1.0",
        None,
    );
    check_failure(
        &["plan", "--steps", "0"],
        2,
        "train.steps must be at least 1, but --steps gives 0",
        None,
    );
    check_failure(
        &["plan", "--set", "lr=1"],
        2,
        "`--set lr=1` is not of the form SECTION.KEY=VALUE",
        Some("for example `--set train.lr=1e-4` or `--set diff_tuning.ratio=0.2`"),
    );
    check_failure(
        &["plan", "--set", "lora.rank=4"],
        2,
        "`--set lora.rank=4`: `lora` is neither a section nor a plugin of this run; known: run, backbone, data, train, sample",
        Some("if `lora` is a plugin, add `--plugin lora`"),
    );
    check_failure(
        &["model", "inspect", "nowhere/at/all"],
        2,
        "no backbone at nowhere/at/all: there is no such file or folder",
        None,
    );
    let failure = host(&["plan", "--plugin", "no_such_plugin"]).unwrap_err();
    assert_eq!(failure.code, 2);
    assert!(
        failure.message.starts_with("no plugin `no_such_plugin` ("),
        "{}",
        failure.message
    );
    let failure = host(&["plugin", "inspect", "./nowhere.so"]).unwrap_err();
    assert_eq!(failure.code, 2);
    assert!(
        failure.message.starts_with("no plugin file ./nowhere.so: "),
        "{}",
        failure.message
    );
}

#[test]
fn wrong_usage_is_claps_to_tell() {
    check_usage(&["plan", "--steps", "-3"], "-3 is not in 0..");
    check_usage(&["plan", "--stepps", "3"], "--steps");
    check_usage(&["plan", "--resume", "--overwrite"], "cannot be used with");
    check_usage(&["plan", "--force"], "--resume");
    check_usage(
        &[
            "data",
            "export",
            "scenes:neon",
            "--out",
            "x",
            "--maps",
            "depht",
        ],
        "depth, normals, mask",
    );
    check_usage(&["plan", "--quiet", "--verbose"], "cannot be used with");
}

#[test]
fn help_explains_the_exit_codes() {
    let help = Cli::command().render_long_help().to_string();
    for code in [
        "    2  wrong input",
        "    3  a plugin failed",
        "    4  training failed",
        "  130  interrupted",
    ] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn scenes_are_exported_as_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("neon");
    let arguments = [
        "data",
        "export",
        "scenes:neon",
        "--count",
        "3",
        "--size",
        "16",
        "--maps",
        "depth",
        "--json",
        "--out",
    ];
    let told = json(&[&arguments[..], &[out.to_str().unwrap()]].concat());
    assert_eq!(told["images"], 3);
    assert_eq!(
        std::fs::read_to_string(out.join("metadata.jsonl"))
            .unwrap()
            .lines()
            .count(),
        3
    );
    let again = host(&[
        "data",
        "export",
        "scenes:neon",
        "--out",
        out.to_str().unwrap(),
    ])
    .unwrap_err();
    assert_eq!(again.code, 2);
}

#[test]
fn resuming_reads_the_run_folders_own_file() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("run.toml"), "[train]\nsteps = 77\n").unwrap();
    let out = folder.path().to_str().unwrap();
    let steps = |arguments: &[&str]| {
        let plan = json(&[&["plan", "--json", "--out", out][..], arguments].concat());
        let settings = plan["settings"].as_array().unwrap().clone();
        settings
            .into_iter()
            .find(|setting| setting["key"] == "train.steps")
            .unwrap()["value"]
            .clone()
    };
    assert_eq!(steps(&["--resume"]), 77);
    assert_eq!(steps(&["--resume", "--steps", "80"]), 80);
    assert_eq!(steps(&[]), 200);
}

#[test]
fn resuming_refuses_what_the_saved_state_does_not_fit_and_warns_of_what_diverges() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("run.toml"),
        "[train]\nsteps = 77\nseed = 3\nwarmup_steps = 7\n",
    )
    .unwrap();
    let out = folder.path().to_str().unwrap();
    let prepare = |arguments: &[&str]| {
        #[derive(Debug, Parser)]
        struct Run {
            #[command(flatten)]
            run: arguments::RunArguments,
        }
        let arguments = [&["host", "--out", out, "--resume"][..], arguments].concat();
        prepare::prepare(&Run::try_parse_from(arguments).unwrap().run)
    };
    assert!(prepare(&["--steps", "99"]).unwrap().notes.is_empty());
    assert_eq!(
        prepare(&["--lr", "0.5"]).unwrap().notes,
        ["train.lr was 0.0003 and is now 0.5, so the run goes on otherwise than it would have"]
    );
    let failure = prepare(&["--seed", "4", "--set", "data.flip=true"]).unwrap_err();
    assert_eq!(failure.code, 2);
    let sentence = "with other settings: data.flip was false and is now true, train.seed was 3 and is now 4; use";
    assert!(failure.message.contains(sentence), "{}", failure.message);
}

#[derive(Debug, Parser)]
struct OnlySample {
    #[command(flatten)]
    arguments: sample::Arguments,
}

fn draw(arguments: &[&str]) -> Result<Listing, Failure> {
    let parsed = OnlySample::try_parse_from(std::iter::once(&"sample").chain(arguments)).unwrap();
    sample::draw(
        &parsed.arguments,
        &Progress::hidden(),
        &crate::cancel::Cancel::default(),
    )
}

#[test]
fn a_run_draws_from_its_folder_what_it_drew_at_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let grid = folder.path().join("grid.png");
    let (out, grid) = (out.to_str().unwrap(), grid.to_str().unwrap());
    #[derive(Debug, Parser)]
    struct Run {
        #[command(flatten)]
        run: arguments::RunArguments,
    }
    let settings = [
        "sample.count=2",
        "sample.steps=2",
        "data.count=8",
        "train.trainable=bias",
        "train.checkpoint_every=1",
    ];
    let arguments = [
        "host",
        "--out",
        out,
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--lr",
        "0.01",
    ];
    let sets = settings.iter().flat_map(|set| ["--set", set]);
    let arguments = Run::try_parse_from(arguments.into_iter().chain(sets))
        .unwrap()
        .run;
    let prepared = prepare::prepare(&arguments).unwrap();
    let job = crate::train::run::Job {
        resolved: prepared.resolved,
        plan: prepared.plugins,
        force: false,
        existing: crate::train::folder::Existing::Refuse,
        command: "host run".to_owned(),
    };
    crate::train::run::run(&job, &Progress::hidden(), &crate::cancel::Cancel::default()).unwrap();

    let after = std::fs::read(Path::new(out).join("samples/after.png")).unwrap();
    draw(&["--run", out, "--out", grid]).unwrap();
    assert_eq!(
        std::fs::read(grid).unwrap(),
        after,
        "the newest checkpoint, averaged"
    );
    for other in [
        &["--no-ema"][..],
        &["--checkpoint", "1"],
        &["--seed", "5"],
        &["--class", "torus"],
    ] {
        draw(&[&["--run", out, "--out", grid][..], other].concat()).unwrap();
        assert_ne!(std::fs::read(grid).unwrap(), after, "{other:?}");
    }

    let failure = draw(&["--run", out, "--out", grid, "--checkpoint", "7"]).unwrap_err();
    assert_eq!(
        (failure.code, failure.message),
        (
            2,
            format!("`{out}` holds no checkpoint of step 7; saved are 1, 2")
        )
    );
    let failure = draw(&["--run", out, "--out", grid, "--class", "toruss"]).unwrap_err();
    assert!(
        failure
            .message
            .ends_with("and 6 for no class, did you mean `torus`?"),
        "{}",
        failure.message
    );
}

#[test]
fn a_folder_without_a_run_draws_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    let failure = draw(&["--run", path]).unwrap_err();
    assert_eq!(
        (failure.code, failure.message),
        (
            2,
            format!("{path} is no run folder: there is no run.toml in it")
        )
    );
    assert_eq!(
        draw(&["--count", "0"]).unwrap_err().message,
        "there is nothing to draw: --count is 0"
    );
    check_usage(
        &["sample", "--run", "a", "--backbone", "b"],
        "cannot be used with",
    );
    check_usage(&["sample", "--checkpoint", "3"], "--run");
}

#[test]
fn tables_align_and_numbers_group() {
    let rows = [
        ["a", "bb"].map(str::to_owned),
        ["ccc", "d"].map(str::to_owned),
    ];
    assert_eq!(text::table(&rows), "a    bb\nccc  d\n");
    assert_eq!(text::grouped(5_512_368), "5,512,368");
    assert_eq!(text::grouped(12), "12");
}

#[test]
fn the_colour_choice_is_known_before_parsing() {
    let choice = |arguments: &[&str]| {
        text::clap_color(&arguments.iter().map(OsString::from).collect::<Vec<_>>())
    };
    assert_eq!(
        choice(&["host", "--color", "never", "plan"]),
        clap::ColorChoice::Never
    );
    assert_eq!(
        choice(&["host", "plan", "--color=always"]),
        clap::ColorChoice::Always
    );
    assert_eq!(choice(&["host", "plan"]), clap::ColorChoice::Auto);
}
