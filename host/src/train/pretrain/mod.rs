//! Pretraining from scratch: how the embedded backbone and the shipped pipelines were made.

mod autoencoder;
mod module;
mod pipeline;
mod text;
mod tower;

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{DType, Device};
use serde::de::DeserializeOwned;
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
pub use autoencoder::AutoencoderRecipe;
pub use pipeline::{PipelineRecipe, make_pipeline};
pub use text::TextRecipe;

/// A file that says how something is pretrained.
pub trait Recipe: Default + Serialize + DeserializeOwned {
    /// What it makes, in words.
    const MAKES: &'static str;
    /// The folder for that, inside the run's.
    const FOLDER: &'static str;

    /// What it has of a run file.
    fn sections(&mut self) -> Sections<'_>;

    /// Whether it can be followed, before anything is written.
    ///
    /// # Errors
    /// A network or data that cannot be.
    fn check(&self) -> Result<(), Error>;

    /// Trains, from nothing or from the newest checkpoint in `run`, and writes the result.
    ///
    /// # Errors
    /// Whatever the recipe, the data, the training or the disk refuse.
    fn follow(
        &self,
        run: &Path,
        resume: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Ending, Error>;
}

/// The parts of a recipe that run files have too.
pub struct Sections<'a> {
    /// Where the run goes.
    pub run: &'a mut RunSection,
    /// What to train on.
    pub data: &'a DataSection,
    /// How.
    pub train: &'a mut TrainSection,
    /// The sample grids on the way.
    pub sample: SampleSection,
}

/// A recipe for a backbone: the network, its diffusion process, and the sections of a run file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BackboneRecipe {
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

impl Recipe for BackboneRecipe {
    const MAKES: &'static str = "backbone";
    const FOLDER: &'static str = "backbone";

    fn sections(&mut self) -> Sections<'_> {
        Sections {
            run: &mut self.run,
            data: &self.data,
            train: &mut self.train,
            sample: self.sample.clone(),
        }
    }

    fn check(&self) -> Result<(), Error> {
        self.model.check()?;
        self.dataset().map(drop)
    }

    fn follow(
        &self,
        run: &Path,
        resume: bool,
        progress: &Progress,
        cancel: &Cancel,
    ) -> Result<Ending, Error> {
        let device = Device::Cpu;
        let dataset = self.dataset()?;
        let backbone = Backbone::init(self.model.clone(), self.train.seed, &device)?;
        let process = Process::new(self.scheduler.clone(), backbone.info().learned_variance)?;
        let resumed = resumed(run, resume)?;
        let facts = Facts {
            seed: self.train.seed,
            steps: self.train.steps,
            batch_size: self.train.batch_size,
            accumulation: self.train.accumulation,
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
        let streams = Streams::new(self.train.seed);
        let model = Pretrained {
            backbone,
            process,
            encoder: Encoder::Pixels,
            text: None,
            adapters: Vec::new(),
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
        let workers = self.data.workers.max(1);
        let feed = Feed::data(dataset, &self.train, workers, resumed.as_ref())?;
        let mut trainer = Trainer::new(
            session.clone(),
            Stack::empty()?,
            self.train.clone(),
            Some(&everything),
            feed,
            resumed.as_ref(),
        )?;
        let mut records = Records::open(run, trainer.done(), self.train.tensorboard)?;
        let ending = trainer.fit(run, &mut records, progress, cancel, &mut |_, _| Ok(()))?;
        if ending == Ending::Finished {
            session.backbone.save_compact(
                &run.join(BackboneRecipe::FOLDER),
                &trainer.best_overlay(),
                DType::F16,
            )?;
        }
        Ok(ending)
    }
}

impl BackboneRecipe {
    fn dataset(&self) -> Result<Arc<dyn data::Dataset>, Error> {
        let dataset = dataset(&self.data, self.model.sample_size)?;
        data::check_classes(&*dataset, self.model.num_embeds_ada_norm)?;
        Ok(dataset)
    }
}

/// The data of a recipe, at `size` pixels where it does not say.
fn dataset(section: &DataSection, size: usize) -> Result<Arc<dyn data::Dataset>, Error> {
    let options = DataOptions {
        size: section.size.unwrap_or(size),
        flip: section.flip,
        count: section.count,
        seed: section.seed,
        ..DataOptions::default()
    };
    Ok(Arc::from(data::open(&section.source, &options)?))
}

/// The newest checkpoint of a run folder, which is made if needed.
///
/// # Errors
/// No checkpoint where one is to be resumed.
fn resumed(run: &Path, resume: bool) -> Result<Option<Checkpoint>, Error> {
    std::fs::create_dir_all(run).map_err(|error| crate::fs::Error::io("create", run, error))?;
    match checkpoint::steps(run).last() {
        Some(&step) if resume => {
            let folder = checkpoint::folder(run, step);
            Ok(Some(Checkpoint::load(&folder, &Device::Cpu)?))
        }
        None if resume => Err(Error::NothingToResume {
            path: run.to_path_buf(),
        }),
        _ => Ok(None),
    }
}
