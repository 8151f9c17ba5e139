//! `host eval`: how near a run's images come to images that it has never seen, or its depth and normals to the truth.

use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::json;

use super::arguments::whole;
use super::drawing::{Chosen, DrawingArguments, Inputs};
use super::failure::Failure;
use super::interruption::watch;
use super::text::{Listing, table};
use crate::cancel::Cancel;
use crate::config::SampleSection;
use crate::data::scenes::Domain;
use crate::data::{self, DataOptions, Dataset, Folder};
use crate::eval::network::Network;
use crate::eval::{Error, Pictures, estimates, measure};
use crate::plugin::slots::Slot;
use crate::report::Progress;
use crate::report::estimates::{ESTIMATES_JSON, Estimates};
use crate::report::evaluation::{EVAL_JSON, Evaluation, Images, Scores};
use crate::report::summary::{REPORT_JSON, write_html};
use crate::train::from_run::{Drawn, draw_saved};

/// How many images are drawn where nothing is said.
const COUNT: i64 = 512;
/// How many scenes the reference has where nothing is said.
const REFERENCE_COUNT: usize = 2048;
/// Which scenes the reference shows where nothing is said: none that the shipped run files and recipes train on.
const REFERENCE_SEED: u64 = 1_000_003;
/// Which scenes plugins that begin with pictures draw from where nothing is said: neither trained on nor in the reference.
const INPUT_SEED: u64 = 2_000_003;
/// The scenes that the embedded backbone was trained on.
const EMBEDDED_DATA: (&str, u64) = ("scenes:studio", 0);

/// Measure a run's images against held-out ones: Frechet distance, KID, precision and recall
///
/// Draws as `host sample` does, with the run's weights or with a backbone alone, or takes the images of a folder. The reference is the run's own
/// domain, other scenes than those trained on, unless --reference names something else. The numbers go to eval.json and the run's
/// report.html; the same seeds give the same numbers. A run that estimates depth or normals is measured against the truth that lies beside what it
/// draws from: AbsRel and delta < 1.25 after alignment, or angles; in estimates.json.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// How many images to draw [default: 512, and at most as many as there are to draw from]; with --images how many to take [default: all]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    count: Option<i64>,
    /// Take the images of this folder instead of drawing; a subfolder is a class
    #[arg(long, value_name = "DIR", conflicts_with = "backbone")]
    images: Option<PathBuf>,
    /// What to compare with: a folder of images, or rendered scenes [default: the domain of the run's data]
    #[arg(long, value_name = "DIR|scenes:DOMAIN")]
    reference: Option<String>,
    /// How many reference images [default: 2048 scenes, all of a folder]
    #[arg(long, value_name = "N")]
    reference_count: Option<usize>,
    /// Which scenes, or which files of a folder; scenes that the run was trained on are refused [default: 1000003]
    #[arg(long, value_name = "S")]
    reference_seed: Option<u64>,
    /// The network whose features are compared: Inception-v3 as safetensors, or a classifier of `host pretrain` [default: the embedded scene classifier]
    #[arg(long, value_name = "FILE.safetensors")]
    features: Option<PathBuf>,
    #[command(flatten)]
    drawing: DrawingArguments,
    /// The folder for eval.json [default: the run's; without a run nothing is written]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    arguments.drawing.set_threads();
    evaluate(arguments, progress, &watch()?)
}

/// The command, once the process is set up for it.
pub(super) fn evaluate(
    arguments: &Arguments,
    progress: &Progress,
    cancel: &Cancel,
) -> Result<Listing, Failure> {
    // What may be refused comes before the drawing, which takes longest.
    let count = arguments.count.or(match &arguments.images {
        Some(_) => None,
        None => Some(COUNT),
    });
    let mut chosen = arguments
        .drawing
        .resolve(count, Inputs::Unseen(INPUT_SEED))?;
    let inputs = chosen
        .saved
        .as_ref()
        .and_then(|saved| saved.inputs.as_ref());
    if let (None, Some(inputs)) = (arguments.count, inputs) {
        let sample = &mut chosen.resolved.config.sample;
        sample.count = sample.count.min(inputs.len());
    }
    let mut drawn = None;
    if arguments.images.is_none() && has_output(&chosen) {
        let pictures = draw(&chosen, progress, cancel)?;
        if estimates::are_estimates(&pictures.pictures) {
            return arguments.told_estimates(&chosen, &pictures);
        }
        drawn = Some(pictures);
    }
    let folder = arguments.folder(&chosen)?;
    let size = match &folder {
        Some(folder) => folder.size(),
        None => drawn_size(&chosen)?,
    };
    let reference = arguments.reference(&chosen, size)?;
    let network = match &arguments.features {
        Some(file) => Network::open(file)?,
        None => Network::embedded()?,
    };
    let real = Pictures::read(&*reference, cancel)?;

    let (pictures, generated) = match folder {
        Some(folder) => {
            let pictures = Pictures::read(&folder, cancel)?;
            let images = Images {
                description: folder.describe(),
                ..Images::default()
            };
            (pictures, images)
        }
        None => {
            let drawn = match drawn {
                Some(drawn) => drawn,
                None => draw(&chosen, progress, cancel)?,
            };
            arguments.pictures(&chosen, &drawn)?
        }
    };
    let seed = chosen.resolved.config.sample.seed;
    let scores = measure(&pictures, &real, &network, seed, progress, cancel)?;
    let evaluation = Evaluation {
        generated: Images {
            count: pictures.images.len() as u64,
            size: size as u64,
            ..generated
        },
        reference: Images {
            description: reference.describe(),
            count: real.images.len() as u64,
            size: size as u64,
            ..Images::default()
        },
        scores,
    };
    for note in &evaluation.scores.notes {
        tracing::warn!("{note}");
    }
    let files = arguments.save(&evaluation)?;
    Ok(Listing::new(
        arguments.json,
        || told(&evaluation, &files),
        || json!({ "files": files, "evaluation": evaluation }),
    ))
}

impl Arguments {
    /// The folder of generated images, at the size of its first one.
    fn folder(&self, chosen: &Chosen) -> Result<Option<Folder>, Failure> {
        let Some(path) = &self.images else {
            return Ok(None);
        };
        let options = DataOptions {
            count: self.count.map(|count| count as usize),
            seed: chosen.resolved.config.sample.seed,
            ..DataOptions::default()
        };
        let size = Folder::open(path, &options)?.first_size()?;
        Ok(Some(Folder::open(path, &DataOptions { size, ..options })?))
    }

    /// What to compare with.
    fn reference(&self, chosen: &Chosen, size: usize) -> Result<Box<dyn Dataset>, Failure> {
        let data = &chosen.resolved.config.data;
        let trained = match (&self.drawing.run, &self.drawing.backbone, &self.images) {
            (Some(_), ..) => Some((data.source.as_str(), data.seed)),
            (None, None, None) => Some(EMBEDDED_DATA),
            _ => None,
        };
        let source = match (&self.reference, trained) {
            (Some(source), _) => source.as_str(),
            (None, Some((source, _))) => source,
            (None, None) => {
                return Err(Failure::input(
                    "nothing says what to compare with; give a folder or scenes:DOMAIN by --reference",
                ));
            }
        };
        let seed = self.reference_seed.unwrap_or(REFERENCE_SEED);
        let domain = scenes(source)?;
        if let Some((trained, trained_seed)) = trained {
            if domain.is_some() && domain == scenes(trained)? && seed == trained_seed {
                return Err(Failure::from(Error::TrainedOn {
                    domain: source.to_owned(),
                    seed,
                }));
            }
            if domain.is_none() && source == trained {
                tracing::warn!(
                    "the reference is the folder that the run was trained on, so images that repeat it look best; give a folder of other images by --reference"
                );
            }
        }
        let options = DataOptions {
            size,
            count: self.reference_count.or(domain.map(|_| REFERENCE_COUNT)),
            seed,
            ..DataOptions::default()
        };
        Ok(data::open(source, &options)?)
    }

    /// What was drawn as images to be compared.
    fn pictures(&self, chosen: &Chosen, drawn: &Drawn) -> Result<(Pictures, Images), Failure> {
        let main = drawn.pictures.iter().find(|p| p.kind.is_empty());
        let Some(main) = main.filter(|picture| picture.images.dims().get(1) == Some(&3)) else {
            let kinds: Vec<&str> = drawn.pictures.iter().map(|p| p.kind.as_str()).collect();
            return Err(Error::NoImages {
                kinds: kinds.join(", "),
            }
            .into());
        };
        let pictures = Pictures::drawn(&main.images, &drawn.classes, chosen.names.clone())?;
        let images = self.images(chosen, drawn, pictures.images.len());
        Ok((pictures, images))
    }

    /// How `count` images were drawn.
    fn images(&self, chosen: &Chosen, drawn: &Drawn, count: usize) -> Images {
        let config = &chosen.resolved.config;
        let whose = match (&self.drawing.run, &config.backbone.path) {
            (Some(run), _) => run.display().to_string(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "the embedded backbone".to_owned(),
        };
        // Plugins as they begin; those of a run are the run's.
        let plugins: Vec<&str> = (chosen.saved.iter())
            .filter(|saved| saved.folder.is_none())
            .flat_map(|saved| &saved.plan.composition.plugins)
            .map(|member| member.id.as_str())
            .collect();
        let with = match plugins.is_empty() {
            true => String::new(),
            false => format!(" with {}", plugins.join(", ")),
        };
        let classes = config.sample.classes.clone();
        Images {
            description: format!("{count} images of {whose}{with}"),
            step: drawn.step,
            averaged: chosen.saved.as_ref().map(|saved| saved.averaged),
            sample: Some(SampleSection {
                classes: Some(classes.unwrap_or(chosen.classes.clone())),
                ..config.sample.clone()
            }),
            ..Images::default()
        }
    }

    /// Measures estimates of depth or normals, and writes what came of it.
    fn told_estimates(&self, chosen: &Chosen, drawn: &Drawn) -> Result<Listing, Failure> {
        let (depth, normals) = estimates::errors(&drawn.pictures, &drawn.inputs)?;
        let count = chosen.resolved.config.sample.count;
        let inputs = chosen
            .saved
            .as_ref()
            .and_then(|saved| saved.inputs.as_ref());
        let note = match inputs {
            Some(_) => None,
            None => Some(
                "these are the pictures that the run was trained on; name others by --input"
                    .to_owned(),
            ),
        };
        let estimates = Estimates {
            generated: Images {
                count: count as u64,
                ..self.images(chosen, drawn, count)
            },
            truth: match inputs {
                Some(inputs) => inputs.describe(),
                None => chosen.resolved.config.data.source.clone(),
            },
            seconds_per_image: drawn.seconds / count.max(1) as f64,
            depth,
            normals,
            notes: note.into_iter().collect(),
        };
        for note in &estimates.notes {
            tracing::warn!("{note}");
        }
        let mut files = Vec::new();
        if let Some(out) = self.out.as_ref().or(self.drawing.run.as_ref()) {
            estimates.write(out)?;
            files.push(out.join(ESTIMATES_JSON));
            if out.join(REPORT_JSON).is_file() {
                files.push(write_html(out)?);
            }
        }
        let text = || {
            let rows: Vec<[String; 3]> = (estimates.numbers().into_iter())
                .map(|(name, value, detail)| [name.to_owned(), value, detail.to_owned()])
                .collect();
            format!(
                "{} against the truth of {}\n\n{}{}",
                estimates.generated.description,
                estimates.truth,
                table(&rows),
                written(&files)
            )
        };
        Ok(Listing::new(
            self.json,
            text,
            || json!({ "files": files, "estimates": estimates }),
        ))
    }

    /// Writes `eval.json`, and the page of the run that it is of.
    fn save(&self, evaluation: &Evaluation) -> Result<Vec<PathBuf>, Failure> {
        let run = self.drawing.run.as_ref();
        let Some(out) = self.out.as_ref().or(run) else {
            return Ok(Vec::new());
        };
        evaluation.write(out)?;
        let mut files = vec![out.join(EVAL_JSON)];
        if out.join(REPORT_JSON).is_file() {
            files.push(write_html(out)?);
        }
        Ok(files)
    }
}

/// Whether a plugin of the run makes the pictures to keep.
fn has_output(chosen: &Chosen) -> bool {
    let plugins = (chosen.saved.iter()).flat_map(|saved| &saved.plan.composition.plugins);
    plugins
        .into_iter()
        .any(|plugin| plugin.slots.contains(&Slot::Output))
}

fn draw(chosen: &Chosen, progress: &Progress, cancel: &Cancel) -> Result<Drawn, Failure> {
    let saved = chosen.saved.as_ref();
    Ok(draw_saved(
        &chosen.resolved,
        saved,
        &chosen.classes,
        progress,
        cancel,
    )?)
}

/// The domain of `scenes:DOMAIN`; none of a folder.
fn scenes(source: &str) -> Result<Option<Domain>, data::Error> {
    source
        .strip_prefix("scenes:")
        .map(Domain::parse)
        .transpose()
}

/// Pixels along each side of what the model draws.
fn drawn_size(chosen: &Chosen) -> Result<usize, Failure> {
    let count = chosen.resolved.config.sample.count;
    if count == 0 {
        return Err(Failure::input("there is nothing to draw: --count is 0"));
    }
    let path: Option<&Path> = chosen.resolved.config.backbone.path.as_deref();
    Ok(crate::pretrained::inspect(path)?.image_size())
}

fn told(evaluation: &Evaluation, files: &[PathBuf]) -> String {
    let Evaluation {
        generated,
        reference,
        scores,
    } = evaluation;
    let Scores { kernel, .. } = scores;
    let mut text = format!(
        "{} against {}, by the features of the {}\n\n",
        generated.description, reference.description, scores.network.name
    );
    let mut rows = vec![
        [
            "Frechet distance".to_owned(),
            format!("{:.4}", scores.frechet),
            format!(
                "{:.4} by means, {:.4} by spreads",
                scores.frechet_mean, scores.frechet_covariance
            ),
        ],
        [
            "kernel distance (KID) x 1000".to_owned(),
            format!("{:.4}", 1e3 * kernel.mean),
            format!(
                "± {:.4} over {} subsets of {}",
                1e3 * kernel.std,
                kernel.subsets,
                kernel.subset_size
            ),
        ],
        [
            "precision".to_owned(),
            format!("{:.4}", scores.precision),
            "images that lie among real ones".to_owned(),
        ],
        [
            "recall".to_owned(),
            format!("{:.4}", scores.recall),
            "real ones that are covered".to_owned(),
        ],
    ];
    rows.extend(scores.agreement.map(|agreement| {
        [
            "class agreement".to_owned(),
            format!("{agreement:.4}"),
            "images whose nearest real one is of their class".to_owned(),
        ]
    }));
    text.push_str(&table(&rows));
    if !scores.classes.is_empty() {
        let head = [
            "class",
            "images",
            "reference",
            "KID x 1000",
            "precision",
            "recall",
            "agreement",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(scores.classes.iter().map(|class| {
            [
                class.name.clone(),
                class.generated.to_string(),
                class.reference.to_string(),
                format!(
                    "{:.3} ± {:.3}",
                    1e3 * class.kernel.mean,
                    1e3 * class.kernel.std
                ),
                format!("{:.3}", class.precision),
                format!("{:.3}", class.recall),
                class
                    .agreement
                    .map(|a| format!("{a:.3}"))
                    .unwrap_or_default(),
            ]
        }));
        text.push('\n');
        text.push_str(&table(&rows));
    }
    text.push_str(&written(files));
    text
}

/// The last line of what is told: the files.
fn written(files: &[PathBuf]) -> String {
    let files: Vec<String> = (files.iter())
        .map(|file| file.display().to_string())
        .collect();
    match files.is_empty() {
        true => String::new(),
        false => format!("\nwrote {}\n", files.join(", ")),
    }
}
