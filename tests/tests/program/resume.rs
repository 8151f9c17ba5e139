//! A run that was stopped in any way and continued equals the run that was not, bit for bit.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use integration_tests::{DIFF_TUNING, Lab};

const STEPS: u64 = 90;

/// Everything that has a state: two plugins, one of them with a parameter and a state of its own, the whole backbone, averages, accumulation,
/// label dropout, mirrored pictures.
fn everything(further: &str) -> String {
    format!(
        "{DIFF_TUNING} --plugin probe --set probe.without=timesteps --set probe.gain=true --set train.trainable=all \
         --set train.accumulation=2 --set train.ema_decay=0.9 --set train.label_dropout=0.5 --set data.flip=true \
         --set train.noise_offset=0.05 --set sample.count=0 {further}"
    )
}

/// What a step measured, without what depends on the clock.
fn measured(lab: &Lab, run: &str) -> Vec<BTreeMap<String, f64>> {
    let mut steps = lab.metrics(run);
    for step in &mut steps {
        step.retain(|name, _| {
            !name.starts_with("time/") && name != "step_ms" && name != "samples_per_s"
        });
    }
    steps
}

#[track_caller]
fn check_equal(lab: &Lab, straight: &str, broken: &str, step: u64) {
    let (expected, found) = (measured(lab, straight), measured(lab, broken));
    assert_eq!(expected.len() as u64, step);
    assert_eq!(expected, found);
    let (expected, found) = (lab.checkpoint(straight, step), lab.checkpoint(broken, step));
    let names: Vec<String> = expected
        .keys()
        .map(|name| name.display().to_string())
        .collect();
    assert_eq!(
        names,
        [
            "ema.safetensors",
            "optimizer.safetensors",
            "parameters.safetensors",
            "probe.plugin",
            "state.json"
        ]
    );
    for (name, bytes) in &expected {
        assert!(found[name] == *bytes, "{} differs", name.display());
    }
    assert_eq!(
        lab.files(&format!("{straight}/adapter")),
        lab.files(&format!("{broken}/adapter"))
    );
    for run in [straight, broken] {
        let report = lab.json(&format!("{run}/report.json"));
        assert_eq!(report["profile"]["steps"], step, "{run}");
        let sections = report["profile"]["sections"].as_array().unwrap();
        let forward = sections
            .iter()
            .find(|time| time["section"]["phase"] == "forward");
        // Two micro-batches a step.
        assert_eq!(forward.unwrap()["calls"], 2 * step, "{run}");
    }
}

#[test]
fn a_run_resumed_with_another_number_of_threads_equals_the_uninterrupted_one() {
    let lab = Lab::new();
    lab.train(&everything(
        "--steps 11 --threads 2 --set data.workers=3 --out straight",
    ))
    .done();
    lab.train(&everything("--steps 4 --threads 1 --out broken"))
        .done();
    let settings = lab
        .host("run --resume --out broken --steps 11 --threads 2")
        .done();
    assert!(
        !settings.stderr.contains("goes on otherwise"),
        "{}",
        settings.told()
    );
    let last = settings.stderr.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("train: 11 steps, the last 7 in "),
        "{}",
        settings.told()
    );
    check_equal(&lab, "straight", "broken", 11);
}

/// Waits until a run has written so many lines of metrics.
#[track_caller]
fn wait_for_steps(lab: &Lab, run: &str, steps: usize, child: &mut Child) {
    let start = Instant::now();
    loop {
        let text = std::fs::read(lab.path(run).join("metrics.jsonl")).unwrap_or_default();
        if text.iter().filter(|&&byte| byte == b'\n').count() >= steps {
            return;
        }
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before step {steps}"
        );
        assert!(
            start.elapsed() < Duration::from_secs(120),
            "step {steps} does not come"
        );
        std::thread::sleep(Duration::from_micros(300));
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_equals_the_uninterrupted_one() {
    let lab = Lab::new();
    let settings = everything(&format!("--steps {STEPS} --checkpoint-every 4"));
    lab.train(&format!("{settings} --out straight")).done();
    // The moment within a step differs from one run of this test to the next, as it should.
    for (attempt, kill_at) in [9, 26, 47, 60].into_iter().enumerate() {
        let resume = if attempt == 0 { "" } else { "--resume" };
        let mut child = lab.start_training(&format!("{settings} {resume} --out broken"));
        wait_for_steps(&lab, "broken", kill_at, &mut child);
        child.kill().unwrap();
        let outcome = lab.wait(child);
        assert_eq!(
            outcome.code,
            None,
            "it was not killed while it ran: {}",
            outcome.told()
        );
    }
    lab.host("run --resume --out broken").done();
    check_equal(&lab, "straight", "broken", STEPS);
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_tells_how_to_go_on_and_going_on_equals_the_uninterrupted_run() {
    let lab = Lab::new();
    let settings = everything(&format!("--steps {STEPS} --checkpoint-every 0"));
    lab.train(&format!("{settings} --out straight")).done();
    let mut child = lab.start_training(&format!("{settings} --out broken"));
    wait_for_steps(&lab, "broken", 15, &mut child);
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let outcome = lab.wait(child).ended(130);
    let [stopped_at] = lab.checkpoints("broken")[..] else {
        panic!("{}", outcome.told())
    };
    assert!((15..STEPS).contains(&stopped_at), "{stopped_at}");
    assert_eq!(lab.metrics("broken").len() as u64, stopped_at);
    let (_, rest) = outcome.stdout.split_once("continue with `host ").unwrap();
    let (command, _) = rest.split_once('`').unwrap();
    assert!(
        outcome.stdout.starts_with("interrupted; saved in "),
        "{}",
        outcome.told()
    );
    lab.host(command).done();
    check_equal(&lab, "straight", "broken", STEPS);
}

#[test]
fn forced_a_run_goes_on_with_other_plugins_and_settings_and_says_what_became_of_each() {
    let lab = Lab::new();
    let settings = "--set train.seed=3 --set sample.count=0 --set train.ema_decay=0.9 --out run";
    lab.train(&format!(
        "--plugin lora --set lora.rank=2 --steps 2 {settings}"
    ))
    .done();
    let changed = "run --resume --out run --set lora.rank=4 --plugin diff_tuning --set diff_tuning.mode=weighting --steps 4";
    lab.host(changed).refused(
        2,
        &[
            "lora.rank was 2 and is now 4",
            "plugin was lora and is now lora, diff_tuning",
            "--force",
        ],
    );
    let run = lab.host(&format!("{changed} --force")).done();
    for told in [
        "lora.rank was 2 and is now 4",
        "plugin was lora and is now lora, diff_tuning",
        "has shape [2, 32] in the checkpoint and [4, 32] in this run, so it starts anew",
    ] {
        assert!(run.stderr.contains(told), "{told:?} not in {}", run.told());
    }
    assert_eq!(lab.metrics("run").len(), 4);

    // Back without lora: what it trained is named as left out, and full fine-tuning begins at the pretrained weights.
    std::fs::write(
        lab.path("plain.toml"),
        "[train]\nseed = 3\n[sample]\ncount = 0\n",
    )
    .unwrap();
    let run = lab
        .host("run --resume --force --config plain.toml --out run --backbone tiny --data pictures --batch-size 2 --steps 5")
        .done();
    assert!(
        run.stderr
            .contains("parameters that this run does not create"),
        "{}",
        run.told()
    );
}

#[test]
fn resuming_keeps_the_settings_of_the_run_and_refuses_others() {
    let lab = Lab::new();
    lab.train("--steps 2 --set train.seed=3 --set sample.count=0 --out run")
        .done();
    let before = lab.files("run");
    let refused = |arguments: &str, parts: &[&str]| {
        lab.host(&format!("run --out run --resume {arguments}"))
            .refused(2, parts)
    };
    refused(
        "--seed 4",
        &[
            "cannot resume",
            "with other settings",
            "train.seed was 3 and is now 4",
        ],
    );
    refused(
        "--data scenes:solids",
        &["data.source was", "scenes:solids"],
    );
    refused(
        "--plugin diff_tuning",
        &["plugin was", "is now diff_tuning"],
    );
    assert_eq!(lab.files("run"), before, "a refusal changes nothing");
    lab.host("run --out run --resume --steps 3").done();
    assert_eq!(lab.metrics("run").len(), 3);
    lab.host("run --out nowhere --resume")
        .refused(2, &["nothing to resume", "nowhere"]);
    assert!(!lab.path("nowhere").exists());
}

#[test]
fn a_run_killed_before_its_first_checkpoint_begins_again_and_equals_the_uninterrupted_one() {
    let lab = Lab::new();
    let settings = everything(&format!("--steps {STEPS} --checkpoint-every 0"));
    lab.train(&format!("{settings} --out straight")).done();
    let mut child = lab.start_training(&format!("{settings} --out broken"));
    wait_for_steps(&lab, "broken", 5, &mut child);
    child.kill().unwrap();
    lab.wait(child);
    assert!(lab.checkpoints("broken").is_empty());
    let again = lab.host("run --resume --out broken").done();
    assert!(again.stderr.contains("begins again"), "{}", again.told());
    check_equal(&lab, "straight", "broken", STEPS);
}

#[cfg(unix)]
#[test]
fn ctrl_c_while_the_memory_bank_is_drawn_tells_how_to_begin_again() {
    let lab = Lab::new();
    let settings = "--plugin diff_tuning --set diff_tuning.memory=100000 --set diff_tuning.memory_steps=2 --steps 2 --out run";
    let child = lab.start_training(settings);
    let staged = || {
        std::fs::read_dir(lab.path("cache/diff_tuning")).is_ok_and(|mut banks| {
            banks.any(|bank| std::fs::read_dir(bank.unwrap().path()).unwrap().count() > 0)
        })
    };
    let start = Instant::now();
    while !staged() {
        assert!(start.elapsed() < Duration::from_secs(120), "no bank comes");
        std::thread::sleep(Duration::from_millis(2));
    }
    let sent = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(sent.success());
    let outcome = lab.wait(child).ended(130);
    let told = "interrupted before the first step; begin again with `host run --resume --out ";
    assert!(outcome.stdout.starts_with(told), "{}", outcome.told());
    lab.host("run --resume --out run --set diff_tuning.memory=4")
        .refused(2, &["diff_tuning.memory was 100000 and is now 4"]);
}
