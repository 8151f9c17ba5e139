//! Times nest, add up, survive a resume, and are charged also when work panics.

#![allow(clippy::unwrap_used)]

use std::thread::sleep;

use super::*;

fn find<'a>(profile: &'a Profile, name: &str) -> &'a SectionTime {
    profile
        .sections
        .iter()
        .find(|s| s.section.name() == name)
        .unwrap()
}

#[test]
fn a_hook_inside_a_phase_is_not_charged_twice() {
    let profiler = Profiler::default();
    let start = Instant::now();
    {
        let _step = profiler.step();
        let _forward = profiler.phase(Phase::Forward);
        for _ in 0..2 {
            let _hook = profiler.hook("lora", "layer");
            sleep(Duration::from_millis(20));
        }
        sleep(Duration::from_millis(5));
    }
    let wall = start.elapsed().as_secs_f64() * 1e3;
    profiler.finish_step();
    let profile = profiler.profile();
    let (hook, forward) = (find(&profile, "lora.layer"), find(&profile, "forward"));
    assert!(hook.total_ms() >= 40.0 && hook.calls == 2, "{hook:?}");
    assert!(forward.total_ms() >= 5.0, "{forward:?}");
    assert!(
        profile.total_ms() <= wall,
        "the parts are no more than the whole"
    );
    assert!(profile.total_ms() > 0.8 * wall);
    assert_eq!(profile.plugin_ms("lora"), hook.total_ms());
    let shares: f64 = profile.sections.iter().map(|s| profile.share(s)).sum();
    assert!((shares - 1.0).abs() < 1e-9);
}

#[test]
fn each_step_reports_only_its_own_time() {
    let profiler = Profiler::default();
    for _ in 0..2 {
        {
            let _data = profiler.phase(Phase::Data);
            sleep(Duration::from_millis(4));
        }
        let step = profiler.finish_step().parts;
        assert!(step["data"] >= 4.0);
        assert_eq!(step.len(), 1);
    }
    assert!(profiler.finish_step().parts.is_empty());
    assert!(find(&profiler.profile(), "data").total_ms() >= 8.0);
}

#[test]
fn what_happens_between_steps_is_no_part_of_a_step() {
    let profiler = Profiler::default();
    {
        let _prepare = profiler.hook("diff_tuning", "prepare");
        sleep(Duration::from_millis(4));
    }
    drop(profiler.step());
    let step = profiler.finish_step().parts;
    assert_eq!(step.keys().collect::<Vec<_>>(), ["other"]);
    assert_eq!(profiler.profile().plugin_ms("diff_tuning"), 0.0);
}

#[test]
fn sections_come_in_step_order_and_survive_a_resume() {
    let profiler = Profiler::default();
    drop(profiler.step());
    drop(profiler.hook("diff_tuning", "batch"));
    drop(profiler.phase(Phase::Optimizer));
    drop(profiler.phase(Phase::Data));
    profiler.finish_step();
    let saved = serde_json::to_string(&profiler.profile()).unwrap();
    let resumed = Profiler::default();
    resumed.resume(&serde_json::from_str(&saved).unwrap());
    drop(resumed.phase(Phase::Data));
    resumed.finish_step();
    let profile = resumed.profile();
    let names: Vec<_> = profile.sections.iter().map(|s| s.section.name()).collect();
    assert_eq!(names, ["data", "optimizer", "diff_tuning.batch", "other"]);
    assert_eq!((profile.steps, find(&profile, "data").calls), (2, 2));
}

#[test]
fn a_scope_is_charged_also_when_its_work_panics() {
    let profiler = Profiler::default();
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _outer = profiler.phase(Phase::Loss);
        let _hook = profiler.hook("bad", "loss_term");
        panic!("on purpose");
    }));
    assert!(caught.is_err());
    profiler.finish_step();
    assert_eq!(profiler.profile().sections.len(), 2);
}

#[test]
fn laps_add_up_by_name() {
    let mut watch = Stopwatch::default();
    watch.add("train", Duration::from_secs(2));
    watch.add("sample", Duration::from_secs(1));
    watch.add("train", Duration::from_secs(3));
    assert_eq!(watch.time("load", || 5), 5);
    assert_eq!(
        watch
            .0
            .iter()
            .map(|lap| lap.name.as_str())
            .collect::<Vec<_>>(),
        ["train", "sample", "load"]
    );
    assert_eq!(watch.0[0].seconds, 5.0);
    assert!((6.0..6.5).contains(&watch.total_seconds()));
}
