//! The plugin's hooks one by one, on the plugin crate's small test host: what goes into a batch, which timesteps its samples
//! draw, how their losses count, and when the memory bank is drawn.
#![allow(clippy::unwrap_used)]

use std::path::Path;
use std::sync::{Arc, Mutex};

use diff_tuning::{DiffTuning, MEMORY};
use plugin_api::hooks::{
    BatchHook, LossWeightHook, LossWeightIn, PrepareHook, TimestepsHook, TimestepsIn,
};
use plugin_api::services::{self, BackboneInfo, CacheOut, Model, RunInfo, SampleIn, SampleOut};
use plugin_api::testing::TestHost;
use plugin_api::{Batch, Result, Tensor};

const TIMESTEPS: usize = 1000;
const NULL_CLASS: u32 = 3;
/// Between the levels, of 255, of neighbouring channels and of pictures of neighbouring numbers.
const LEVEL: u8 = 51;

/// A host with a backbone of three classes, a sampler that draws flat pictures, and a cache in a folder of its own.
struct Rig {
    host: TestHost,
    cache: tempfile::TempDir,
    requests: Arc<Mutex<Vec<SampleIn>>>,
}

impl Rig {
    fn new(batch_size: usize, null_class: Option<u32>) -> Self {
        let host = TestHost::new();
        let cache = tempfile::tempdir().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        host.answer::<services::Backbone>(move |_| Ok(backbone(null_class)));
        host.answer::<services::Run>(move |_| Ok(run(batch_size)));
        let seen = Arc::clone(&requests);
        host.answer::<services::Sample>(move |request| {
            let images = pictures(&request)?;
            seen.lock().unwrap().push(request);
            Ok(SampleOut { images })
        });
        let [staging, done] = ["staging", "done"].map(|name| cache.path().join(name));
        std::fs::create_dir(&staging).unwrap();
        let entry = |path: &Path, complete| CacheOut {
            path: path.to_str().unwrap().to_owned(),
            complete,
        };
        let kept = done.clone();
        host.answer::<services::CacheOpen>(move |_| {
            Ok(entry(
                if kept.exists() { &kept } else { &staging },
                kept.exists(),
            ))
        });
        host.answer::<services::CacheCommit>(move |request| {
            std::fs::rename(request.path.unwrap(), &done).unwrap();
            Ok(entry(&done, true))
        });
        Self {
            host,
            cache,
            requests,
        }
    }

    fn build(&self, settings: &str) -> DiffTuning {
        self.host.build(settings).unwrap()
    }

    /// A plugin that has its bank.
    fn prepared(&self, settings: &str) -> DiffTuning {
        let mut plugin = self.build(settings);
        plugin.prepare(&self.host).unwrap();
        plugin
    }

    /// `size` grey target pictures of class 1.
    fn batch(&self, size: usize) -> Batch {
        let mut batch = Batch::new();
        let images = vec![0.0f32; size * 3 * 2 * 2];
        batch.set(
            "images",
            Tensor::from_slice(&images, [size, 3, 2, 2], &self.host).unwrap(),
        );
        batch.set(
            "class_labels",
            Tensor::from_slice(&vec![1u32; size], [size], &self.host).unwrap(),
        );
        batch.set(
            "depth",
            Tensor::from_slice(&vec![9.0f32; size], [size, 1], &self.host).unwrap(),
        );
        let names = (0..size).map(|row| format!("target {row}")).collect();
        batch.texts.insert("names".to_owned(), names);
        batch
            .texts
            .insert("captions".to_owned(), vec!["a house".to_owned(); size]);
        batch
    }

    fn drawn(&self) -> usize {
        self.requests.lock().unwrap().len()
    }

    /// The timesteps a plugin draws for `size` samples, of which it made some memory samples.
    fn timesteps(&self, plugin: &mut DiffTuning, batch: &Batch) -> Vec<u32> {
        let at = TimestepsIn {
            batch: batch.clone(),
            latents: batch.images().unwrap().clone(),
            num_train_timesteps: TIMESTEPS,
        };
        plugin.timesteps(&at, &self.host).unwrap().to_vec().unwrap()
    }

    fn weights(
        &self,
        plugin: &mut DiffTuning,
        batch: &Batch,
        timesteps: &[u32],
        loss: &[f32],
    ) -> Vec<f32> {
        let size = [timesteps.len()];
        let at = LossWeightIn {
            batch: batch.clone(),
            timesteps: Tensor::from_slice(timesteps, size, &self.host).unwrap(),
            loss: Tensor::from_slice(loss, size, &self.host).unwrap(),
            num_train_timesteps: TIMESTEPS,
        };
        plugin
            .loss_weight(&at, &self.host)
            .unwrap()
            .to_vec()
            .unwrap()
    }
}

fn backbone(null_class: Option<u32>) -> BackboneInfo {
    BackboneInfo {
        architecture: "dit".into(),
        parameters: 0,
        in_channels: 3,
        out_channels: 3,
        latent_channels: 3,
        sample_size: 2,
        image_size: 2,
        num_classes: Some(3),
        null_class,
        learned_variance: false,
        text: false,
        residual_sites: 0,
        fingerprint: String::new(),
    }
}

fn run(batch_size: usize) -> RunInfo {
    RunInfo {
        seed: 0,
        steps: 10,
        batch_size,
        accumulation: 1,
        dtype: plugin_api::DType::F32.0,
        dataset_len: 0,
        classes: Vec::new(),
        plugins: Vec::new(),
        image_size: None,
        columns: None,
        bucketing: None,
    }
}

/// Flat 2x2 pictures; those of different numbers differ, and so do the channels of each.
fn pictures(request: &SampleIn) -> Result<Tensor> {
    let values: Vec<f32> = (0..request.count)
        .flat_map(|row| {
            (0..3).flat_map(move |channel| [value(row + request.first as usize, channel); 4])
        })
        .collect();
    Tensor::from_slice(&values, [request.count, 3, 2, 2], &TestHost::new())
}

fn value(number: usize, channel: usize) -> f32 {
    f32::from(LEVEL * (number % 3 + channel) as u8) / 127.5 - 1.0
}

fn marks(batch: &Batch) -> Vec<f32> {
    batch.get(MEMORY).unwrap().to_vec().unwrap()
}

#[test]
fn the_last_samples_of_a_batch_become_memory_samples() {
    let rig = Rig::new(5, Some(NULL_CLASS));
    let mut plugin = rig.prepared(r#"{ "ratio": 0.4, "memory": 3 }"#);
    let batch = plugin.batch(rig.batch(5), &rig.host).unwrap();

    assert_eq!(marks(&batch), [0.0, 0.0, 0.0, 1.0, 1.0]);
    let labels = batch.class_labels().unwrap().to_vec::<u32>().unwrap();
    assert_eq!(labels, [1, 1, 1, NULL_CLASS, NULL_CLASS]);
    assert_eq!(
        batch.get("depth").unwrap().to_vec::<f32>().unwrap(),
        [9.0, 9.0, 9.0, 0.0, 0.0]
    );
    let captions = batch.texts("captions").unwrap();
    assert_eq!(captions, ["a house", "a house", "a house", "", ""]);

    let images = batch.images().unwrap();
    assert_eq!(images.dims(), [5, 3, 2, 2]);
    let images = images.to_vec::<f32>().unwrap();
    assert!(
        images[..3 * 12].iter().all(|&value| value == 0.0),
        "targets stay"
    );
    for row in 3..5 {
        // The name says which of the bank's pictures it is, so the pixels are known.
        let name = &batch.texts("names").unwrap()[row];
        let number: usize = name.strip_prefix("memory ").unwrap().parse().unwrap();
        for channel in 0..3 {
            for pixel in 0..4 {
                assert_eq!(
                    images[row * 12 + channel * 4 + pixel],
                    value(number, channel),
                    "{name}"
                );
            }
        }
    }
}

#[test]
fn the_memory_share_is_rounded_in_batches_of_any_size() {
    let rig = Rig::new(5, Some(NULL_CLASS));
    let mut plugin = rig.prepared(r#"{ "memory": 3 }"#);
    for (size, memory) in [(1, 0), (2, 0), (3, 1), (5, 1), (7, 1), (8, 2), (13, 3)] {
        let batch = plugin.batch(rig.batch(size), &rig.host).unwrap();
        assert_eq!(
            marks(&batch).iter().sum::<f32>() as usize,
            memory,
            "batch of {size}"
        );
        assert_eq!(batch.images().unwrap().dims(), [size, 3, 2, 2]);
        let timesteps = rig.timesteps(&mut plugin, &batch);
        assert_eq!(
            rig.weights(&mut plugin, &batch, &timesteps, &vec![1.0; size])
                .len(),
            size
        );
    }
}

#[test]
fn ratio_zero_leaves_the_batch_alone_and_draws_no_bank() {
    let rig = Rig::new(4, Some(NULL_CLASS));
    let mut plugin = rig.prepared(r#"{ "ratio": 0 }"#);
    assert_eq!(rig.drawn(), 0);
    let batch = plugin.batch(rig.batch(4), &rig.host).unwrap();
    assert_eq!(marks(&batch), [0.0; 4]);
    assert_eq!(
        batch.class_labels().unwrap().to_vec::<u32>().unwrap(),
        [1; 4]
    );
    assert_eq!(
        rig.weights(&mut plugin, &batch, &[0, 1, 2, 3], &[1.0; 4]),
        [1.0; 4]
    );
}

#[test]
fn ratio_one_trains_on_memory_alone() {
    let rig = Rig::new(4, Some(NULL_CLASS));
    let mut plugin = rig.prepared(r#"{ "ratio": 1, "weight": 0.5, "memory": 2 }"#);
    let batch = plugin.batch(rig.batch(4), &rig.host).unwrap();
    assert_eq!(marks(&batch), [1.0; 4]);
    assert_eq!(
        batch.class_labels().unwrap().to_vec::<u32>().unwrap(),
        [NULL_CLASS; 4]
    );
    assert_eq!(
        rig.weights(&mut plugin, &batch, &[0, 1, 2, 3], &[1.0; 4]),
        [0.5; 4]
    );
}

#[test]
fn class_labels_without_a_null_class_are_refused() {
    let rig = Rig::new(4, None);
    let mut plugin = rig.prepared(r#"{ "ratio": 0.5, "memory": 2 }"#);
    let error = plugin
        .batch(rig.batch(4), &rig.host)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no null class"), "{error}");
    let mut unlabelled = rig.batch(4);
    unlabelled.tensors.remove("class_labels");
    assert_eq!(
        marks(&plugin.batch(unlabelled, &rig.host).unwrap()),
        [0.0, 0.0, 1.0, 1.0]
    );
}

#[test]
fn data_of_other_sizes_is_refused_before_a_bank_is_drawn() {
    for (size, bucketing, ratio, expected) in [
        (Some(2), Some(true), 0.5, Some("data.bucketing")),
        (Some(4), Some(false), 0.5, Some("data.size=2")),
        (Some(2), Some(false), 0.5, None),
        (Some(4), Some(true), 0.0, None),
        (None, None, 0.5, None),
    ] {
        let rig = Rig::new(4, Some(NULL_CLASS));
        rig.host.answer::<services::Run>(move |_| {
            Ok(RunInfo {
                image_size: size,
                bucketing,
                ..run(4)
            })
        });
        let settings = format!(r#"{{ "ratio": {ratio}, "memory": 2 }}"#);
        let built = rig.host.build::<DiffTuning>(&settings);
        match expected {
            None => assert!(built.is_ok()),
            Some(part) => {
                let error = built.err().unwrap().to_string();
                assert!(error.contains(part), "{error}");
            }
        }
    }
}

#[test]
fn pictures_of_another_size_are_refused() {
    let rig = Rig::new(2, Some(NULL_CLASS));
    let mut plugin = rig.prepared(r#"{ "ratio": 0.5, "memory": 2 }"#);
    let mut batch = rig.batch(2);
    let larger = batch
        .images()
        .unwrap()
        .full_like(0.0, [2, 3, 4, 4])
        .unwrap();
    batch.set("images", larger);
    let error = plugin.batch(batch, &rig.host).unwrap_err().to_string();
    assert!(error.contains("2x2") && error.contains("4x4"), "{error}");
}

/// Draws many timesteps and compares the mean of each kind of sample with the mean of its law.
fn check_means(settings: &str, target: f64, memory: f64) {
    const SIZE: usize = 20_000;
    let rig = Rig::new(SIZE, Some(NULL_CLASS));
    let mut plugin = rig.prepared(settings);
    let mut batch = Batch::new();
    let images = vec![0.0f32; SIZE * 12];
    batch.set(
        "images",
        Tensor::from_slice(&images, [SIZE, 3, 2, 2], &rig.host).unwrap(),
    );
    // Alternating, so that a law applied by position instead of by mark shows.
    let marks: Vec<f32> = (0..SIZE).map(|row| (row % 2) as f32).collect();
    batch.set(
        MEMORY,
        Tensor::from_slice(&marks, [SIZE], &rig.host).unwrap(),
    );
    let timesteps = rig.timesteps(&mut plugin, &batch);
    assert!(timesteps.iter().all(|&t| (t as usize) < TIMESTEPS));
    for (kind, expected) in [(0, target), (1, memory)] {
        let sum: f64 = timesteps
            .iter()
            .skip(kind)
            .step_by(2)
            .map(|&t| f64::from(t))
            .sum();
        let mean = sum / (SIZE / 2) as f64;
        // The widest law has a deviation of 289, so this is nearly four deviations of the mean.
        assert!(
            (mean - expected).abs() < 11.0,
            "{settings}: mean {mean} against {expected}"
        );
    }
}

#[test]
fn each_sample_draws_from_the_law_of_its_kind() {
    // Means of (t + 1)^s and (T - t)^s over 0..T, for large T: T (s + 1) / (s + 2) and T / (s + 2).
    check_means(r#"{ "ratio": 0 }"#, 2000.0 / 3.0, 1000.0 / 3.0);
    check_means(
        r#"{ "ratio": 0, "target_power": 3, "memory_power": 2 }"#,
        800.0,
        250.0,
    );
    check_means(
        r#"{ "ratio": 0, "mode": "weighting", "target_power": 3 }"#,
        499.5,
        499.5,
    );
}

#[test]
fn losses_weigh_as_the_method_states() {
    let rig = Rig::new(4, Some(NULL_CLASS));
    let (timesteps, losses) = ([0, 500, 999, 250], [1.0, 2.0, 3.0, 10.0]);
    for (mode, expected) in [
        // mean(target) + weight * mean(memory), as a mean over the batch of four.
        ("sampling", (1.0 + 2.0 + 3.0) / 3.0 + 0.5 * 10.0),
        (
            "weighting",
            (2.0 * 0.5 + 3.0 * 0.999) / 3.0 + 0.5 * 10.0 * 0.75,
        ),
    ] {
        let settings =
            format!(r#"{{ "ratio": 0.25, "weight": 0.5, "memory": 1, "mode": "{mode}" }}"#);
        let mut plugin = rig.prepared(&settings);
        let batch = plugin.batch(rig.batch(4), &rig.host).unwrap();
        let weights = rig.weights(&mut plugin, &batch, &timesteps, &losses);
        let mean = weights
            .iter()
            .zip(losses)
            .map(|(weight, loss)| weight * loss)
            .sum::<f32>()
            / 4.0;
        assert!(
            (mean - expected).abs() < 1e-5,
            "{mode}: {mean} against {expected}"
        );
    }
    let metrics = rig.host.metrics();
    for expected in [
        ("loss_target", 2.0),
        ("t_target", 1499.0 / 3.0),
        ("loss_memory", 10.0),
        ("t_memory", 250.0),
    ] {
        assert!(
            metrics
                .iter()
                .any(|(name, value)| name == expected.0 && (value - expected.1).abs() < 1e-9),
            "{expected:?} in {metrics:?}"
        );
    }
}

#[test]
fn the_bank_is_drawn_once_in_parts_by_the_frozen_model_over_its_classes() {
    let rig = Rig::new(4, Some(NULL_CLASS));
    let settings = r#"{ "ratio": 0.5, "memory": 5, "memory_batch": 2, "memory_steps": 7, "memory_guidance": 3, "memory_seed": 11 }"#;
    let first = rig
        .prepared(settings)
        .batch(rig.batch(4), &rig.host)
        .unwrap();
    {
        let requests = rig.requests.lock().unwrap();
        let firsts: Vec<u64> = requests.iter().map(|request| request.first).collect();
        assert_eq!(firsts, [0, 2, 4]);
        let labels: Vec<u32> = requests
            .iter()
            .flat_map(|request| request.class_labels.clone().unwrap())
            .collect();
        assert_eq!(labels, [0, 1, 2, 0, 1]);
        for request in requests.iter() {
            assert_eq!(
                (request.model, request.steps, request.guidance, request.seed),
                (Model::Frozen, 7, 3.0, 11)
            );
        }
    }
    let mut again = rig.prepared(settings);
    assert_eq!(
        rig.drawn(),
        3,
        "the second plugin reads the first one's bank"
    );
    let second = again.batch(rig.batch(4), &rig.host).unwrap();
    assert_eq!(
        first.images().unwrap().dims(),
        second.images().unwrap().dims()
    );
}

#[test]
fn a_damaged_bank_says_which_folder_to_delete() {
    let rig = Rig::new(4, Some(NULL_CLASS));
    let settings = r#"{ "ratio": 0.5, "memory": 3 }"#;
    rig.prepared(settings);
    let folder = rig.cache.path().join("done");
    std::fs::write(folder.join("000001.png"), b"no picture").unwrap();
    let error = rig
        .build(settings)
        .prepare(&rig.host)
        .unwrap_err()
        .to_string();
    assert!(error.contains("000001.png"), "{error}");
    assert!(
        error.contains(&format!("delete the folder `{}`", folder.display())),
        "{error}"
    );
}
