//! What a run answers when one of its plugins asks the host for something.

use std::collections::HashSet;
use std::path::PathBuf;

use candle_core::Tensor;
use plugin_api::{BackboneInfo, Error, LayerInfo, LayerKind, Model, ProcessInfo, RunInfo};

use crate::adapter::{AdapterWeights, LayerUpdate, Matched};
use crate::backbone::{self, Input};
use crate::data::{Batch, Size};
use crate::plugin::services::{
    AdapterFile, AdapterRead, Answer, BlockCopyInfo, CacheFolder, Caller, CopyRequest, Draw,
    Formula, ParameterRequest, SampleRequest, Services, WeightsRead,
};
use crate::plugin::stack::NetworkInput;
use crate::plugin::tensor_ops::dtype_code;
use crate::random::Stream;
use crate::sample::{Guidance, Sampler, SamplerKind};

use super::cache::{self, Entry};
use super::sampling::{Drawing, Weights, draw_latents};
use super::{Owner, Session};

impl Services for Session {
    fn parameter(&self, caller: &Caller<'_>, request: ParameterRequest) -> Answer<Tensor> {
        let name = format!("{}.{}", caller.plugin, request.name);
        let mut parameters = self.parameters.borrow_mut();
        if let Some(parameter) = parameters.get(&name) {
            let (made, asked) = (parameter.var.dims(), &request.shape);
            if made != asked.as_slice() {
                return Err(Error::msg(format!(
                    "the parameter `{}` has shape {made:?}, not {asked:?}",
                    request.name
                )));
            }
            return Ok(parameter.var.as_tensor().clone());
        }
        self.still_preparing(&request.name)?;
        // A stream of its own, so that the order in which parameters are made changes nothing.
        let mut stream = Stream::new(self.facts.seed, &format!("parameter {name}"));
        let value = request
            .init
            .make(&request.shape, &mut stream, self.backbone.device())
            .map_err(Error::msg)?;
        let owner = Owner::Plugin(caller.plugin.to_owned());
        let var = parameters
            .add(name, owner, request.decay, &value)
            .map_err(Error::msg)?;
        Ok(var.as_tensor().clone())
    }

    fn stand_in(
        &self,
        caller: &Caller<'_>,
        name: &str,
        value: Option<Tensor>,
        trainable: bool,
    ) -> Answer<Tensor> {
        if let Some(parameter) = self.parameters.borrow().get(name) {
            return Ok(parameter.var.as_tensor().clone());
        }
        self.still_preparing(name)?;
        let frozen = self.weight(caller, name)?;
        let value = value.unwrap_or_else(|| frozen.clone());
        if !self.backbone.takes(name, frozen.dims(), value.dims()) {
            let input = self.backbone.input_layer().map(|layer| layer.weight().0);
            return Err(Error::msg(format!(
                "`{name}` has shape {:?} in the backbone, which takes no stand-in of shape {:?}; another number of input channels is for `{}` alone",
                frozen.dims(),
                value.dims(),
                input.unwrap_or_default()
            )));
        }
        if !trainable {
            self.fixed
                .borrow_mut()
                .insert(name.to_owned(), value.detach());
            return Ok(value.detach());
        }
        let var = self
            .parameters
            .borrow_mut()
            .add(name.to_owned(), Owner::Backbone, true, &value)
            .map_err(Error::msg)?;
        Ok(var.as_tensor().clone())
    }

    fn weight(&self, _: &Caller<'_>, name: &str) -> Answer<Tensor> {
        let found = self.backbone.parameters().find(|(known, _)| *known == name);
        found.map(|(_, tensor)| tensor.clone()).ok_or_else(|| {
            let near = self
                .backbone
                .parameters()
                .map(|(known, _)| known)
                .max_by(|a, b| {
                    strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name))
                });
            Error::msg(format!(
                "the backbone has no parameter `{name}`; the nearest is `{}`",
                near.unwrap_or_default()
            ))
        })
    }

    fn current_weight(&self, caller: &Caller<'_>, name: &str) -> Answer<Tensor> {
        let trained = |name: &str| {
            let parameters = self.parameters.borrow();
            Some(parameters.get(name)?.var.as_tensor().clone())
        };
        let stand_in = trained(name).or_else(|| self.fixed.borrow().get(name).cloned());
        let value = stand_in.map_or_else(|| self.weight(caller, name), Ok)?;
        match self.scales.borrow().of_parameter(&self.backbone, name) {
            Some(scale) => scale
                .to_dtype(value.dtype())
                .and_then(|scale| value.broadcast_mul(&scale))
                .map_err(Error::msg),
            None => Ok(value),
        }
    }

    fn random(&self, caller: &Caller<'_>, draw: Draw, shape: &[usize]) -> Answer<Tensor> {
        let label = format!("plugin/{}", caller.plugin);
        draw.take(
            shape,
            self.streams.borrow_mut().get(&label),
            self.backbone.device(),
        )
        .map_err(Error::msg)
    }

    fn encode(&self, _: &Caller<'_>, images: &Tensor) -> Answer<Tensor> {
        self.encoder.encode(images).map_err(Error::msg)
    }

    fn decode(&self, _: &Caller<'_>, latents: &Tensor) -> Answer<Tensor> {
        self.encoder.decode(latents).map_err(Error::msg)
    }

    fn encode_texts(&self, _: &Caller<'_>, texts: Vec<String>) -> Answer<Batch> {
        let tensors = Session::encode_texts(self, &texts).map_err(Error::msg)?;
        Ok(Batch {
            tensors,
            ..Batch::default()
        })
    }

    fn denoise(
        &self,
        caller: &Caller<'_>,
        model: Model,
        latents: &Tensor,
        timesteps: &Tensor,
        batch: &Batch,
    ) -> Answer<Tensor> {
        let at = NetworkInput {
            batch,
            noisy_latents: latents,
            timesteps,
            latents: None,
            unconditional: false,
        };
        let weights = self.weights(model)?;
        let output = weights
            .forward(self, latents, &at, caller.step, caller.phase)
            .map_err(Error::msg)?;
        let (prediction, _) = self.process.split_variance(&output).map_err(Error::msg)?;
        Ok(prediction)
    }

    fn sample(&self, _: &Caller<'_>, request: SampleRequest) -> Answer<Tensor> {
        let prompts = match request.captions {
            Some(_) if self.text.is_none() => {
                return Err(Error::msg(
                    "the backbone takes no captions; ask for classes instead",
                ));
            }
            Some(captions) if captions.len() != request.count => {
                return Err(Error::msg(format!(
                    "{} captions for {} pictures",
                    captions.len(),
                    request.count
                )));
            }
            Some(captions) => captions,
            None => vec![String::new(); request.count],
        };
        let labels = match request.class_labels {
            Some(labels) if labels.len() != request.count => {
                return Err(Error::msg(format!(
                    "{} class labels for {} pictures",
                    labels.len(),
                    request.count
                )));
            }
            Some(labels) => labels,
            None => vec![self.backbone.info().null_class(); request.count],
        };
        let kind = sampler_kind(&request.sampler)?;
        let drawing = Drawing {
            sampler: Sampler::new(kind, request.steps),
            guidance: match request.guidance {
                1.0 => Guidance::Off,
                scale => Guidance::ClassifierFree { scale },
            },
            // Picture i depends on the seed and on its own number alone.
            seeds: (0..request.count as u64)
                .map(|i| request.seed.wrapping_add(request.first + i))
                .collect(),
            classes: labels,
            prompts,
            negative: String::new(),
            batch_size: request.batch_size,
            label: request.label,
            inputs: further_inputs(request.model, request.count, request.batch)?,
        };
        let images = draw_latents(self, &self.weights(request.model)?, &drawing).map_err(
            |error| match error {
                super::Error::Sample(crate::sample::Error::Interrupted) => Error::Cancelled,
                error => Error::msg(error),
            },
        )?;
        match request.decode {
            true => self
                .encoder
                .decode(&images)
                .and_then(|images| images.clamp(-1f32, 1f32))
                .map_err(Error::msg),
            false => Ok(images),
        }
    }

    fn copy_blocks(&self, caller: &Caller<'_>, request: CopyRequest) -> Answer<BlockCopyInfo> {
        self.still_preparing(&request.name)?;
        self.copy_front(caller.plugin, request)
    }

    fn run_blocks(
        &self,
        caller: &Caller<'_>,
        copy: u64,
        latents: &Tensor,
        timesteps: &Tensor,
        batch: &Batch,
        hint: Option<&Tensor>,
    ) -> Answer<Vec<Tensor>> {
        let (count, _, height, width) = latents.dims4().map_err(Error::msg)?;
        let conditioning = self
            .conditioning(batch, count, Size { height, width })
            .map_err(Error::msg)?;
        let input = Input {
            latents,
            timesteps,
            conditioning: &conditioning,
        };
        self.run_copy(caller.plugin, copy, &input, hint)
    }

    fn read_weights(&self, _: &Caller<'_>, path: PathBuf) -> Answer<WeightsRead> {
        let (tensors, config) =
            backbone::read_weights(&path, self.backbone.device()).map_err(Error::msg)?;
        Ok(WeightsRead { tensors, config })
    }

    fn cache_open(&self, caller: &Caller<'_>, key: &str) -> Answer<CacheFolder> {
        let entry = self.cache_entry(caller, key)?;
        if entry.is_complete() {
            return Ok(CacheFolder {
                path: entry.path,
                complete: true,
            });
        }
        entry.stage().map_err(Error::msg)?;
        Ok(CacheFolder {
            path: entry.staging,
            complete: false,
        })
    }

    fn cache_commit(&self, caller: &Caller<'_>, key: &str, _: PathBuf) -> Answer<CacheFolder> {
        let entry = self.cache_entry(caller, key)?;
        entry.commit().map_err(Error::msg)?;
        Ok(CacheFolder {
            path: entry.path,
            complete: true,
        })
    }

    fn backbone(&self, _: &Caller<'_>) -> Answer<BackboneInfo> {
        let info = self.backbone.info();
        Ok(BackboneInfo {
            architecture: info.architecture.clone(),
            parameters: info.parameters as u64,
            in_channels: info.in_channels,
            out_channels: info.out_channels,
            latent_channels: self.encoder.latent_channels(),
            sample_size: info.sample_size,
            image_size: self.image_size(),
            num_classes: info.num_classes.map(|count| count as u32),
            null_class: info.num_classes.map(|count| count as u32),
            learned_variance: info.learned_variance,
            text: info.cross_attention.is_some(),
            residual_sites: info.residual_sites,
            fingerprint: self.fingerprint().map_err(Error::msg)?.to_owned(),
        })
    }

    fn layers(&self, _: &Caller<'_>) -> Answer<Vec<LayerInfo>> {
        Ok(layers(&self.backbone, &self.overlay()))
    }

    fn parameters(&self, _: &Caller<'_>) -> Answer<Vec<(String, Vec<usize>)>> {
        Ok(self
            .backbone
            .parameters()
            .map(|(name, tensor)| (name.to_owned(), tensor.dims().to_vec()))
            .collect())
    }

    fn process(&self, _: &Caller<'_>) -> Answer<ProcessInfo> {
        Ok(ProcessInfo {
            num_train_timesteps: self.process.num_train_timesteps(),
            prediction: self.process.prediction().name().to_owned(),
        })
    }

    fn formula(
        &self,
        _: &Caller<'_>,
        formula: Formula,
        a: &Tensor,
        b: &Tensor,
        timesteps: &Tensor,
    ) -> Answer<Tensor> {
        match formula {
            Formula::AddNoise => self.process.add_noise(a, b, timesteps),
            Formula::Target => self.process.target(a, b, timesteps),
            Formula::ToX0 => self.process.to_x0(a, b, timesteps),
            Formula::ToEpsilon => self.process.to_epsilon(a, b, timesteps),
        }
        .map_err(Error::msg)
    }

    fn snr(&self, _: &Caller<'_>, timesteps: &Tensor) -> Answer<Tensor> {
        self.process.snr(timesteps).map_err(Error::msg)
    }

    fn run(&self, _: &Caller<'_>) -> Answer<RunInfo> {
        let facts = &self.facts;
        Ok(RunInfo {
            seed: facts.seed,
            steps: facts.steps,
            batch_size: facts.batch_size,
            accumulation: facts.accumulation,
            dtype: dtype_code(self.backbone.dtype()),
            dataset_len: facts.dataset_len,
            classes: facts.classes.clone(),
            plugins: facts.plugins.clone(),
            image_size: facts.image_size,
            columns: facts.columns.clone(),
            bucketing: facts.bucketing,
        })
    }

    fn metric(&self, caller: &Caller<'_>, name: &str, value: f64) -> Answer<()> {
        self.metrics
            .borrow_mut()
            .insert(format!("plugin/{}/{name}", caller.plugin), value);
        Ok(())
    }

    fn progress(&self, caller: &Caller<'_>, done: u64, total: u64, label: &str) -> Answer<()> {
        let key = format!("{}: {label}", caller.plugin);
        let mut slot = self.task.borrow_mut();
        let going = slot.take().filter(|(of, _)| *of == key);
        let (_, mut task) =
            going.unwrap_or_else(|| (key.clone(), self.progress.count(&key, "item", total)));
        task.set(done);
        match done < total {
            true => *slot = Some((key, task)),
            false => task.finish(),
        }
        if self.cancel.requested() {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    fn artifact(&self, caller: &Caller<'_>, name: &str, content: Vec<u8>) -> Answer<()> {
        let Some(folder) = &self.facts.folder else {
            return Ok(());
        };
        let folder = folder.join("plugins").join(caller.plugin);
        std::fs::create_dir_all(&folder)
            .map_err(|error| Error::msg(crate::fs::Error::io("create", &folder, error)))?;
        crate::fs::write_atomic(&folder.join(name), &content).map_err(Error::msg)
    }

    fn adapter(&self, caller: &Caller<'_>, file: AdapterFile) -> Answer<()> {
        for (name, tensor) in &file.tensors {
            if !tensor.dtype().is_float() {
                return Err(Error::msg(format!(
                    "`{name}` of the adapter's file `{}` is {}; such files hold floats",
                    file.file,
                    tensor.dtype().as_str()
                )));
            }
            if tensor.track_op() && !self.parameters.borrow().holds(tensor) {
                return Err(Error::msg(format!(
                    "`{name}` of the adapter's file `{}` is computed from parameters and would not follow them; hand over the parameter itself",
                    file.file
                )));
            }
        }
        let mut adapters = self.adapters.borrow_mut();
        adapters.retain(|(plugin, known)| plugin != caller.plugin || known.file != file.file);
        adapters.push((caller.plugin.to_owned(), file));
        Ok(())
    }

    fn read_adapter(&self, _: &Caller<'_>, path: PathBuf) -> Answer<AdapterRead> {
        let weights = AdapterWeights::read(&path).map_err(Error::msg)?;
        let Matched { updates, report } = weights
            .matched(&self.backbone.adapter_layers())
            .map_err(Error::msg)?;
        Ok(AdapterRead {
            layers: shared(updates, &self.backbone)?,
            unmatched: report.unmatched,
            other_parts: report.other_parts,
        })
    }

    fn stop(&self, caller: &Caller<'_>, reason: &str) -> Answer<()> {
        self.stop
            .borrow_mut()
            .get_or_insert_with(|| format!("plugin `{}`: {reason}", caller.plugin));
        Ok(())
    }
}

impl Session {
    fn still_preparing(&self, name: &str) -> Answer<()> {
        match self.preparing.get() {
            true => Ok(()),
            false => Err(Error::msg(format!(
                "`{name}` cannot be made once training has begun; make it in `prepare`"
            ))),
        }
    }

    fn cache_entry(&self, caller: &Caller<'_>, key: &str) -> Answer<Entry> {
        let fingerprint = self.fingerprint().map_err(Error::msg)?;
        Ok(Entry::of(
            &cache::root(),
            caller.id,
            &format!("{fingerprint}\n{key}"),
        ))
    }

    fn weights(&self, model: Model) -> Answer<Weights> {
        match model {
            Model::Frozen => Ok(Weights::Frozen),
            Model::Current if self.preparing.get() => Err(Error::msg(
                "there is no current model before the first step; ask for the frozen one",
            )),
            Model::Current => Ok(Weights::Current(self.overlay())),
        }
    }
}

/// The updates of the layers that the backbone has: one for what all blocks share, if a file that has one for each block has the same.
fn shared(updates: Vec<LayerUpdate>, backbone: &backbone::Backbone) -> Answer<Vec<LayerUpdate>> {
    let known: HashSet<&str> = backbone
        .layers()
        .iter()
        .map(|layer| layer.path.as_str())
        .collect();
    let (kept, copies): (Vec<_>, Vec<_>) = updates
        .into_iter()
        .partition(|update| known.contains(update.path.as_str()));
    for copy in &copies {
        // `transformer_blocks.N.rest`; block 0's stands for all.
        let original = copy.path.splitn(3, '.').nth(2).and_then(|rest| {
            let is_original = |update: &&LayerUpdate| update.path.ends_with(rest);
            kept.iter().find(is_original)
        });
        let same = original.map(|original| original.same(copy)).transpose();
        if same.map_err(Error::msg)? != Some(true) {
            return Err(Error::msg(format!(
                "the file's update of `{}` differs from that of block 0, but this backbone has one such layer for all blocks; \
                 begin at the backbone with the file merged in (--adapter) instead",
                copy.path
            )));
        }
    }
    Ok(kept)
}

/// What a plugin gives its request for pictures along: a row an image, for the hooks of the current model.
fn further_inputs(model: Model, count: usize, inputs: Batch) -> Answer<Batch> {
    if model == Model::Frozen && !inputs.tensors.is_empty() {
        return Err(Error::msg(
            "the frozen model takes no further inputs to sampling; ask for classes, or for the current model",
        ));
    }
    for (name, tensor) in &inputs.tensors {
        if tensor.dims().first() != Some(&count) {
            return Err(Error::msg(format!(
                "`{name}` has shape {:?} for {count} pictures",
                tensor.dims()
            )));
        }
    }
    // Lists of texts travel as JSON in `meta`.
    if let Some(name) = inputs
        .meta
        .iter()
        .find_map(|(name, value)| value.starts_with('[').then_some(name))
    {
        return Err(Error::msg(format!(
            "sampling takes no texts yet, and `{name}` is some"
        )));
    }
    Ok(inputs)
}

fn sampler_kind(name: &str) -> Answer<SamplerKind> {
    // `dpm++` is what plugin authors may write for the one DPM-Solver++ there is.
    let known = |kind: &SamplerKind| {
        kind.to_string() == name || (name == "dpm++" && *kind == SamplerKind::DpmSolverPlusPlus2M)
    };
    let all = <SamplerKind as clap::ValueEnum>::value_variants();
    all.iter().copied().find(known).ok_or_else(|| {
        let names: Vec<String> = all.iter().map(ToString::to_string).collect();
        Error::msg(format!(
            "there is no sampler `{name}`; there are {}",
            names.join(", ")
        ))
    })
}

/// The backbone's layers as plugins see them with these stand-ins, each numbered by its place in [`Backbone::layers`](crate::backbone::Backbone::layers).
pub(super) fn layers(backbone: &backbone::Backbone, overlay: &backbone::Overlay) -> Vec<LayerInfo> {
    let input = backbone.input_layer().map(|layer| layer.path.as_str());
    let info = |(index, layer): (usize, &backbone::LayerInfo)| {
        let in_features = match Some(layer.path.as_str()) == input {
            true => backbone.input_channels(overlay),
            false => layer.in_features,
        };
        let (kind, weight_shape) = match (layer.kind, layer.conv) {
            (backbone::LayerKind::Conv2d, Some(conv)) => (
                LayerKind::CONV2D,
                vec![layer.out_features, in_features, conv.kernel, conv.kernel],
            ),
            (backbone::LayerKind::Embedding, _) => {
                (LayerKind::EMBEDDING, vec![in_features, layer.out_features])
            }
            _ => (LayerKind::LINEAR, vec![layer.out_features, in_features]),
        };
        LayerInfo {
            id: index as u32,
            path: layer.path.clone(),
            kind,
            in_features,
            out_features: layer.out_features,
            weight_shape,
            bias: layer.bias,
            conv: layer
                .conv
                .map_or_else(Vec::new, |conv| vec![conv.stride, conv.padding, 1, 1]),
        }
    };
    backbone.layers().iter().enumerate().map(info).collect()
}
