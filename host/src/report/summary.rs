//! Everything a run's report says that its other files do not: plain data that the training loop fills and saves as
//! `report.json` at the start, with every checkpoint and at the end. With `run.toml`, `metrics.jsonl` and
//! `samples/*.png` beside it, `report.html` can be made again at any time.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Environment, Error, Profile, Stopwatch, html, metrics};
use crate::fs;

/// Name of the saved form in the run folder.
pub const REPORT_JSON: &str = "report.json";
/// Name of the page in the run folder.
pub const REPORT_HTML: &str = "report.html";

/// A run, told to its reader. Paths are relative to the run folder. What is empty is left out of the page.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The page's headline, as in "diff_tuning on scenes:neon".
    pub title: String,
    /// How the run stands.
    pub status: Status,
    /// The command line as it was typed.
    pub command: String,
    /// Start of the first session, in seconds since 1970 (UTC).
    pub started: u64,
    /// Optimizer steps done.
    pub steps_done: u64,
    /// Optimizer steps asked for.
    pub steps_planned: u64,
    /// Samples a step, accumulation included.
    pub batch_size: u64,
    /// The run's seed.
    pub seed: u64,
    /// The frozen backbone.
    pub model: Model,
    /// What is trained, by whom it was brought; empty if nothing is.
    pub trainable: Vec<Trainable>,
    /// The data trained on.
    pub data: Data,
    /// Image grids in the order of the story.
    pub samples: Vec<SampleGrid>,
    /// The plugins in their order.
    pub plugins: Vec<PluginReport>,
    /// The composed step, slot by slot in its order.
    pub plan: Vec<SlotUse>,
    /// Where a step's time went.
    pub profile: Profile,
    /// Where the run's time went.
    pub wall: Stopwatch,
    /// Checkpoints that are still there.
    pub checkpoints: Vec<Checkpoint>,
    /// The machine.
    pub environment: Environment,
    /// Things the reader must know, a sentence each: skipped files, sessions resumed, warnings.
    pub notes: Vec<String>,
}

/// How a run stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Under way; if its process is gone, it was killed.
    #[default]
    Running,
    /// All steps done.
    Finished,
    /// Stopped by the user, resumable.
    Interrupted,
    /// Stopped by an error: the sentence that was printed.
    Failed(String),
}

/// The pretrained backbone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Model {
    /// What was given: a folder, or the name of the embedded one.
    pub source: String,
    /// Architecture, as in "DiT".
    pub architecture: String,
    /// All of its parameters, frozen or not.
    pub parameters: u64,
    /// Further facts to list: (name, value), as in ("patch size", "4").
    pub facts: Vec<(String, String)>,
}

/// A group of trainable parameters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Trainable {
    /// Who brought them: "overlay" for stand-ins of backbone parameters, "learned scales" for DiffFit's, else the plugin's name.
    pub owner: String,
    /// What they are, as in `transformer_blocks.*.attn1.to_q.weight`.
    pub name: String,
    /// Tensors in the group.
    pub tensors: u64,
    /// Numbers in all of them.
    pub parameters: u64,
}

/// The data set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Data {
    /// What was given: a folder or `scenes:DOMAIN`.
    pub source: String,
    /// One line: what it is.
    pub description: String,
    /// Usable items.
    pub items: u64,
    /// Class names, empty without classes.
    pub classes: Vec<String>,
    /// Identity of the content.
    pub fingerprint: String,
    /// Files that could not be read and were skipped.
    pub skipped: Vec<String>,
}

/// Where a grid of images belongs in the report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sampled before the first step.
    Before,
    /// Sampled after the last step, with the seeds of [`Role::Before`].
    After,
    /// Images of the data set, for comparison.
    Target,
    /// Sampled on the way.
    Progress,
    /// Anything else.
    #[default]
    Other,
}

/// One PNG that holds a grid of images.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SampleGrid {
    /// Where it belongs.
    pub role: Role,
    /// A few words above it, as in "After 300 steps".
    pub title: String,
    /// A line below it: domain, sampler, guidance, seeds.
    pub caption: String,
    /// The PNG.
    pub file: PathBuf,
    /// The step it was sampled at.
    pub step: Option<u64>,
    /// Side of one image in pixels, 0 if not known; small ones are shown enlarged with hard edges.
    pub tile: u32,
}

/// What one plugin was and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginReport {
    /// Its name: also the one in metric names `plugin/<name>/...` and in the profile.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One line from its manifest.
    pub description: String,
    /// The file it was loaded from.
    pub file: String,
    /// Slots it takes.
    pub slots: Vec<String>,
    /// Its resolved settings.
    pub settings: Vec<Setting>,
    /// Trainable numbers it brought.
    pub parameters: u64,
    /// What it did, a sentence each, as in "generated 256 memory images in 38 s".
    pub notes: Vec<String>,
    /// Images that show it, such as the memory bank.
    pub images: Vec<SampleGrid>,
}

/// One resolved setting.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Setting {
    /// Its key.
    pub key: String,
    /// Its value as TOML.
    pub value: String,
    /// Where the value comes from: "default", "run file" or "command line".
    pub origin: String,
    /// What the setting means.
    pub doc: String,
}

/// One slot of the composed step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SlotUse {
    /// The slot's name.
    pub slot: String,
    /// How plugins share it: exclusive, chain, sum, product, union, each.
    pub mode: String,
    /// The plugins on it, in order.
    pub plugins: Vec<String>,
    /// What the host does there when no plugin takes it.
    pub default: String,
}

/// One saved checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Checkpoint {
    /// Steps done when it was written.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
    /// Size of all its files in bytes.
    pub bytes: u64,
}

impl Report {
    /// Reads the report of a run folder. Where `report.json` is missing (a run that was killed early), what can be
    /// told from the other files stands in for it; grids in `samples/` that it does not name are added to it.
    ///
    /// # Errors
    /// A file is there but cannot be read or is not what it should be.
    pub fn read(run_dir: &Path) -> Result<Self, Error> {
        let path = run_dir.join(REPORT_JSON);
        let mut report: Self = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|source| Error::ReportJson { path, source })?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Self {
                title: run_dir
                    .file_name()
                    .map_or_else(|| "Run".into(), |name| name.to_string_lossy().into_owned()),
                checkpoints: find_checkpoints(run_dir)?,
                ..Self::default()
            },
            Err(error) => return Err(fs::Error::io("read", path, error).into()),
        };
        if let Some(last) = metrics::read(&run_dir.join("metrics.jsonl"))?.last() {
            // The metrics reach further than the last saved report when a run was killed.
            report.steps_done = report.steps_done.max(last.step);
        }
        for file in find_pngs(run_dir)? {
            let mut known = report
                .samples
                .iter()
                .chain(report.plugins.iter().flat_map(|plugin| &plugin.images));
            if !known.any(|grid| grid.file == file) {
                let title = file
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                report.samples.push(SampleGrid {
                    title,
                    file,
                    ..SampleGrid::default()
                });
            }
        }
        Ok(report)
    }

    /// Saves `report.json`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn save(&self, run_dir: &Path) -> Result<(), Error> {
        let path = run_dir.join(REPORT_JSON);
        let mut text = serde_json::to_vec_pretty(self).map_err(|source| Error::ReportJson {
            path: path.clone(),
            source,
        })?;
        text.push(b'\n');
        Ok(fs::write_atomic(&path, &text)?)
    }

    /// Saves `report.json`, and `report.html` made from it and from the run folder's other files. Returns the path of
    /// the page.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn write(&self, run_dir: &Path) -> Result<PathBuf, Error> {
        self.save(run_dir)?;
        write_html(run_dir)
    }
}

/// Makes `report.html` from what is in the run folder and returns its path.
///
/// # Errors
/// A file cannot be read or written.
pub fn write_html(run_dir: &Path) -> Result<PathBuf, Error> {
    let page = html::render(run_dir)?;
    let path = run_dir.join(REPORT_HTML);
    fs::write_atomic(&path, page.as_bytes())?;
    Ok(path)
}

/// The PNGs in `samples/`, by name, relative to the run folder.
fn find_pngs(run_dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let names = names_in(&run_dir.join("samples"))?;
    Ok(names
        .iter()
        .filter(|name| name.ends_with(".png"))
        .map(|name| Path::new("samples").join(name))
        .collect())
}

fn find_checkpoints(run_dir: &Path) -> Result<Vec<Checkpoint>, Error> {
    let folder = run_dir.join("checkpoints");
    let mut found = Vec::new();
    for name in names_in(&folder)? {
        if let Some(step) = name
            .strip_prefix("step-")
            .and_then(|step| step.parse().ok())
        {
            let path = Path::new("checkpoints").join(&name);
            let bytes = folder_bytes(&folder.join(&name))?;
            found.push(Checkpoint { step, path, bytes });
        }
    }
    found.sort_by_key(|checkpoint| checkpoint.step);
    Ok(found)
}

/// Size of all files below a folder, for [`Checkpoint::bytes`].
///
/// # Errors
/// The folder cannot be read.
pub fn folder_bytes(dir: &Path) -> Result<u64, Error> {
    let io_error = |source| fs::Error::io("read", dir, source);
    let mut bytes = 0;
    for entry in std::fs::read_dir(dir).map_err(io_error)? {
        let entry = entry.map_err(io_error)?;
        let metadata = entry.metadata().map_err(io_error)?;
        bytes += if metadata.is_dir() {
            folder_bytes(&entry.path())?
        } else {
            metadata.len()
        };
    }
    Ok(bytes)
}

/// Sorted; none for a missing folder. Names that are not Unicode are not ours.
fn names_in(dir: &Path) -> Result<Vec<String>, Error> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(fs::Error::io("read", dir, error).into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|e| fs::Error::io("read", dir, e))?;
        names.extend(
            entry
                .file_name()
                .into_string()
                .ok()
                .filter(|name| !name.starts_with('.')),
        );
    }
    names.sort();
    Ok(names)
}
