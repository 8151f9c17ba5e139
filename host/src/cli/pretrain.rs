//! `host pretrain`: a backbone or the scene classifier of `host eval` from scratch, by a recipe file.

use std::path::{Path, PathBuf};

use clap::Args;
use toml::Table;

use super::arguments::{Flags, whole};
use super::failure::Failure;
use super::interruption::{interrupted, watch};
use super::text::Listing;
use super::threads;
use crate::cancel::INTERRUPTED;
use crate::config::resolve::shorten_warmup;
use crate::config::{Overrides, RunSection, check_ranges, resolve_sections};
use crate::eval::{ClassifierRecipe, store_classifier, train_classifier};
use crate::report::Progress;
use crate::train::Ending;
use crate::train::folder::{self, Existing};
use crate::train::pretrain::{
    AutoencoderRecipe, BackboneRecipe, PipelineRecipe, Recipe, Sections, TextRecipe, make_pipeline,
};

/// The recipe as resolved, inside the folder that it makes.
const RECIPE_FILE: &str = "recipe.toml";

/// Train a backbone from scratch by a recipe: how the embedded one was made
///
/// A recipe has the sections of a run file that apply ([run], [data], [train], [sample]), and [model] and [scheduler] with the
/// keys of diffusers' config.json and scheduler_config.json. The result is OUT/backbone/, which --backbone takes. A recipe with a
/// section [autoencoder], the config.json of an AutoencoderKL, makes OUT/vae/ instead; one with a section [text_encoder], that of a
/// CLIPTextModel, OUT/text_encoder/ and OUT/tokenizer/; one with a section [unet], that of a UNet2DConditionModel, a pipeline of such
/// parts whose UNet is still to be trained, by `host run --backbone OUT`; one with a section [classifier] the scene classifier of
/// `host eval`.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The recipe; on --resume the folder's own unless given
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The folder for checkpoints, metrics and the backbone [default: runs/pretrain]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Optimizer steps
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    steps: Option<i64>,
    /// Threads of computation [default: one a core]
    #[arg(long, value_name = "N", value_parser = whole(), allow_negative_numbers = true)]
    threads: Option<i64>,
    /// Set any key of the recipe; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    sets: Vec<String>,
    /// Continue from the newest checkpoint, bit for bit
    #[arg(long)]
    resume: bool,
}

/// What a classifier is called inside the folder that its recipe makes.
const CLASSIFIER_FILE: &str = "scene_classifier.safetensors";

pub(super) fn run(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    let asks_for = |section| asks_for(section, arguments);
    if asks_for("classifier") {
        classifier(arguments, progress)
    } else if asks_for("autoencoder") {
        make::<AutoencoderRecipe>(arguments, progress)
    } else if asks_for("text_encoder") {
        make::<TextRecipe>(arguments, progress)
    } else if asks_for("unet") {
        pipeline(arguments)
    } else {
        make::<BackboneRecipe>(arguments, progress)
    }
}

/// Follows a recipe, from the file, the flags and the defaults.
fn make<R: Recipe>(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    let (mut recipe, out): (R, _) = resolve(arguments)?;
    recipe.check()?;
    threads::set(recipe.sections().train.threads);
    let existing = if arguments.resume {
        Existing::Resume
    } else {
        Existing::Refuse
    };
    folder::prepare(&out, existing)?;
    let text = toml::to_string_pretty(&recipe).unwrap_or_default();
    crate::fs::write_atomic(&out.join(RECIPE_FILE), text.as_bytes())?;

    let cancel = watch()?;
    let ending = recipe.follow(&out, arguments.resume, progress, &cancel)?;
    Ok(match ending {
        Ending::Finished => Listing::text(format!(
            "wrote the {} to {}",
            R::MAKES,
            out.join(R::FOLDER).display()
        )),
        Ending::Interrupted(checkpoint) => interrupted("pretrain", checkpoint.as_deref(), &out),
    })
}

/// Whether the recipe has a section of this name. What is wrong with the file, whoever reads it next will say.
fn asks_for(section: &str, arguments: &Arguments) -> bool {
    let text = arguments
        .recipe_file()
        .and_then(|file| std::fs::read_to_string(file).ok());
    text.and_then(|text| text.parse::<Table>().ok())
        .is_some_and(|recipe| recipe.contains_key(section))
}

impl Arguments {
    /// The recipe's file, which on --resume may be the folder's own.
    fn recipe_file(&self) -> Option<PathBuf> {
        let stored = self.out.as_ref().map(|out| out.join(RECIPE_FILE));
        let stored = stored.filter(|file| self.resume && file.is_file());
        self.config.clone().or(stored)
    }

    /// What goes over a recipe's defaults.
    fn over(&self, flags: Flags) -> Overrides {
        Overrides {
            config: self.recipe_file(),
            flags: flags.0,
            sets: self.sets.clone(),
            ..Overrides::default()
        }
    }
}

/// Where a recipe's result goes: what it says, or a folder of this name below `runs`.
fn out_or(run: &RunSection, name: &str) -> PathBuf {
    match run.out.as_os_str().is_empty() {
        true => Path::new("runs").join(name),
        false => run.out.clone(),
    }
}

/// Puts a pipeline together, whose network has learned nothing yet.
fn pipeline(arguments: &Arguments) -> Result<Listing, Failure> {
    if arguments.resume {
        return Err(Failure::input(
            "a pipeline is put together at once, so there is nothing to resume; leave --resume out",
        ));
    }
    let mut flags = Flags::default();
    flags.path("run", "out", "--out", arguments.out.as_deref());
    let (recipe, _): (PipelineRecipe, _) = resolve_sections(&arguments.over(flags))?;
    let out = out_or(&recipe.run, "pipeline");
    make_pipeline(&recipe, &out)?;
    Ok(Listing::text(format!(
        "wrote a pipeline with an untrained network to {0}; train it with `host run --backbone {0} --set train.trainable=all`",
        out.display()
    )))
}

/// Trains the scene classifier. It takes minutes, so there are no checkpoints.
fn classifier(arguments: &Arguments, progress: &Progress) -> Result<Listing, Failure> {
    if arguments.resume {
        return Err(Failure::input(
            "a classifier cannot be resumed, since it has no checkpoints; train it anew without --resume",
        ));
    }
    let mut flags = Flags::default();
    flags.path("run", "out", "--out", arguments.out.as_deref());
    flags.whole("classifier", "steps", "--steps", arguments.steps);
    flags.whole("classifier", "threads", "--threads", arguments.threads);
    let (recipe, _): (ClassifierRecipe, _) = resolve_sections(&arguments.over(flags))?;
    let out = out_or(&recipe.run, "classifier");
    threads::set(recipe.classifier.threads);
    folder::prepare(&out, Existing::Refuse)?;
    let Some(trained) = train_classifier(&recipe.classifier, progress, &watch()?)? else {
        let text = "interrupted; a classifier has no checkpoints, so nothing is kept";
        return Ok(Listing::text(text).ending(INTERRUPTED as u8));
    };
    let file = out.join(CLASSIFIER_FILE);
    store_classifier(&trained, &file)?;
    let text = toml::to_string_pretty(&recipe).unwrap_or_default();
    crate::fs::write_atomic(&out.join(RECIPE_FILE), text.as_bytes())?;
    let accuracy = trained.accuracy;
    Ok(Listing::text(format!(
        "wrote the classifier to {}; of {} test scenes it tells class and style of {:.1}%, the class of {:.1}%, the style of {:.1}%",
        file.display(),
        recipe.classifier.test_scenes,
        100.0 * accuracy.both,
        100.0 * accuracy.class,
        100.0 * accuracy.style
    )))
}

/// The recipe and the folder, from the file, the flags and the defaults.
fn resolve<R: Recipe>(arguments: &Arguments) -> Result<(R, PathBuf), Failure> {
    let mut flags = Flags::default();
    flags.path("run", "out", "--out", arguments.out.as_deref());
    flags.whole("train", "steps", "--steps", arguments.steps);
    flags.whole("train", "threads", "--threads", arguments.threads);
    let (mut recipe, origins): (R, _) = resolve_sections(&arguments.over(flags))?;
    let Sections {
        run,
        data,
        train,
        sample,
    } = recipe.sections();
    shorten_warmup(train, &origins);
    check_ranges(data, train, &sample, &origins)?;
    let out = out_or(run, "pretrain");
    run.out = std::path::absolute(&out).unwrap_or(out);
    let out = run.out.clone();
    Ok((recipe, out))
}
