//! Resolution as a user meets it: what wins, what is refused, and in which words.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use toml::Value;

use super::*;

/// Writes `text` as `run.toml` in a fresh folder.
fn run_file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run.toml");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn lr_flag(value: f64) -> Assignment {
    Assignment {
        section: "train",
        key: "lr",
        value: Value::Float(value),
        flag: "--lr",
    }
}

fn plugins(arguments: &[&str]) -> Vec<PluginArgument> {
    arguments.iter().map(|text| text.parse().unwrap()).collect()
}

fn with_sets(sets: &[&str]) -> Overrides {
    Overrides {
        plugins: plugins(&["diff_tuning"]),
        sets: sets.iter().map(|set| (*set).to_owned()).collect(),
        ..Overrides::default()
    }
}

/// The sentence in which a run file is refused, with the temporary folder cut off its name.
fn check_file(text: &str, sentence: &str) {
    let (folder, path) = run_file(text);
    let error = resolve(&Overrides {
        config: Some(path),
        ..Overrides::default()
    })
    .unwrap_err();
    let said = error
        .to_string()
        .replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(said, sentence);
}

/// The sentence in which a `--set` is refused.
fn check_set(set: &str, sentence: &str) {
    assert_eq!(
        resolve(&with_sets(&[set])).unwrap_err().to_string(),
        sentence
    );
}

#[test]
fn nothing_but_a_plugin_makes_a_whole_run() {
    let resolved = resolve(&with_sets(&[])).unwrap();
    assert_eq!(resolved.config.run.name, "diff_tuning");
    assert!(resolved.out().is_absolute() && resolved.out().ends_with("runs/diff_tuning"));
    assert_eq!(resolved.config.train, TrainSection::default());
    assert_eq!(*resolved.origins.of("train.lr"), Origin::Default);
}

#[test]
fn set_wins_over_flag_over_file_over_default() {
    let (_folder, path) = run_file("[train]\nlr = 1e-3\nsteps = 50\nbatch_size = 8\n");
    let mut overrides = Overrides {
        config: Some(path.clone()),
        ..Overrides::default()
    };
    assert_eq!(resolve(&overrides).unwrap().config.train.lr, 1e-3);
    overrides.flags = vec![lr_flag(1e-2)];
    assert_eq!(resolve(&overrides).unwrap().config.train.lr, 1e-2);
    overrides.sets = vec!["train.lr=0.5".to_owned(), "train.batch_size=4".to_owned()];
    let resolved = resolve(&overrides).unwrap();
    assert_eq!(
        (resolved.config.train.lr, resolved.config.train.batch_size),
        (0.5, 4)
    );
    assert_eq!(*resolved.origins.of("train.lr"), Origin::Set);
    assert_eq!(*resolved.origins.of("train.steps"), Origin::File(path));
    assert_eq!(*resolved.origins.of("train.eps"), Origin::Default);
}

#[test]
fn the_last_set_wins_and_an_empty_one_returns_to_the_default() {
    let resolved = resolve(&with_sets(&["train.lr=1", "train.lr=2"])).unwrap();
    assert_eq!(resolved.config.train.lr, 2.0);
    let resolved = resolve(&with_sets(&["data.size=64", "data.size="])).unwrap();
    assert_eq!(
        (resolved.config.data.size, resolved.origins.of("data.size")),
        (None, &Origin::Default)
    );
    let resolved = resolve(&with_sets(&["diff_tuning.ratio=0.3", "diff_tuning.ratio="])).unwrap();
    assert!(resolved.config.plugin[0].settings.is_empty());
}

#[test]
fn set_reads_toml_and_falls_back_to_the_text() {
    let resolved = resolve(&with_sets(&[
        "data.source=scenes:fog",
        "run.name=2024",
        "sample.classes=[1, 2]",
        "train.trainable=*.attn1.*",
        "diff_tuning.mode=weighting",
        "diff-tuning.ratio=0.25",
        "diff_tuning.bank.steps=30",
    ]))
    .unwrap();
    let config = &resolved.config;
    assert_eq!(config.data.source, "scenes:fog");
    assert_eq!(config.run.name, "2024");
    assert_eq!(config.sample.classes, Some(vec![1, 2]));
    assert_eq!(
        config.train.trainable,
        Trainable::Globs(vec!["*.attn1.*".to_owned()])
    );
    let settings = &config.plugin[0].settings;
    assert_eq!(settings["mode"], Value::String("weighting".to_owned()));
    // Whether these are numbers is for the plugin's schema to say.
    assert_eq!(settings["ratio"], Value::String("0.25".to_owned()));
    assert_eq!(settings["bank"]["steps"], Value::String("30".to_owned()));
}

#[test]
fn paths_of_a_file_are_relative_to_it() {
    let (folder, path) = run_file(
        "plugin_dir = [\"mine\"]\n[data]\nsource = \"photos\"\n[backbone]\npath = \"dit\"\n[[plugin]]\nname = \"built/libx.so\"\n",
    );
    let config = resolve(&Overrides {
        config: Some(path),
        ..Overrides::default()
    })
    .unwrap()
    .config;
    assert_eq!(Path::new(&config.data.source), folder.path().join("photos"));
    assert_eq!(config.backbone.path, Some(folder.path().join("dit")));
    assert_eq!(config.plugin_dir, [folder.path().join("mine")]);
    assert_eq!(
        Path::new(&config.plugin[0].name),
        folder.path().join("built/libx.so")
    );
    assert_eq!(config.plugin[0].handle(), "x");
}

#[test]
fn a_plugin_of_the_file_named_again_keeps_its_settings_and_may_change_its_path() {
    let (_folder, path) = run_file("[[plugin]]\nname = \"diff_tuning\"\nratio = 0.5\n");
    let overrides = Overrides {
        config: Some(path),
        plugins: plugins(&["/opt/libdiff_tuning.so", "lora"]),
        ..Overrides::default()
    };
    let config = resolve(&overrides).unwrap().config;
    assert_eq!(config.plugin.len(), 2);
    assert_eq!(config.plugin[0].name, "/opt/libdiff_tuning.so");
    assert_eq!(config.plugin[0].settings["ratio"], Value::Float(0.5));
}

#[test]
fn one_plugin_twice_needs_another_name() {
    let twice = |arguments: &[&str]| {
        resolve(&Overrides {
            plugins: plugins(arguments),
            ..Overrides::default()
        })
    };
    let error = twice(&["lora", "lora"]).unwrap_err();
    assert_eq!(error.to_string(), "two plugins are called `lora`");
    assert_eq!(
        error.help().unwrap(),
        "give one another name: `as = \"second\"` in its [[plugin]], or `--plugin \"lora as second\"`"
    );
    let resolved = twice(&["lora", "lora as style"]).unwrap();
    assert_eq!(resolved.config.plugin[1].handle(), "style");
    assert_eq!(resolved.config.run.name, "lora+style");
    assert_eq!(
        twice(&["lora as data"]).unwrap_err().to_string(),
        "a plugin cannot be called `data`, because [data] is a section of the run file"
    );
}

#[test]
fn a_plugin_can_be_kept_out_of_slots() {
    let (_folder, path) =
        run_file("[[plugin]]\nname = \"diff_tuning\"\nwithout = [\"timesteps\"]\n");
    let mut overrides = Overrides {
        config: Some(path),
        ..Overrides::default()
    };
    assert_eq!(
        resolve(&overrides).unwrap().config.plugin[0].without,
        ["timesteps"]
    );
    overrides.sets = vec!["diff_tuning.without=batch".to_owned()];
    let entry = resolve(&overrides).unwrap().config.plugin.remove(0);
    assert_eq!(entry.without, ["batch"]);
    assert!(entry.settings.is_empty());
    check_set(
        "diff_tuning.without=[3]",
        "diff_tuning.without must be a slot's name or a list of them, but --set gives [3]",
    );
}

#[test]
fn unknown_names_are_refused_with_what_was_meant() {
    check_file(
        "[trian]\nlr = 1\n",
        "unknown section [trian] in run.toml, did you mean `train`?",
    );
    check_file(
        "[train]\nbatchsize = 1\n",
        "unknown key `train.batchsize` in run.toml, did you mean `batch_size`?",
    );
    check_file(
        "[backbone]\nqqq = 1\n",
        "unknown key `backbone.qqq` in run.toml; known: path, dtype, device, positions",
    );
    check_set(
        "train.learning=1",
        "unknown key `train.learning` in --set; known: steps, batch_size, accumulation, lr, betas, eps, weight_decay, clip, schedule, warmup_steps, final_ratio, ema_decay, weighting, weighting_gamma, noise_offset, label_dropout, caption_dropout, variational_bound, gradient_checkpointing, trainable, checkpoint_every, keep_checkpoints, seed, threads, tensorboard",
    );
    check_set(
        "diff_tunning.ratio=1",
        "`--set diff_tunning.ratio=1`: `diff_tunning` is neither a section nor a plugin of this run, did you mean `diff_tuning`?",
    );
    check_set(
        "train=1",
        "`--set train=1` is not of the form SECTION.KEY=VALUE",
    );
}

#[test]
fn wrong_types_are_refused_with_the_value() {
    check_file(
        "[train]\nlr = \"fast\"\n",
        "train.lr must be a number, but run.toml gives \"fast\"",
    );
    check_file(
        "[train]\nsteps = -1\n",
        "train.steps must be a whole number of 0 or more, but run.toml gives -1",
    );
    check_file(
        "[train]\nsteps = 1.5\n",
        "train.steps must be a whole number of 0 or more, but run.toml gives 1.5",
    );
    check_file(
        "[train]\nbetas = [0.9]\n",
        "train.betas must be a list of 2 numbers, but run.toml gives [0.9]",
    );
    check_file(
        "train = 3\n",
        "train must be a section, written [train], but run.toml gives 3",
    );
    check_file(
        "[data]\nflip = 1\n",
        "data.flip must be true or false, but run.toml gives 1",
    );
    check_file(
        "[train]\nschedule = \"cosin\"\n",
        "train.schedule must be one of constant, linear, cosine, exponential, but run.toml gives \"cosin\", did you mean `cosine`?",
    );
    check_set(
        "train.lr=fast",
        "train.lr must be a number, but --set gives \"fast\"",
    );
    check_set(
        "train.trainable=biass",
        "train.trainable must be one of auto, all, none, bias, diffit, but --set gives \"biass\", did you mean `bias`?",
    );
    check_file(
        "[[plugin]]\nratio = 1\n",
        "plugin.name must be given in every [[plugin]], but run.toml gives none",
    );
    check_file(
        "[plugin]\nname = \"x\"\n",
        "plugin must be written as [[plugin]], but run.toml gives { name = \"x\" }",
    );
}

#[test]
fn values_outside_their_range_are_refused() {
    check_file(
        "[train]\nsteps = 0\n",
        "train.steps must be at least 1, but run.toml gives 0",
    );
    check_file(
        "[train]\nlabel_dropout = 1.5\n",
        "train.label_dropout must be 0 to 1, but run.toml gives 1.5",
    );
    check_set(
        "train.lr=-1",
        "train.lr must be above 0, but --set gives -1.0",
    );
    check_set(
        "train.lr=nan",
        "train.lr must be above 0, but --set gives nan",
    );
    check_set(
        "train.lr=inf",
        "train.lr must be above 0, but --set gives inf",
    );
    check_set(
        "train.warmup_steps=900",
        "train.warmup_steps must be at most train.steps (200), but --set gives 900",
    );
    check_set(
        "train.ema_decay=1",
        "train.ema_decay must be 0 (no average) up to, not including, 1, but --set gives 1.0",
    );
    check_set(
        "sample.classes=[]",
        "sample.classes must be left out or a list of at least one class, but --set gives []",
    );
    let flag = Overrides {
        flags: vec![lr_flag(0.0)],
        ..Overrides::default()
    };
    assert_eq!(
        resolve(&flag).unwrap_err().to_string(),
        "train.lr must be above 0, but --lr gives 0.0"
    );
}

#[test]
fn a_short_run_shortens_the_default_warm_up() {
    assert_eq!(
        resolve(&with_sets(&["train.steps=5"]))
            .unwrap()
            .config
            .train
            .warmup_steps,
        0
    );
}

#[test]
fn syntax_errors_have_line_and_column() {
    let (_folder, path) = run_file("[train]\nlr = 1\nsteps == 2\n");
    match resolve(&Overrides {
        config: Some(path),
        ..Overrides::default()
    })
    .unwrap_err()
    {
        Error::Syntax { line, column, .. } => assert_eq!((line, column), (3, 8)),
        other => panic!("not a syntax error: {other}"),
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = resolve(&Overrides {
        config: Some("no/such.toml".into()),
        ..Overrides::default()
    })
    .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read the run file no/such.toml: "),
        "{error}"
    );
}

#[test]
fn comparison_tells_harmless_from_incompatible() {
    let was = resolve(&with_sets(&["diff_tuning.ratio=0.2"]))
        .unwrap()
        .config;
    let change = |set: &str| {
        let now = resolve(&with_sets(&["diff_tuning.ratio=0.2", set]))
            .unwrap()
            .config;
        let found = compare(&was, &now);
        assert_eq!(found.len(), 1, "{set}: {found:?}");
        (found[0].to_string(), found[0].effect)
    };
    assert!(compare(&was, &was).is_empty());
    assert_eq!(
        change("train.steps=400"),
        (
            "train.steps was 200 and is now 400".to_owned(),
            Effect::Harmless
        )
    );
    assert_eq!(change("train.lr=0.5").1, Effect::Diverges);
    assert_eq!(change("train.seed=9").1, Effect::Incompatible);
    assert_eq!(
        change("data.size=64"),
        (
            "data.size was not given and is now 64".to_owned(),
            Effect::Incompatible
        )
    );
    assert_eq!(
        change("diff_tuning.ratio=0.5"),
        (
            "diff_tuning.ratio was \"0.2\" and is now \"0.5\"".to_owned(),
            Effect::Incompatible
        )
    );
    assert_eq!(
        change("diff_tuning.mode=x"),
        (
            "diff_tuning.mode was its default and is now \"x\"".to_owned(),
            Effect::Incompatible
        )
    );
}

#[test]
fn listing_names_every_key_once_with_its_origin() {
    let rows = resolve(&with_sets(&["train.lr=2", "diff_tuning.ratio=0.5"]))
        .unwrap()
        .listing();
    let origin = |key: &str| {
        rows.iter()
            .filter(|row| row.0 == key)
            .map(|row| row.2.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(origin("train.lr"), [Origin::Set]);
    assert_eq!(origin("data.size"), [Origin::Default]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_written_configuration_resolves_to_itself(
        lr in 1e-12f64..10.0,
        steps in 1u64..1_000_000,
        seed in 0u64..=i64::MAX as u64,
        betas in (0.0f64..0.9999, 0.0f64..0.9999),
        size in prop::option::of(8usize..=2048),
        name in "[ -~]{0,20}",
        globs in prop::collection::vec("[a-z0-9_.*]{1,12}", 0..3),
        classes in prop::option::of(prop::collection::vec(0u32..1000, 1..5)),
        setting in "[ -~\n]{0,20}",
    ) {
        let mut entry = PluginEntry { name: "lora".to_owned(), alias: Some("style".to_owned()), ..PluginEntry::default() };
        entry.settings.insert("text".to_owned(), Value::String(setting));
        let mut config = RunFile::default();
        config.train = TrainSection { lr, steps, seed, betas: [betas.0, betas.1], warmup_steps: steps.min(7), ..config.train };
        if !globs.is_empty() {
            config.train.trainable = Trainable::Globs(globs.into_iter().map(|glob| glob.replace("**", "*")).collect());
        }
        config.data.size = size;
        config.run.name = name;
        config.sample.classes = classes;
        config.plugin.push(entry);
        let (_folder, first) = run_file(&toml::to_string(&config).unwrap());
        let once = resolve(&Overrides { config: Some(first), ..Overrides::default() }).unwrap();
        let (_other_folder, second) = run_file("");
        once.write(&second).unwrap();
        let twice = resolve(&Overrides { config: Some(second), ..Overrides::default() }).unwrap();
        prop_assert_eq!(once.config, twice.config);
    }
}
