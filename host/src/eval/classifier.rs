//! How the scene classifier is made: its recipe, the scenes of all domains in one dataset, and the training loop.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::{D, DType, Tensor, Var};
use serde::{Deserialize, Serialize};

use super::Error;
use super::network::scenes::{Label, SIDE, SceneClassifier};
use crate::cancel::Cancel;
use crate::config::{RunSection, Schedule};
use crate::data::scenes::{Content, Domain, Style};
use crate::data::{self, DataOptions, Dataset, Item, Loader, LoaderState, Scenes};
use crate::fs;
use crate::ops::autograd::{Recording, no_grad};
use crate::ops::optim::{AdamW, AdamWConfig};
use crate::report::Progress;
use crate::train::LearningRate;

/// What a recipe of a classifier holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierRecipe {
    /// Where the result goes.
    pub run: RunSection,
    /// How it is trained.
    pub classifier: ClassifierSection,
}

/// `[classifier]`: the scenes and the training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierSection {
    /// Scenes to train on, shared out among all contents in all styles. At least 1.
    pub scenes: usize,
    /// Scenes to test on, which training never sees. At least 1.
    pub test_scenes: usize,
    /// Which scenes are rendered.
    pub data_seed: u64,
    /// Optimizer steps. At least 1.
    pub steps: usize,
    /// Images a step. At least 1.
    pub batch_size: usize,
    /// Peak learning rate of AdamW, reached after `warmup_steps`; it falls to 0 along a cosine. Above 0.
    pub lr: f64,
    /// Steps of warm-up.
    pub warmup_steps: usize,
    /// AdamW's decoupled weight decay. 0 or more.
    pub weight_decay: f64,
    /// Seed of the first weights and of the order of the scenes.
    pub seed: u64,
    /// Threads of computation. 0: one a core.
    pub threads: usize,
}

impl Default for ClassifierSection {
    fn default() -> Self {
        Self {
            scenes: 210_000,
            test_scenes: 8_400,
            data_seed: 0,
            steps: 3000,
            batch_size: 64,
            lr: 2e-3,
            warmup_steps: 100,
            weight_decay: 0.01,
            seed: 0,
            threads: 0,
        }
    }
}

/// A trained classifier.
#[derive(Debug)]
pub struct Trained {
    /// Its tensors, f16.
    pub weights: BTreeMap<String, Tensor>,
    /// How well it does on the test scenes.
    pub accuracy: Accuracy,
}

/// Shares of scenes whose label was told, 0..=1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Accuracy {
    /// Class and style.
    pub both: f64,
    /// The class, whatever the style.
    pub class: f64,
    /// The style, whatever the class.
    pub style: f64,
}

/// Scenes of every content in every style, in turn; the class of an item is the number of its [`Label`].
struct AllScenes {
    domains: Vec<(Domain, Scenes)>,
    classes: Vec<String>,
    count: usize,
    seed: u64,
}

impl AllScenes {
    fn new(count: usize, seed: u64) -> Result<Self, data::Error> {
        let options = DataOptions {
            size: SIDE,
            seed,
            ..DataOptions::default()
        };
        let every = Content::ALL
            .iter()
            .flat_map(|&content| Style::ALL.map(|style| Domain { content, style }));
        let domains = every
            .map(|domain| Ok((domain, Scenes::new(domain, &options)?)))
            .collect::<Result<Vec<_>, data::Error>>()?;
        let mut classes = vec![String::new(); Label::COUNT];
        for (domain, _) in &domains {
            for (class, name) in domain.content.classes().into_iter().enumerate() {
                classes[Label::of(*domain, class as u32).number() as usize] =
                    format!("{name} ({})", domain.name());
            }
        }
        Ok(Self {
            domains,
            classes,
            count,
            seed,
        })
    }
}

impl Dataset for AllScenes {
    fn len(&self) -> usize {
        self.count
    }

    fn get(&self, index: usize) -> Result<Item, data::Error> {
        let (domain, scenes) = &self.domains[index % self.domains.len()];
        let item = scenes.get(index / self.domains.len())?;
        Ok(Item {
            class: item.class.map(|class| Label::of(*domain, class).number()),
            ..item
        })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        format!(
            "{} rendered scenes of all domains (seed {})",
            self.count, self.seed
        )
    }

    fn fingerprint(&self) -> String {
        format!("all-scenes:seed{}:count{}", self.seed, self.count)
    }

    fn size(&self) -> usize {
        SIDE
    }

    fn flips(&self) -> bool {
        true
    }
}

/// Trains a classifier; none if it was interrupted.
///
/// # Errors
/// A number of the recipe out of its range, or a loss that is no number.
pub fn train(
    section: &ClassifierSection,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Option<Trained>, Error> {
    section.check()?;
    let scenes = Arc::new(AllScenes::new(section.scenes, section.data_seed)?);
    let start = LoaderState::default();
    let mut loader = Loader::new(scenes, start, section.seed, section.batch_size, 2)?;
    let mut weights = BTreeMap::new();
    let mut parameters = Vec::new();
    for (name, tensor) in SceneClassifier::init(section.seed)? {
        let var = Var::from_tensor(&tensor)?;
        weights.insert(name.clone(), var.as_tensor().clone());
        parameters.push((name, var));
    }
    let config = AdamWConfig {
        weight_decay: section.weight_decay,
        ..AdamWConfig::default()
    };
    let mut optimizer = AdamW::new(parameters, config)?;
    let network = SceneClassifier::new(weights.clone())?;
    let rate = LearningRate {
        base: section.lr,
        shape: Schedule::Cosine,
        warmup_steps: section.warmup_steps,
        total_steps: section.steps,
        final_ratio: 0.0,
    };
    let mut task = progress.train(0, section.steps as u64);
    for step in 0..section.steps {
        if cancel.requested() {
            return Ok(None);
        }
        let started = std::time::Instant::now();
        let batch = loader.next_batch()?;
        let recording = Recording::start();
        let scores = network.scores(&network.features(&batch.tensors["images"])?)?;
        let loss = candle_nn::loss::cross_entropy(&scores, &batch.tensors["class_labels"])?;
        let mut gradients = recording.backward(&loss)?;
        let gradients: BTreeMap<&str, Tensor> = weights
            .iter()
            .filter_map(|(name, tensor)| Some((name.as_str(), gradients.remove(tensor)?)))
            .collect();
        optimizer.config.lr = rate.at(step);
        optimizer.step(|name, _| gradients.get(name), 1.0, None)?;
        let loss = f64::from(loss.to_scalar::<f32>()?);
        if !loss.is_finite() {
            return Err(Error::Diverged { step });
        }
        task.tick(step as u64 + 1, loss, started.elapsed().as_secs_f64() * 1e3);
    }
    task.finish();
    // Tested as they will be stored.
    let weights = weights
        .into_iter()
        .map(|(name, tensor)| Ok((name, tensor.detach().to_dtype(DType::F16)?)))
        .collect::<Result<BTreeMap<_, _>, Error>>()?;
    let network = SceneClassifier::new(weights.clone())?;
    let accuracy = test(&network, section)?;
    Ok(Some(Trained { weights, accuracy }))
}

/// Tells labels of scenes that training did not see.
fn test(network: &SceneClassifier, section: &ClassifierSection) -> Result<Accuracy, Error> {
    const BATCH: usize = 100;
    // Seeds share nothing: each names streams of its own.
    let scenes = AllScenes::new(section.test_scenes, section.data_seed.wrapping_add(1))?;
    let (mut both, mut class, mut style) = (0usize, 0usize, 0usize);
    for from in (0..scenes.len()).step_by(BATCH) {
        let items = (from..scenes.len().min(from + BATCH))
            .map(|index| scenes.get(index))
            .collect::<Result<Vec<_>, _>>()?;
        let pixels: Vec<f32> = items.iter().flat_map(|item| item.image.clone()).collect();
        let shape = (items.len(), 3, SIDE, SIDE);
        let images = Tensor::from_vec(pixels, shape, &candle_core::Device::Cpu)?;
        let told = no_grad(|| {
            network
                .scores(&network.features(&images)?)?
                .argmax(D::Minus1)
        })?;
        for (item, told) in items
            .iter()
            .zip(told.to_dtype(DType::U32)?.to_vec1::<u32>()?)
        {
            let truth = Label::from_number(item.class.unwrap_or_default());
            let told = Label::from_number(told);
            both += usize::from(truth == told);
            class += usize::from(truth.class == told.class);
            style += usize::from(truth.style == told.style);
        }
    }
    let share = |count: usize| count as f64 / scenes.len() as f64;
    Ok(Accuracy {
        both: share(both),
        class: share(class),
        style: share(style),
    })
}

impl ClassifierSection {
    fn check(&self) -> Result<(), Error> {
        let at_least_one = [
            ("scenes", self.scenes),
            ("test_scenes", self.test_scenes),
            ("steps", self.steps),
            ("batch_size", self.batch_size),
        ];
        if let Some((key, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(Error::Recipe {
                key,
                expected: "at least 1",
            });
        }
        if !(self.lr > 0.0 && self.lr.is_finite()) {
            return Err(Error::Recipe {
                key: "lr",
                expected: "a number above 0",
            });
        }
        if !(self.weight_decay >= 0.0 && self.weight_decay.is_finite()) {
            return Err(Error::Recipe {
                key: "weight_decay",
                expected: "a number of 0 or more",
            });
        }
        Ok(())
    }
}

/// Writes a classifier's weights, with its accuracy in the header.
///
/// # Errors
/// A disk that refuses.
pub fn store(trained: &Trained, file: &Path) -> Result<(), Error> {
    let texts = BTreeMap::from([
        ("network".to_owned(), "scene classifier".to_owned()),
        (
            "accuracy".to_owned(),
            serde_json::json!(trained.accuracy).to_string(),
        ),
    ]);
    let tensors = trained
        .weights
        .iter()
        .map(|(name, tensor)| (name.clone(), tensor))
        .collect();
    fs::write_atomic_with(file, |out| {
        fs::tensors::write(out, &texts, &tensors, Tensor::dtype).map_err(std::io::Error::other)
    })?;
    Ok(())
}
