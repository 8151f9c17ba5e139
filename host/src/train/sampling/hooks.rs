//! The plugins' part in the sampling loop, and in each pass of the network within it.

use std::cell::RefCell;
use std::ops::Range;

use candle_core::{DType, Tensor};
use plugin_api::Phase;
use plugin_api::hooks::Encoding;

use crate::data::{Batch, Size};
use crate::plugin::slots::Slot;
use crate::plugin::stack::{NetworkInput, OutputPicture, SampleBegin, SampleStep};
use crate::sample::{Begin, Half, Moment, Rows, SampleHooks, level_at};
use crate::train::conditioning::set_captions;
use crate::train::{Error, Session};

use super::Drawing;

/// What the loop's hooks and the network's passes share. The loop knows tensor errors only; another error waits here.
pub(super) struct Shared<'a> {
    pub(super) session: &'a Session,
    /// What `sample_begin` left for the batch of images that is being drawn.
    pub(super) bag: RefCell<Batch>,
    pub(super) failed: RefCell<Option<Error>>,
}

impl<'a> Shared<'a> {
    pub(super) fn new(session: &'a Session) -> Self {
        Self {
            session,
            bag: RefCell::default(),
            failed: RefCell::default(),
        }
    }

    /// The result as the loop takes it; the error itself is kept.
    pub(super) fn told<T>(&self, result: Result<T, Error>) -> candle_core::Result<T> {
        result.map_err(|error| match error {
            Error::Tensor(error) => error,
            error => {
                let sentence = candle_core::Error::Msg(error.to_string());
                *self.failed.borrow_mut() = Some(error);
                sentence
            }
        })
    }

    /// The bag as one half of guidance has it: the conditioning is the half's, all else as `sample_begin` left it.
    pub(super) fn bag_of(&self, conditioning: &Rows) -> Batch {
        let mut bag = self.bag.borrow().clone();
        bag.tensors.extend(conditioning.clone());
        bag
    }
}

/// The plugins at the slots of sampling.
pub(super) struct Hooks<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) drawing: &'a Drawing,
    /// Filled with the pictures to keep, batch by batch; none when latents are all that is wanted.
    pub(super) pictures: Option<&'a mut Vec<OutputPicture>>,
}

impl Hooks<'_> {
    fn begun(&mut self, images: &Range<usize>, planned: Begin) -> Result<Begin, Error> {
        let session = self.shared.session;
        let mut batch = rows(&self.drawing.inputs, images)?;
        batch.tensors.extend(planned.conditioning);
        if let Some(prompts) = self.drawing.prompts.get(images.clone())
            && session.text.is_some()
        {
            set_captions(&mut batch, prompts);
        }
        let begin = SampleBegin {
            batch,
            latents: planned.latents,
            timesteps: planned.timesteps.iter().map(|&t| f64::from(t)).collect(),
            guidance: planned.scale,
            first: images.start as u64,
            seed: self.drawing.seeds.first().copied().unwrap_or(0),
        };
        let scene = session.scene(session.step.get(), Phase::SAMPLE);
        let total = session.process.num_train_timesteps();
        let mut begun = session.stack()?.sample_begin(&scene, begin, total)?;
        // What a plugin took out is as in training: without labels the images are of no class.
        let (_, _, height, width) = begun.latents.dims4()?;
        let size = Size { height, width };
        let conditioning = session.conditioning(&begun.batch, images.len(), size)?;
        let conditioning = conditioning.tensors;
        begun.batch.tensors.extend(conditioning.clone());
        *self.shared.bag.borrow_mut() = begun.batch;
        Ok(Begin {
            latents: begun.latents,
            timesteps: begun.timesteps.iter().map(|&t| t as f32).collect(),
            scale: begun.guidance,
            conditioning,
        })
    }

    fn input(
        &self,
        moment: &Moment<'_>,
        half: Half,
        conditioning: &Rows,
        latents: &Tensor,
    ) -> Result<Tensor, Error> {
        let session = self.shared.session;
        let stack = session.stack()?;
        if !stack.takes(Slot::DenoiserInput) {
            return Ok(latents.clone());
        }
        let timesteps = Tensor::full(moment.timestep, latents.dim(0)?, latents.device())?;
        let at = NetworkInput {
            batch: &self.shared.bag_of(conditioning),
            noisy_latents: latents,
            timesteps: &timesteps,
            latents: None,
            unconditional: half == Half::Unconditional,
        };
        let scene = session.scene(session.step.get(), Phase::SAMPLE);
        let input = stack.denoiser_input(&scene, &at)?;
        Ok(input.unwrap_or_else(|| latents.clone()))
    }

    fn stepped(
        &self,
        moment: &Moment<'_>,
        prediction: &Tensor,
        before: &Tensor,
        latents: Tensor,
    ) -> Result<Tensor, Error> {
        let session = self.shared.session;
        let stack = session.stack()?;
        if !stack.takes(Slot::SampleStep) {
            return Ok(latents);
        }
        let level = level_at(&session.process, moment.timestep);
        let x0 = session.process.prediction().x0(level);
        let x0 = x0.apply(before, prediction)?;
        let next = moment.timesteps.get(moment.index + 1);
        let at = SampleStep {
            batch: &self.shared.bag.borrow(),
            index: moment.index,
            steps: moment.timesteps.len(),
            timestep: f64::from(moment.timestep),
            next_timestep: next.map(|&t| f64::from(t)),
            prediction,
            x0: &x0,
        };
        let scene = session.scene(session.step.get(), Phase::SAMPLE);
        Ok(stack.sample_step(&scene, &at, latents)?)
    }

    fn ended(&mut self, range: &Range<usize>, latents: &Tensor) -> Result<(), Error> {
        let session = self.shared.session;
        let Some(pictures) = &mut self.pictures else {
            return Ok(());
        };
        let decoded = session.encoder.decode(latents)?.to_dtype(DType::F32)?;
        let images = decoded.clamp(-1f32, 1f32)?;
        let names: Vec<String> = range.clone().map(|image| format!("{image:06}")).collect();
        let scene = session.scene(session.step.get(), Phase::SAMPLE);
        let bag = self.shared.bag.borrow();
        match session
            .stack()?
            .output(&scene, &bag, latents, &images, &decoded, &names)?
        {
            Some(returned) => pictures.extend(returned),
            None => pictures.push(plain(images)),
        }
        Ok(())
    }
}

impl SampleHooks for Hooks<'_> {
    fn begin(&mut self, images: &Range<usize>, begin: Begin) -> candle_core::Result<Begin> {
        let begun = self.begun(images, begin);
        self.shared.told(begun)
    }

    fn denoiser_input(
        &mut self,
        moment: &Moment<'_>,
        half: Half,
        conditioning: &Rows,
        latents: &Tensor,
    ) -> candle_core::Result<Tensor> {
        self.shared
            .told(self.input(moment, half, conditioning, latents))
    }

    fn step(
        &mut self,
        moment: &Moment<'_>,
        prediction: &Tensor,
        before: &Tensor,
        latents: Tensor,
    ) -> candle_core::Result<Tensor> {
        self.shared
            .told(self.stepped(moment, prediction, before, latents))
    }

    fn end(&mut self, images: &Range<usize>, latents: &Tensor) -> candle_core::Result<()> {
        let ended = self.ended(images, latents);
        self.shared.told(ended)
    }
}

/// The images of latents, `[N, 3, H, W]` f32 in -1..=1.
pub(super) fn decoded(session: &Session, latents: &Tensor) -> Result<Tensor, Error> {
    let images = session.encoder.decode(latents)?;
    Ok(images.to_dtype(DType::F32)?.clamp(-1f32, 1f32)?)
}

/// Images as they are.
pub(in crate::train) fn plain(images: Tensor) -> OutputPicture {
    OutputPicture {
        kind: String::new(),
        images,
        encoding: Encoding::RGB,
    }
}

/// The part of further inputs that belongs to some images.
fn rows(inputs: &Batch, images: &Range<usize>) -> candle_core::Result<Batch> {
    let mut part = inputs.clone();
    for tensor in part.tensors.values_mut() {
        *tensor = tensor.narrow(0, images.start, images.len())?;
    }
    // Lists of texts travel as JSON.
    for text in part.meta.values_mut() {
        if let Ok(list) = serde_json::from_str::<Vec<String>>(text)
            && let Some(own) = list.get(images.clone())
        {
            *text = serde_json::json!(own).to_string();
        }
    }
    Ok(part)
}
