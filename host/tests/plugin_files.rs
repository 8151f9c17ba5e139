//! Plugin files as files: a real shared library, found, checked, loaded and called; and copies of it that are broken in one place
//! each.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use candle_core::{DType, Device, Tensor};
use host::data::Batch;
use host::plugin::discover::{Origin, Place, file_name};
use host::plugin::services::NoServices;
use host::plugin::{
    PluginError, Request, Scene, Search, Stack, listing, live_handles, load, preflight, resolve,
};
use plugin_api::Phase;

/// Handles are counted for the whole process, so tests that use tensors take turns.
fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The probe plugin's file, which cargo built with this test.
fn probe() -> PathBuf {
    Search::new(&[]).find("probe").unwrap().path
}

/// A folder with a copy of the probe under another name, changed by `change`.
fn changed(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> (tempfile::TempDir, PathBuf, Search) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(file_name(name));
    let mut bytes = fs::read(probe()).unwrap();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let place = Place {
        directory: folder.path().to_owned(),
        origin: Origin::PluginDir,
    };
    (folder, path, Search::in_places(vec![place]))
}

fn replace(bytes: &mut [u8], from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut found = 0;
    for at in 0..bytes.len() - from.len() {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
            found += 1;
        }
    }
    assert!(found > 0, "`{from}` is not in the file");
}

fn scene(step: u64, phase: Phase) -> Scene<'static> {
    Scene {
        services: &NoServices,
        device: &Device::Cpu,
        profiler: None,
        step,
        phase,
    }
}

fn batch() -> Batch {
    let mut batch = Batch::default();
    let images = Tensor::zeros((2, 3, 2, 2), DType::F32, &Device::Cpu).unwrap();
    batch.tensors.insert("images".into(), images);
    batch
}

fn request(name: &str, settings: serde_json::Value) -> Request {
    let mut request = Request::new(name);
    request.settings = settings.as_object().unwrap().clone();
    request
}

const EXCLUSIVE: [&str; 6] = [
    "timesteps",
    "noise",
    "noise_mask",
    "denoiser_input",
    "objective",
    "output",
];

#[test]
fn one_file_gives_two_plugins_under_two_names() {
    let _alone = alone();
    let mut second = request("probe as second", serde_json::json!({"scale": "3"}));
    second.without = EXCLUSIVE.map(Into::into).to_vec();
    let first = request("probe", serde_json::json!({"scale": 2}));
    let resolved = resolve(&Search::new(&[]), &[first, second]).unwrap();
    let stack = Stack::load(&resolved, &scene(0, Phase::BUILD)).unwrap();
    let batch = stack.batch(&scene(0, Phase::TRAIN), batch()).unwrap();
    let timesteps = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
    let loss = Tensor::zeros(2, DType::F32, &Device::Cpu).unwrap();
    let weights = stack
        .loss_weight(&scene(0, Phase::TRAIN), &batch, &timesteps, &loss, 10)
        .unwrap();
    let weights: Vec<Vec<f32>> = (weights.iter())
        .map(|(_, weight)| weight.to_vec1().unwrap())
        .collect();
    assert_eq!(weights, [[2.0; 2], [3.0; 2]]);
    let names: Vec<&str> = stack.plugins().iter().map(|plugin| plugin.name()).collect();
    assert_eq!(names, ["probe", "second"]);
}

#[test]
fn a_panic_in_the_file_is_told_with_its_place() {
    let _alone = alone();
    let settings = serde_json::json!({"at": "batch", "how": "panic"});
    let resolved = resolve(&Search::new(&[]), &[request("probe", settings)]).unwrap();
    let stack = Stack::load(&resolved, &scene(0, Phase::BUILD)).unwrap();
    let error = stack.batch(&scene(6, Phase::TRAIN), batch()).unwrap_err();
    let PluginError::Panicked {
        message, location, ..
    } = &error
    else {
        panic!("{error}")
    };
    assert_eq!(message, "the probe was asked to panic in batch");
    let (file, line) = location.rsplit_once(':').unwrap();
    assert!(file.ends_with("probe/src/lib.rs"), "{location}");
    line.parse::<u32>().unwrap();
    assert!(error.to_string().contains("at step 7"), "{error}");
}

#[test]
fn calls_leave_no_handles_behind_unless_the_plugin_keeps_some() {
    let _alone = alone();
    let after_calls = |how: &str| {
        let settings = serde_json::json!({"at": "batch", "how": how, "after": 1});
        let resolved = resolve(&Search::new(&[]), &[request("probe", settings)]).unwrap();
        let stack = Stack::load(&resolved, &scene(0, Phase::BUILD)).unwrap();
        let before = live_handles();
        for step in 0..5 {
            let _ = stack.batch(&scene(step, Phase::TRAIN), batch());
        }
        live_handles() - before
    };
    assert_eq!(after_calls("value"), 0);
    assert_eq!(after_calls("shape"), 0);
    assert_eq!(after_calls("error"), 0);
    assert_eq!(after_calls("panic"), 0);
    // In each of four steps it forgets one handle and stores another.
    assert_eq!(after_calls("leak"), 8);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn log_lines_arrive_with_plugin_and_slot() {
    let _alone = alone();
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .finish();
    tracing::subscriber::with_default(subscriber, || {
        let resolved = resolve(&Search::new(&[]), &[Request::new("probe as loud")]).unwrap();
        let stack = Stack::load(&resolved, &scene(0, Phase::BUILD)).unwrap();
        stack.prepare(&scene(0, Phase::PREPARE)).unwrap();
    });
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    let line = text
        .lines()
        .find(|line| line.contains("preparing"))
        .unwrap();
    for part in [
        "INFO",
        "plugin: preparing gain=false",
        "plugin=\"loud\"",
        "slot=\"prepare\"",
    ] {
        assert!(line.contains(part), "{part} is not in: {line}");
    }
    assert!(!text.contains("built"), "debug lines are off: {text}");
}

#[test]
fn listing_and_inspecting_execute_nothing() {
    let (_folder, path, search) = changed("probe", |_| {});
    let listing = listing::list(&search);
    assert_eq!(listing.plugins.len(), 1);
    assert_eq!(listing.plugins[0].name, "probe");
    assert_eq!(listing.plugins[0].problem, None);
    let inspection = listing::inspect(&search, "probe").unwrap();
    assert_eq!(inspection.slots.len(), 17);
    let scale = inspection
        .settings
        .iter()
        .find(|setting| setting.key == "scale")
        .unwrap();
    assert_eq!(scale.takes, "number, at least -100, at most 100");
    assert_eq!(scale.default, Some(serde_json::json!(1.0)));
    assert!(
        scale.help.starts_with("Factor for layers"),
        "{}",
        scale.help
    );
    assert_eq!(inspection.sha256.len(), 64);
    let json = serde_json::to_string(&inspection).unwrap();
    assert_eq!(
        serde_json::from_str::<listing::Inspection>(&json).unwrap(),
        inspection
    );
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    assert!(
        !maps.contains(&path.display().to_string()),
        "the file was loaded"
    );
}

#[test]
fn a_truncated_plugin_is_refused_at_every_length() {
    let length = fs::metadata(probe()).unwrap().len() as usize;
    for keep in [64, 4096, length / 3, length - 4096, length - 1] {
        let (_folder, path, _) = changed("probe", |bytes| bytes.truncate(keep));
        let error = preflight::check(&path).unwrap_err();
        assert!(
            matches!(error, preflight::Error::Truncated { .. }),
            "{keep}: {error}"
        );
    }
}

#[test]
fn a_plugin_for_a_newer_host_can_be_inspected_and_not_loaded() {
    let (_folder, path, search) = changed("probe", |bytes| {
        replace(
            bytes,
            r#""needs":{"major":1,"minor":0}"#,
            r#""needs":{"major":1,"minor":7}"#,
        )
    });
    let error = preflight::check(&path).unwrap_err().to_string();
    let expected = format!(
        "plugin `probe` needs host ABI 1.7, this host offers 1.{}: update the host or use an older build of the plugin",
        plugin_api::abi::ABI_MINOR
    );
    assert!(error.ends_with(&expected), "{error}");
    let inspection = listing::inspect(&search, "probe").unwrap();
    assert_eq!(inspection.problem, Some(expected));
}

#[test]
fn a_plugin_that_aborts_on_panic_is_refused() {
    let (_folder, path, _) = changed("probe", |bytes| {
        replace(bytes, r#""panic":"unwind""#, r#""panic":"aborts""#)
    });
    let error = preflight::check(&path).unwrap_err().to_string();
    assert!(
        error.contains("build it with `panic = \"unwind\"`"),
        "{error}"
    );
}

#[test]
fn a_damaged_manifest_is_refused() {
    let (_folder, path, search) = changed("probe", |bytes| {
        replace(bytes, r#"{"id":"probe""#, r#"{"id":"probe?"#)
    });
    let error = preflight::check(&path).unwrap_err();
    assert!(
        matches!(error, preflight::Error::Manifest { .. }),
        "{error}"
    );
    let listed = listing::list(&search).plugins;
    assert!(
        listed[0]
            .problem
            .as_ref()
            .is_some_and(|problem| problem.contains("manifest")),
        "{listed:?}"
    );
}

#[test]
fn another_architecture_is_refused() {
    let (_folder, path, _) = changed("probe", |bytes| bytes[18] ^= 0xff);
    let error = preflight::check(&path).unwrap_err();
    assert!(
        matches!(error, preflight::Error::WrongArchitecture { .. }),
        "{error}"
    );
}

#[test]
fn a_file_without_a_root_module_is_refused_after_opening() {
    let symbol = "_1as_0lib_1header_0root_bmodule_bloader";
    let (_folder, path, _) = changed("probe", |bytes| {
        replace(bytes, symbol, &symbol.replace("root", "toor"))
    });
    let checked = preflight::check(&path).unwrap();
    let error = load::load(&checked).unwrap_err();
    assert!(matches!(error, load::Error::NoRootModule { .. }), "{error}");
}

#[test]
fn a_file_named_otherwise_loads_with_a_note() {
    let (_folder, _path, search) = changed("renamed", |_| {});
    let resolved = resolve(&search, &[Request::new("renamed")]).unwrap();
    assert_eq!(resolved.notes.len(), 1);
    assert!(
        resolved.notes[0].ends_with("calls itself `probe`, not `renamed` as its file name says"),
        "{:?}",
        resolved.notes
    );
}

#[test]
fn two_files_of_one_id_are_refused() {
    let (_folder, path, _) = changed("renamed", |bytes| bytes.push(0));
    let other = path.display().to_string();
    let mut second = Request::new(&format!("{other} as second"));
    second.without = EXCLUSIVE.map(Into::into).to_vec();
    let error = resolve(&Search::new(&[]), &[Request::new("probe"), second])
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("both say they are the plugin `probe`"),
        "{error}"
    );
    assert!(error.contains(&other), "{error}");
}

#[test]
fn a_bad_setting_is_refused_before_any_code_runs() {
    let (_folder, path, search) = changed("probe", |_| {});
    let error = resolve(
        &search,
        &[request("probe", serde_json::json!({"scael": 2}))],
    )
    .unwrap_err()
    .to_string();
    assert_eq!(
        error,
        "probe: unknown setting `scael`, did you mean `scale`?"
    );
    assert!(!loaded(&path));
}

fn loaded(path: &Path) -> bool {
    fs::read_to_string("/proc/self/maps")
        .unwrap()
        .contains(&path.display().to_string())
}
