//! Pretraining a backbone from scratch: how the embedded one was made.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use crate::backbone::{Backbone, DitConfig};
use crate::cancel::Cancel;
use crate::config::{DataSection, RunSection, SampleSection, TrainSection};
use crate::data::{self, DataOptions};
use crate::diffusion::{Process, SchedulerConfig};
use crate::encode::Encoder;
use crate::plugin::stack::Stack;
use crate::pretrained::Pretrained;
use crate::random::Streams;
use crate::report::Progress;

use super::checkpoint::{self, Checkpoint};
use super::fit::{Ending, Records};
use super::{Error, Facts, Feed, Parameters, Session, Trainer};

/// What a recipe file holds: the network, its diffusion process, and the sections of a run file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Where the run goes.
    pub run: RunSection,
    /// The network to make.
    pub model: DitConfig,
    /// Its diffusion process.
    pub scheduler: SchedulerConfig,
    /// What to train it on.
    pub data: DataSection,
    /// How.
    pub train: TrainSection,
    /// The sample grids on the way.
    pub sample: SampleSection,
}

/// Trains a fresh backbone and writes it, averaged if the recipe keeps an average, as `run/backbone/`.
///
/// # Errors
/// Whatever the data, the training or the disk refuse.
pub fn pretrain(
    recipe: &Recipe,
    run: &Path,
    resume: bool,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Ending, Error> {
    let device = Device::Cpu;
    let size = recipe.data.size.unwrap_or(recipe.model.sample_size);
    let options = DataOptions {
        size,
        flip: recipe.data.flip,
        count: recipe.data.count,
        seed: recipe.data.seed,
        ..DataOptions::default()
    };
    let dataset: Arc<dyn data::Dataset> = Arc::from(data::open(&recipe.data.source, &options)?);
    data::check_classes(&*dataset, recipe.model.num_embeds_ada_norm)?;
    let backbone = Backbone::init(recipe.model.clone(), recipe.train.seed, &device)?;
    let process = Process::new(recipe.scheduler.clone(), backbone.info().learned_variance)?;
    std::fs::create_dir_all(run).map_err(|error| crate::fs::Error::io("create", run, error))?;
    let resumed = match checkpoint::steps(run).last() {
        Some(&step) if resume => Some(Checkpoint::load(&checkpoint::folder(run, step), &device)?),
        None if resume => {
            return Err(Error::NothingToResume {
                path: run.to_path_buf(),
            });
        }
        _ => None,
    };
    let facts = Facts {
        seed: recipe.train.seed,
        steps: recipe.train.steps,
        batch_size: recipe.train.batch_size,
        accumulation: recipe.train.accumulation,
        dataset_len: dataset.len(),
        classes: dataset.classes().to_vec(),
        plugins: Vec::new(),
        rates: std::collections::BTreeMap::new(),
        folder: Some(run.to_path_buf()),
        ..Facts::default()
    };
    let parameters = resumed
        .as_ref()
        .map(|checkpoint| Parameters::saved(checkpoint.parameters.clone(), false))
        .unwrap_or_default();
    let streams = Streams::new(recipe.train.seed);
    let model = Pretrained {
        backbone,
        process,
        encoder: Encoder::Pixels,
    };
    let session = Session::new(
        model,
        facts,
        parameters,
        streams,
        progress.clone(),
        cancel.clone(),
    );
    let session = Rc::new(session);
    let everything = ["all".to_owned()];
    let workers = recipe.data.workers.max(1);
    let feed = Feed::data(dataset, &recipe.train, workers, resumed.as_ref())?;
    let mut trainer = Trainer::new(
        session.clone(),
        Stack::empty()?,
        recipe.train.clone(),
        Some(&everything),
        feed,
        resumed.as_ref(),
    )?;
    let mut records = Records::open(run, trainer.done(), recipe.train.tensorboard)?;
    let ending = trainer.fit(run, &mut records, progress, cancel, &mut |_, _| Ok(()))?;
    if ending == Ending::Finished {
        session.backbone.save_compact(
            &run.join("backbone"),
            &trainer.best_overlay(),
            DType::F16,
        )?;
    }
    Ok(ending)
}
