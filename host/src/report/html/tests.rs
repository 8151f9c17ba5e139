//! The page is made from a run folder alone, has everything inside, and survives what is missing.

#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use super::*;
use crate::report::summary::{PluginReport, Role, SampleGrid, Setting, SlotUse, write_html};
use crate::report::{MetricsLog, Phase, Profiler};

fn png() -> Vec<u8> {
    let mut png = std::io::Cursor::new(Vec::new());
    image::RgbImage::from_pixel(4, 4, image::Rgb([9, 9, 9]))
        .write_to(&mut png, image::ImageFormat::Png)
        .unwrap();
    png.into_inner()
}

fn grid(role: Role, title: &str, file: &str) -> SampleGrid {
    SampleGrid {
        role,
        title: title.into(),
        file: PathBuf::from(file),
        tile: 32,
        ..Default::default()
    }
}

/// A small run: twenty steps, one plugin, before and after; the target's image is missing.
fn run_folder() -> (tempfile::TempDir, Report) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("samples")).unwrap();
    for name in ["before.png", "after.png", "extra.png"] {
        std::fs::write(dir.path().join("samples").join(name), png()).unwrap();
    }
    std::fs::write(
        dir.path().join("run.toml"),
        "# resolved\n[train]\nsteps = 20\n",
    )
    .unwrap();
    let mut log = MetricsLog::open(&dir.path().join("metrics.jsonl"), 0).unwrap();
    for step in 1..=20 {
        let named = [(
            "plugin/diff_tuning/loss_memory".to_owned(),
            0.5 / step as f64,
        )]
        .into();
        log.append(&StepMetrics {
            step,
            loss: 1.0 / step as f64,
            step_ms: 100.0,
            named,
            ..Default::default()
        })
        .unwrap();
    }
    let profiler = Profiler::default();
    drop(profiler.phase(Phase::Forward));
    drop(profiler.hook("diff_tuning", "batch"));
    profiler.finish_step();
    let report = Report {
        title: "diff_tuning <on> scenes".into(),
        status: Status::Finished,
        command: "host run --plugin diff_tuning".into(),
        steps_done: 20,
        steps_planned: 20,
        batch_size: 8,
        samples: vec![
            grid(Role::Before, "Before", "samples/before.png"),
            grid(Role::After, "After", "samples/after.png"),
            grid(Role::Target, "Target", "samples/target.png"),
        ],
        plugins: vec![PluginReport {
            name: "diff_tuning".into(),
            slots: vec!["batch".into(), "timesteps".into()],
            settings: vec![Setting {
                key: "ratio".into(),
                value: "0.2".into(),
                origin: "default".into(),
                doc: "share".into(),
            }],
            ..Default::default()
        }],
        plan: vec![SlotUse {
            slot: "noise".into(),
            default: "standard normal".into(),
            ..Default::default()
        }],
        profile: profiler.profile(),
        ..Default::default()
    };
    (dir, report)
}

#[test]
fn the_page_holds_everything_and_links_to_nothing() {
    let (dir, report) = run_folder();
    let path = report.write(dir.path()).unwrap();
    let page = std::fs::read_to_string(path).unwrap();
    let images = page.matches("<img ").count();
    assert_eq!(
        images, 3,
        "before, after, and the one the report does not name"
    );
    assert_eq!(page.matches("src=\"data:image/png;base64,").count(), images);
    assert_eq!(page.matches("alt=\"").count(), images);
    for outside in [
        "<script",
        "<link",
        "@import",
        "url(",
        "src=\"http",
        "href=\"http",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    for (expected, times) in [
        ("diff_tuning &lt;on&gt; scenes", 2),
        ("samples/target.png is missing or not a PNG.", 1),
        ("loss_memory: 0.5000 at step 1, 0.0250 at step 20", 1),
        ("<code>ratio</code>", 1),
        ("standard normal", 1),
        ("host run --plugin diff_tuning", 1),
        ("<b>[train]</b>", 1),
        ("class=\"pixelated\"", 2),
    ] {
        assert_eq!(page.matches(expected).count(), times, "{expected}");
    }
}

#[test]
fn the_page_can_be_made_again_from_the_folder_alone() {
    let (dir, report) = run_folder();
    let path = report.write(dir.path()).unwrap();
    let first = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    write_html(dir.path()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), first);

    let read = Report::read(dir.path()).unwrap();
    assert_eq!(read.samples.len(), 4, "samples/extra.png was found");
    assert_eq!(
        Report {
            samples: report.samples.clone(),
            ..read
        },
        report
    );
}

#[test]
fn a_run_killed_before_its_first_report_still_has_a_page() {
    let (dir, _) = run_folder();
    std::fs::create_dir_all(dir.path().join("checkpoints/step-10")).unwrap();
    std::fs::write(
        dir.path().join("checkpoints/step-10/model.safetensors"),
        [0; 2048],
    )
    .unwrap();
    let page = render(dir.path()).unwrap();
    assert!(
        page.contains("not finished")
            && page.contains("checkpoints/step-10")
            && page.contains("2.00 KiB")
    );
    assert_eq!(page.matches("<img ").count(), 3);
    assert!(page.contains("Loss: 1.0000 at step 1, 0.0500 at step 20"));
}

#[test]
fn a_damaged_report_is_named() {
    let (dir, _) = run_folder();
    std::fs::write(dir.path().join("report.json"), "{\"title\": 3}").unwrap();
    let error = render(dir.path()).unwrap_err();
    assert!(
        matches!(&error, Error::ReportJson { path, .. } if path.ends_with("report.json")),
        "{error}"
    );
}

#[test]
fn a_failed_run_says_why() {
    let (dir, mut report) = run_folder();
    report.status = Status::Failed("the loss of step 12 is not finite".into());
    let page = std::fs::read_to_string(report.write(dir.path()).unwrap()).unwrap();
    assert!(page.contains("role=\"alert\">the loss of step 12 is not finite<"));
}
