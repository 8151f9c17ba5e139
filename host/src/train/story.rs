//! What a run tells its reader: fills the report while the run goes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::data::Dataset;
use crate::fs;
use crate::plugin::stack::OutputPicture;
use crate::pretrained::{EMBEDDED, Pretrained};
use crate::report::Environment;
use crate::report::summary::{
    Checkpoint, Data, Model, PluginReport, Report, Role, SampleGrid, Setting, SlotUse, Status,
    Trainable, folder_bytes,
};

use super::run::{Job, grid_file};
use super::{Ending, Error, Owner, Session, Trainer, checkpoint, pictures};

/// A report in the making.
pub(super) struct Story {
    report: Report,
    folder: PathBuf,
}

impl Story {
    /// What is known before anything runs; a resumed run continues its earlier report.
    pub(super) fn begin(
        job: &Job,
        model: &Pretrained,
        dataset: &dyn Dataset,
        resumed: bool,
    ) -> Result<Self, Error> {
        let config = &job.resolved.config;
        let folder = job.resolved.out().to_path_buf();
        let earlier = if resumed {
            Report::read(&folder)?
        } else {
            Report::default()
        };
        let (info, factor) = (model.backbone.info(), model.encoder.factor());
        let mut notes = earlier.notes;
        notes.extend(job.plan.notes.iter().cloned());
        let report = Report {
            title: format!("{} on {}", config.run.name, config.data.source),
            command: job.command.clone(),
            started: if resumed { earlier.started } else { now() },
            steps_planned: config.train.steps,
            batch_size: (config.train.batch_size * config.train.accumulation) as u64,
            seed: config.train.seed,
            model: Model {
                source: config
                    .backbone
                    .path
                    .as_ref()
                    .map_or_else(|| EMBEDDED.to_owned(), |path| path.display().to_string()),
                architecture: info.architecture.clone(),
                parameters: info.parameters as u64,
                facts: [
                    ("blocks", Some(info.depth)),
                    ("width", Some(info.width)),
                    ("heads", Some(info.heads)),
                    ("patch size", Some(info.patch_size)),
                    ("image size", Some(info.sample_size * factor)),
                    ("classes", info.num_classes),
                    ("text width", info.cross_attention),
                ]
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), value?.to_string())))
                .chain((model.adapters.iter()).map(|adapter| {
                    let told = adapter.sentence();
                    let told = told.trim_start_matches("the adapter ");
                    ("adapter".to_owned(), told.to_owned())
                }))
                .collect(),
            },
            data: Data {
                source: config.data.source.clone(),
                description: dataset.describe(),
                items: dataset.len() as u64,
                classes: dataset.classes().to_vec(),
                fingerprint: dataset.fingerprint(),
                skipped: Vec::new(),
            },
            samples: earlier.samples,
            plugins: job
                .plan
                .plugins
                .iter()
                .map(|plugin| plugin_report(job, plugin))
                .collect(),
            plan: job.plan.composition.slots.iter().map(slot_use).collect(),
            wall: earlier.wall,
            environment: Environment::detect(
                rayon::current_num_threads(),
                config.backbone.device.word(),
            ),
            notes,
            ..Report::default()
        };
        Ok(Self { report, folder })
    }

    /// Adds wall time to a phase of the run.
    pub(super) fn wall(&mut self, phase: &str, time: Duration) {
        self.report.wall.add(phase, time);
    }

    /// Writes a grid for each kind of picture into `samples/` and lists it; gives the kinds and the PNGs.
    pub(super) fn grids(
        &mut self,
        pictures: &[OutputPicture],
        role: Role,
        name: &str,
        title: &str,
        caption: &str,
        step: Option<u64>,
    ) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let mut grids = Vec::new();
        for picture in pictures {
            let file = pictures::named(&grid_file(name), &picture.kind);
            let path = self.folder.join(&file);
            pictures::write(picture, &path)?;
            let png = std::fs::read(&path).map_err(|error| fs::Error::io("read", &path, error))?;
            let title = match picture.kind.as_str() {
                "" => title.to_owned(),
                kind => format!("{title}: {kind}"),
            };
            self.report.samples.retain(|sample| sample.file != file);
            self.report.samples.push(SampleGrid {
                role,
                title,
                caption: caption.to_owned(),
                file,
                step,
                tile: picture.images.dim(3)? as u32,
            });
            grids.push((picture.kind.clone(), png));
        }
        Ok(grids)
    }

    /// Lists what trains.
    pub(super) fn trainable(&mut self, session: &Session) {
        let mut groups: BTreeMap<(Owner, String), (u64, u64)> = BTreeMap::new();
        for parameter in session.parameters.borrow().iter() {
            let group = groups
                .entry((parameter.owner.clone(), pattern(&parameter.name)))
                .or_default();
            group.0 += 1;
            group.1 += parameter.var.elem_count() as u64;
        }
        for plugin in &mut self.report.plugins {
            let own = groups
                .iter()
                .filter(|((owner, _), _)| *owner == Owner::Plugin(plugin.name.clone()));
            plugin.parameters = own.map(|(_, (_, numbers))| numbers).sum();
        }
        self.report.trainable = groups
            .into_iter()
            .map(|((owner, name), (tensors, parameters))| Trainable {
                owner: match owner {
                    Owner::Backbone => "overlay".to_owned(),
                    Owner::Scale => "learned scales".to_owned(),
                    Owner::Plugin(name) => name,
                },
                name,
                tensors,
                parameters,
            })
            .collect();
    }

    /// Takes down how far training is, and where its time went.
    pub(super) fn progress(&mut self, trainer: &Trainer, session: &Session) -> Result<(), Error> {
        self.report.steps_done = trainer.done();
        self.report.profile = session.profiler.profile();
        self.report.data.skipped = trainer
            .skipped_files()
            .into_iter()
            .map(|(name, reason)| format!("{name}: {reason}"))
            .collect();
        self.report.checkpoints = checkpoint::steps(&self.folder)
            .into_iter()
            .map(|step| {
                let path = checkpoint::folder(&self.folder, step);
                let bytes = folder_bytes(&path)?;
                let path = path
                    .strip_prefix(&self.folder)
                    .map_or(path.clone(), ToOwned::to_owned);
                Ok(Checkpoint { step, path, bytes })
            })
            .collect::<Result<_, Error>>()?;
        if let Some(reason) = session.stop.borrow().as_ref() {
            self.report
                .notes
                .push(format!("Training ended early: {reason}."));
        }
        Ok(())
    }

    /// Saves the report as it stands.
    pub(super) fn save(&mut self, status: Status) -> Result<(), Error> {
        self.report.status = status;
        Ok(self.report.save(&self.folder)?)
    }

    /// Writes the page, whatever came of the run. A page that cannot be written does not hide why the run failed.
    pub(super) fn finish(&mut self, outcome: &Result<Ending, Error>) -> Result<(), Error> {
        self.report.status = match outcome {
            Ok(Ending::Finished) => Status::Finished,
            Ok(Ending::Interrupted(_)) => Status::Interrupted,
            Err(error) => Status::Failed(error.to_string()),
        };
        match (self.report.write(&self.folder), outcome) {
            (Err(error), Err(_)) => {
                tracing::warn!("the report could not be written: {error}");
                Ok(())
            }
            (written, _) => written.map(drop).map_err(Error::from),
        }
    }
}

fn plugin_report(job: &Job, plugin: &crate::plugin::resolve::Plugin) -> PluginReport {
    let manifest = &plugin.checked.manifest;
    let member = job
        .plan
        .composition
        .plugins
        .iter()
        .find(|member| member.name == plugin.name);
    let settings = plugin.settings.iter().map(|(key, value)| Setting {
        key: key.clone(),
        value: value.to_string(),
        origin: job
            .resolved
            .origins
            .of(&format!("{}.{key}", plugin.name))
            .to_string(),
        doc: manifest.settings["properties"][key]["description"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
    });
    PluginReport {
        name: plugin.name.clone(),
        version: manifest.version.clone(),
        description: manifest.summary.clone(),
        file: plugin.checked.path.display().to_string(),
        slots: member
            .map(|member| {
                member
                    .slots
                    .iter()
                    .map(|slot| slot.name().to_owned())
                    .collect()
            })
            .unwrap_or_default(),
        settings: settings.collect(),
        ..PluginReport::default()
    }
}

fn slot_use(plan: &crate::plugin::compose::SlotPlan) -> SlotUse {
    SlotUse {
        slot: plan.slot.name().to_owned(),
        mode: plan.mode.to_string(),
        plugins: plan.plugins.clone(),
        default: plan.default.clone(),
    }
}

/// A parameter's name with its numbers as `*`, so that the same tensor of every block is one line.
fn pattern(name: &str) -> String {
    let part = |part: &str| {
        if part.parse::<u64>().is_ok() {
            "*".to_owned()
        } else {
            part.to_owned()
        }
    };
    name.split('.').map(part).collect::<Vec<_>>().join(".")
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}
