//! The slots of sampling.

use candle_core::Tensor;
use plugin_api::hooks::{self, Encoding};
use plugin_api::slots as calls;

use super::Stack;
use super::checks::Returned;
use crate::data::Batch;
use crate::plugin::bag;
use crate::plugin::failure::PluginError;
use crate::plugin::foreign::Scene;
use crate::plugin::slots::Slot;
use crate::plugin::tensor_ops::export;

/// How a batch of pictures begins.
#[derive(Clone, Debug)]
pub struct SampleBegin {
    /// Inputs and conditioning by name.
    pub batch: Batch,
    /// First latents: noise of the scheduler's first sigma, `[N, C, h, w]`.
    pub latents: Tensor,
    /// Timesteps to visit, from noise to data.
    pub timesteps: Vec<f64>,
    /// Scale of classifier-free guidance; 1 is none.
    pub guidance: f64,
    /// Number of the first picture within the whole request.
    pub first: u64,
    /// The request's seed.
    pub seed: u64,
}

/// One step of the sampler.
#[derive(Clone, Copy, Debug)]
pub struct SampleStep<'a> {
    /// The bag that `sample_begin` left.
    pub batch: &'a Batch,
    /// Number of the step, from 0.
    pub index: usize,
    /// Number of steps.
    pub steps: usize,
    /// The timestep the step started from.
    pub timestep: f64,
    /// The timestep it arrived at; `None` after the last step.
    pub next_timestep: Option<f64>,
    /// The prediction, guidance included, `[N, C, h, w]`.
    pub prediction: &'a Tensor,
    /// The clean latents it implies, `[N, C, h, w]`.
    pub x0: &'a Tensor,
}

/// One kind of picture of all samples, to be written.
#[derive(Clone, Debug)]
pub struct OutputPicture {
    /// What kind; part of the file name, empty for the main one.
    pub kind: String,
    /// `[N, 3, H, W]`, or `[N, 1, H, W]` for encodings of one channel.
    pub images: Tensor,
    /// How values become a PNG.
    pub encoding: Encoding,
}

impl Stack {
    /// Slot `sample_begin`: each plugin changes what the one before it returned. `first` and `seed` stay as they are.
    ///
    /// # Errors
    /// A plugin fails, or leaves latents or a batch of another number of samples, timesteps that no sampler can follow (any strictly
    /// falling ones below `num_train_timesteps` are fine), or a guidance scale that is negative or not finite.
    pub fn sample_begin(
        &self,
        scene: &Scene<'_>,
        mut begin: SampleBegin,
        num_train_timesteps: usize,
    ) -> Result<SampleBegin, PluginError> {
        for plugin in self.at(Slot::SampleBegin) {
            let message = hooks::SampleBegin {
                batch: bag::export(&begin.batch),
                latents: export(&begin.latents),
                timesteps: begin.timesteps.clone(),
                guidance: begin.guidance,
                first: begin.first,
                seed: begin.seed,
            };
            let changed = plugin.call::<calls::SampleBegin>(scene, message)?;
            let returned = Returned::new(plugin, scene, Slot::SampleBegin, "the start of sampling");
            let latents = returned.ranked(&changed.latents, 4)?;
            let latents = returned.typed(latents, begin.latents.dtype())?;
            let (count, channels) = (begin.latents.dims()[0], begin.latents.dims()[1]);
            if latents.dims()[..2] != [count, channels] {
                let got = &latents.dims()[..2];
                return Err(returned.wrong(format_args!(
                    "its latents begin with {got:?}, expected [{count}, {channels}]"
                )));
            }
            let last = num_train_timesteps.saturating_sub(1) as f64;
            let falls = |pair: &[f64]| pair[0] > pair[1];
            let good = !changed.timesteps.is_empty()
                && changed.timesteps.iter().all(|t| (0.0..=last).contains(t))
                && changed.timesteps.windows(2).all(falls);
            // The sampler's own may repeat where it is asked for nearly all of them.
            if changed.timesteps != begin.timesteps && !good {
                return Err(returned.wrong(format_args!(
                    "its timesteps are {}; they must fall strictly, from at most {last} to at least 0",
                    brief(&changed.timesteps)
                )));
            }
            if !changed.guidance.is_finite() || changed.guidance < 0.0 {
                return Err(returned.wrong(format_args!(
                    "its guidance scale is {}, expected 0 or more",
                    changed.guidance
                )));
            }
            let batch = bag::import(&changed.batch).map_err(|error| returned.wrong(error))?;
            for (name, tensor) in &batch.tensors {
                if tensor.dims().first() != Some(&count) {
                    let shape = tensor.dims();
                    return Err(returned.wrong(format_args!(
                        "`{name}` of its batch has shape {shape:?} for {count} samples"
                    )));
                }
            }
            begin = SampleBegin {
                batch,
                latents,
                timesteps: changed.timesteps,
                guidance: changed.guidance,
                first: begin.first,
                seed: begin.seed,
            };
        }
        Ok(begin)
    }

    /// Slot `sample_step`: the latents after a step, `[N, C, h, w]`, passed from plugin to plugin.
    ///
    /// # Errors
    /// A plugin fails or returns another shape.
    pub fn sample_step(
        &self,
        scene: &Scene<'_>,
        at: &SampleStep<'_>,
        mut latents: Tensor,
    ) -> Result<Tensor, PluginError> {
        for plugin in self.at(Slot::SampleStep) {
            let message = hooks::SampleStepIn {
                batch: bag::export(at.batch),
                latents: export(&latents),
                index: at.index,
                steps: at.steps,
                timestep: at.timestep,
                next_timestep: at.next_timestep,
                prediction: export(at.prediction),
                x0: export(at.x0),
            };
            let answer = plugin.call::<calls::SampleStep>(scene, message)?;
            let returned = Returned::new(plugin, scene, Slot::SampleStep, "latents");
            latents = returned.shaped(&answer.tensor, latents.dims())?;
        }
        Ok(latents)
    }

    /// Slot `output`: the pictures to keep in place of the decoded ones, or `None`. `images` are `[N, 3, H, W]` in -1..1, `decoded` the same before clamping; `names`
    /// has one for each, without extension.
    ///
    /// # Errors
    /// The plugin fails, or returns shapes that do not fit the encoding or the number of samples.
    pub fn output(
        &self,
        scene: &Scene<'_>,
        batch: &Batch,
        latents: &Tensor,
        images: &Tensor,
        decoded: &Tensor,
        names: &[String],
    ) -> Result<Option<Vec<OutputPicture>>, PluginError> {
        let Some(plugin) = self.only(Slot::Output) else {
            return Ok(None);
        };
        let message = hooks::OutputIn {
            batch: bag::export(batch),
            latents: export(latents),
            images: export(images),
            decoded: Some(export(decoded)),
            names: names.to_vec(),
        };
        let answer = plugin.call::<calls::Output>(scene, message)?;
        let mut pictures: Vec<OutputPicture> = Vec::new();
        for picture in answer.pictures {
            let what = match picture.kind.as_str() {
                "" => "pictures".to_owned(),
                kind => format!("pictures of kind `{kind}`"),
            };
            let returned = Returned::new(plugin, scene, Slot::Output, &what);
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
            if !picture.kind.chars().all(plain) {
                return Err(returned
                    .wrong("the kind is part of a file name: use letters, digits, `_` and `-`"));
            }
            if pictures.iter().any(|other| other.kind == picture.kind) {
                return Err(returned.wrong("they come twice; each kind needs a name of its own"));
            }
            let images = returned.ranked(&picture.images, 4)?;
            let channels = match picture.encoding {
                Encoding::RGB => 3,
                Encoding::GRAY | Encoding::GRAY16 | Encoding::COLORMAP => 1,
                Encoding(other) => {
                    return Err(returned.wrong(format_args!("this host has no encoding {other}")));
                }
            };
            if images.dims()[..2] != [names.len(), channels] {
                let (got, count) = (&images.dims()[..2], names.len());
                return Err(returned.wrong(format_args!(
                    "they begin with {got:?}, expected [{count}, {channels}]"
                )));
            }
            pictures.push(OutputPicture {
                kind: picture.kind,
                images,
                encoding: picture.encoding,
            });
        }
        Ok(Some(pictures))
    }
}

/// A list in a sentence: whole if short.
fn brief(timesteps: &[f64]) -> String {
    match timesteps {
        [first, second, .., last] if timesteps.len() > 8 => {
            format!("{} from {first}, {second} to {last}", timesteps.len())
        }
        all => format!("{all:?}"),
    }
}
