//! What a run's plugins share with the host while it goes: the frozen backbone, the parameters, the random streams, the records of the step.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use candle_core::{DType, Tensor};
use plugin_api::Phase;
use sha2::{Digest, Sha256};

use crate::backbone::{Backbone, Input, LayerHook, Overlay, Pass, Replay};
use crate::cancel::Cancel;
use crate::diffusion::Process;
use crate::encode::Encoder;
use crate::memo;
use crate::plugin::foreign::Scene;
use crate::plugin::services::AdapterFile;
use crate::plugin::stack::{AdaptedLayers, Stack};
use crate::pretrained::Pretrained;
use crate::random::Streams;
use crate::report::{Profiler, Progress};
use crate::text::TextEncoders;

use super::Error;
use super::copies::BlockCopy;
use super::parameters::Parameters;
use super::replay::TrainingReplay;
use super::scales::{Adapted, Scales};

/// What a run is, in numbers and names.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Seed of everything random in training.
    pub seed: u64,
    /// Training steps in all; 0 when only sampling.
    pub steps: u64,
    /// Samples a forward pass.
    pub batch_size: usize,
    /// Forward passes a step.
    pub accumulation: usize,
    /// Samples in the data set; 0 without one.
    pub dataset_len: usize,
    /// Names of its classes.
    pub classes: Vec<String>,
    /// Side of the data's images in pixels; none without data.
    pub image_size: Option<usize>,
    /// Names of the further pictures in every batch; none without data.
    pub columns: Option<Vec<String>>,
    /// Whether the data's batches are of several sizes; none without data.
    pub bucketing: Option<bool>,
    /// Ids of all plugins, in their order.
    pub plugins: Vec<String>,
    /// Peak learning rates of the plugins that have one of their own, by their names in this run.
    pub rates: BTreeMap<String, f64>,
    /// Whether blocks keep no activations for the backward pass.
    pub gradient_checkpointing: bool,
    /// The run folder; none when nothing is to be written.
    pub folder: Option<PathBuf>,
}

/// One run. Plugins reach it in the middle of a step, so what changes sits behind cells.
pub struct Session {
    /// The frozen pretrained network.
    pub backbone: Backbone,
    /// Its diffusion process.
    pub process: Process,
    /// Between images and its latents.
    pub encoder: Encoder,
    /// Between texts and what it reads of them.
    pub text: Option<Arc<TextEncoders>>,
    /// Where the time goes.
    pub profiler: Profiler,
    /// Bars and messages.
    pub progress: Progress,
    /// Ctrl-C.
    pub cancel: Cancel,
    /// What the run is.
    pub facts: Facts,
    /// Optimizer steps done; what plugins are told outside of training steps.
    pub step: Cell<u64>,
    /// All that trains.
    pub parameters: RefCell<Parameters>,
    /// All that is random.
    pub streams: RefCell<Streams>,
    /// Tensors in place of backbone weights that do not train.
    pub fixed: RefCell<Overlay>,
    /// Copies of the backbone's first blocks that plugins made.
    pub(super) copies: RefCell<Vec<BlockCopy>>,
    /// Factors of layers' outputs that train.
    pub scales: RefCell<Scales>,
    /// What plugins measured in this step.
    pub metrics: RefCell<BTreeMap<String, f64>>,
    /// The files of the result that plugins declared, each with the plugin's name.
    pub adapters: RefCell<Vec<(String, AdapterFile)>>,
    /// Why a plugin wants to end training.
    pub stop: RefCell<Option<String>>,
    /// The bar of a plugin's long task.
    pub(super) task: RefCell<Option<(String, crate::report::Task)>>,
    /// Whether parameters may still be made: until the first step.
    pub(super) preparing: Cell<bool>,
    stack: OnceCell<Stack>,
    fingerprint: OnceCell<String>,
}

impl Session {
    /// A run before its first step.
    pub fn new(
        model: Pretrained,
        facts: Facts,
        parameters: Parameters,
        streams: Streams,
        progress: Progress,
        cancel: Cancel,
    ) -> Self {
        let Pretrained {
            backbone,
            process,
            encoder,
            text,
            adapters: _,
        } = model;
        Self {
            backbone,
            process,
            encoder,
            text,
            profiler: Profiler::default(),
            progress,
            cancel,
            facts,
            step: Cell::new(0),
            parameters: RefCell::new(parameters),
            streams: RefCell::new(streams),
            fixed: RefCell::default(),
            copies: RefCell::default(),
            scales: RefCell::default(),
            metrics: RefCell::default(),
            adapters: RefCell::default(),
            stop: RefCell::default(),
            task: RefCell::default(),
            preparing: Cell::new(true),
            stack: OnceCell::new(),
            fingerprint: OnceCell::new(),
        }
    }

    /// What a plugin's hook sees of this run.
    pub fn scene(&self, step: u64, phase: Phase) -> Scene<'_> {
        Scene {
            services: self,
            device: self.backbone.device(),
            profiler: Some(&self.profiler),
            step,
            phase,
        }
    }

    /// Ends the preparation: from here on the plugins are there, and no more parameters are made.
    pub(super) fn begin(&self, stack: Stack) {
        self.preparing.set(false);
        // A second call would be a mistake of this crate's; the first stack stays.
        let _ = self.stack.set(stack);
    }

    /// The plugins.
    ///
    /// # Errors
    /// They are still being prepared.
    pub fn stack(&self) -> Result<&Stack, Error> {
        self.stack.get().ok_or(Error::StillPreparing)
    }

    /// Side of the pictures that the model was trained on, in pixels.
    pub(super) fn image_size(&self) -> usize {
        self.backbone.info().sample_size * self.encoder.factor()
    }

    /// Everything that stands in for backbone tensors, trained or fixed; shares their storage.
    pub fn overlay(&self) -> Overlay {
        let mut overlay = self.fixed.borrow().clone();
        overlay.extend(self.parameters.borrow().overlay());
        overlay
    }

    /// The output of the network with stand-ins, adapters and residuals, with gradients; with `replay`, its blocks keep no activations for them.
    ///
    /// # Errors
    /// Inputs that do not fit, or a plugin's layer that fails.
    pub(super) fn forward(
        &self,
        input: &Input<'_>,
        overlay: &Overlay,
        layers: Option<&AdaptedLayers<'_>>,
        residuals: Option<&[Option<Tensor>]>,
        replay: Option<&TrainingReplay>,
    ) -> Result<Tensor, Error> {
        let scales = self.scales.borrow();
        let adapted = Adapted {
            scales: &scales,
            plugins: layers,
        };
        let some = layers.is_some() || !scales.is_empty();
        let pass = Pass {
            overlay: Some(overlay),
            layers: some.then_some(&adapted as &dyn LayerHook),
            residuals,
            replay: replay.map(|replay| replay as &dyn Replay),
        };
        self.backbone.forward(input, &pass).map_err(|error| {
            let failure = layers.and_then(AdaptedLayers::failure);
            match failure.or_else(|| replay?.failure()) {
                Some(failure) => failure.into(),
                None => error.into(),
            }
        })
    }

    /// A hash of the frozen weights, those of the autoencoder and the text encoders among them, and what they mean; computed when first asked for.
    ///
    /// # Errors
    /// A device that fails.
    pub fn fingerprint(&self) -> candle_core::Result<&str> {
        if let Some(known) = self.fingerprint.get() {
            return Ok(known);
        }
        let mut hash = Sha256::new();
        hash.update(format!(
            "{:?} {:?}",
            self.backbone.info(),
            self.process.config()
        ));
        for (name, tensor) in self.backbone.parameters() {
            hash.update(name);
            let values = tensor
                .flatten_all()?
                .to_dtype(DType::F32)?
                .to_vec1::<f32>()?;
            for chunk in values.chunks(4096) {
                let bytes: Vec<u8> = chunk.iter().flat_map(|value| value.to_le_bytes()).collect();
                hash.update(bytes);
            }
        }
        if let Some(vae) = self.encoder.vae() {
            hash.update(format!("{:?}", vae.config()));
            for (name, tensor) in vae.parameters() {
                memo::digest(&mut hash, name, tensor)?;
            }
        }
        if let Some(text) = &self.text {
            text.digest(&mut hash)?;
        }
        let digest: String = hash
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        Ok(self.fingerprint.get_or_init(|| digest))
    }
}
