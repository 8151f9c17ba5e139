//! The service table: from a code and a packet to a call of [`Services`], and back.

use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::PathBuf;

use abi_stable::prefix_type::WithMetadata;
use candle_core::Tensor;
use plugin_api::Error;
use plugin_api::abi::{Failure, HostServices, HostServicesRef, Packet, Status, report};
use plugin_api::message::Message;
use plugin_api::services as api;
use plugin_api::services::{Service, ServiceDef, TensorOut};

use crate::plugin::crossing;

use super::{
    AdapterFile, AdapterRead, Answer, BlockCopyInfo, CacheFolder, Caller, CopyRequest, Draw,
    Formula, Init, ParameterRequest, SampleRequest, Services, WeightsRead, log,
};
use crate::adapter::LayerUpdate;
use crate::plugin::bag;
use crate::plugin::tensor_ops::{export, import};

/// How the files of tensors that plugins declare are called.
const ADAPTER_ENDING: &str = ".safetensors";

/// What the boundary's `context` pointer points at during one hook call.
pub(in crate::plugin) struct Context<'a> {
    pub(in crate::plugin) caller: Caller<'a>,
    pub(in crate::plugin) services: &'a dyn Services,
}

/// The table every plugin gets; valid for the whole process.
pub(in crate::plugin) fn table() -> HostServicesRef {
    HostServicesRef(STATIC.static_as_prefix())
}

static STATIC: &WithMetadata<HostServices> = &WithMetadata::new(HostServices {
    call,
    supports,
    log_enabled: log::log_enabled,
    log: log::log,
});

unsafe extern "C" fn supports(service: u32) -> bool {
    Service::by_code(service).is_some()
}

unsafe extern "C" fn call(
    context: *const c_void,
    service: u32,
    request: *mut Packet,
    reply: *mut Packet,
    failure: *mut Failure,
) -> Status {
    // SAFETY: by the table's contract `context` is the one the host passed to the hook that runs, so it points at a `Context`
    // that lives on the host's stack until that hook returns; `request` is given away; the others are valid for writes.
    let (context, request, reply, failure) = unsafe {
        (
            &*context.cast::<Context<'_>>(),
            request.read(),
            &mut *reply,
            &mut *failure,
        )
    };
    match report(failure, || answer(context, service, request)) {
        Ok(packet) => {
            *reply = packet;
            Status::OK
        }
        Err(status) => status,
    }
}

/// Decodes, asks, encodes.
fn serve<S: ServiceDef>(
    request: Packet,
    work: impl FnOnce(S::In) -> Answer<S::Out>,
) -> Answer<Packet> {
    let asked = S::In::decode(request)?;
    Ok(crossing::work(|| work(asked))?.encode())
}

fn tensor(tensor: Tensor) -> TensorOut {
    TensorOut {
        tensor: export(&tensor),
    }
}

fn answer(context: &Context<'_>, code: u32, request: Packet) -> Answer<Packet> {
    let Context {
        caller,
        services: host,
    } = context;
    macro_rules! services {
        ($($marker:ident($message:ident) => $answer:expr;)*) => {
            $(if code == <api::$marker as ServiceDef>::SERVICE.code {
                return serve::<api::$marker>(request, |$message| Ok($answer));
            })*
        };
    }
    services! {
        Parameter(asked) => tensor(host.parameter(caller, parameter_request(asked)?)?);
        StandIn(asked) => {
            let value = asked.value.as_ref().map(import).transpose()?;
            tensor(host.stand_in(caller, &asked.name, value, asked.trainable)?)
        };
        Weight(asked) => tensor(host.weight(caller, &asked.name)?);
        CurrentWeight(asked) => tensor(host.current_weight(caller, &asked.name)?);
        RandomNumbers(asked) => {
            let draw = Draw::decode(&asked.kind, asked.a, asked.b)?;
            tensor(host.random(caller, draw, &asked.shape)?)
        };
        Encode(asked) => tensor(host.encode(caller, &import(&asked.tensor)?)?);
        Decode(asked) => tensor(host.decode(caller, &import(&asked.tensor)?)?);
        EncodeTexts(asked) => api::BatchOut { batch: bag::export(&host.encode_texts(caller, asked.texts)?) };
        Denoise(asked) => {
            let (latents, timesteps) = (import(&asked.latents)?, import(&asked.timesteps)?);
            let batch = bag::import(&asked.batch)?;
            tensor(host.denoise(caller, asked.model, &latents, &timesteps, &batch)?)
        };
        Sample(asked) => api::SampleOut { images: export(&host.sample(caller, sample_request(asked)?)?) };
        CopyBlocks(asked) => {
            copied(host.copy_blocks(caller, copy_request(asked)?)?)
        };
        RunBlocks(asked) => {
            let (latents, timesteps) = (import(&asked.latents)?, import(&asked.timesteps)?);
            let hint = asked.hint.as_ref().map(import).transpose()?;
            let batch = bag::import(&asked.batch)?;
            let features = host.run_blocks(caller, asked.copy, &latents, &timesteps, &batch, hint.as_ref())?;
            api::RunBlocksOut { features: features.iter().map(export).collect() }
        };
        CacheOpen(asked) => folder(host.cache_open(caller, &asked.key)?)?;
        CacheCommit(asked) => {
            let path = asked.path.ok_or_else(|| Error::msg("a commit names the staging folder"))?;
            folder(host.cache_commit(caller, &asked.key, PathBuf::from(path))?)?
        };
        Backbone(_asked) => host.backbone(caller)?;
        Layers(_asked) => api::LayersOut { layers: host.layers(caller)? };
        Parameters(_asked) => {
            let parameters = host.parameters(caller)?.into_iter();
            api::ParametersOut { parameters: parameters.map(|(name, shape)| api::ParameterInfo { name, shape }).collect() }
        };
        Process(_asked) => host.process(caller)?;
        AddNoise(asked) => formula(context, Formula::AddNoise, &asked)?;
        Target(asked) => formula(context, Formula::Target, &asked)?;
        ToX0(asked) => formula(context, Formula::ToX0, &asked)?;
        ToEpsilon(asked) => formula(context, Formula::ToEpsilon, &asked)?;
        Snr(asked) => tensor(host.snr(caller, &import(&asked.timesteps)?)?);
        Run(_asked) => host.run(caller)?;
        Metric(asked) => done(host.metric(caller, &asked.name, asked.value)?);
        Progress(asked) => done(host.progress(caller, asked.done, asked.total, &asked.label)?);
        Artifact(asked) => {
            if asked.name.is_empty() || asked.name.contains(['/', '\\']) || asked.name.starts_with('.') {
                return Err(Error::msg(format!("`{}` is no file name", asked.name)));
            }
            done(host.artifact(caller, &asked.name, asked.content)?)
        };
        Adapter(asked) => done(host.adapter(caller, adapter_file(asked)?)?);
        ReadAdapter(asked) => adapter_updates(host.read_adapter(caller, PathBuf::from(asked.path))?);
        ReadWeights(asked) => weights(host.read_weights(caller, PathBuf::from(asked.path))?);
        Stop(asked) => done(host.stop(caller, &asked.reason)?);
    }
    Err(Error::Unsupported {
        who: "host".into(),
        what: format!("service {code}"),
        revision: 1,
    })
}

fn adapter_updates(read: AdapterRead) -> api::AdapterUpdates {
    let layer = |update: LayerUpdate| api::LayerUpdate {
        path: update.path,
        kind: update.kind.name().to_owned(),
        rank: update.rank,
        alpha: update.alpha,
        scale: update.scale,
        tensors: update
            .tensors
            .iter()
            .map(|(part, tensor)| ((*part).to_owned(), export(tensor)))
            .collect(),
    };
    api::AdapterUpdates {
        layers: read.layers.into_iter().map(layer).collect(),
        unmatched: read.unmatched,
        other_parts: read.other_parts,
    }
}

fn copy_request(asked: api::CopyBlocksIn) -> Answer<CopyRequest> {
    let values = asked.values.unwrap_or_default();
    Ok(CopyRequest {
        name: asked.name,
        sites: asked.sites,
        trainable: asked.trainable,
        values: imported(values)?,
    })
}

fn copied(copy: BlockCopyInfo) -> api::CopyBlocksOut {
    api::CopyBlocksOut {
        copy: copy.copy,
        sites: copy.sites,
        features: copy.features,
        hint: copy.hint,
        parameters: Some(exported(&copy.parameters)),
        config: Some(copy.config),
    }
}

fn weights(read: WeightsRead) -> api::Weights {
    api::Weights {
        tensors: exported(&read.tensors),
        config: read.config,
    }
}

fn imported(tensors: BTreeMap<String, plugin_api::Tensor>) -> Answer<BTreeMap<String, Tensor>> {
    let one = |(name, tensor): (String, plugin_api::Tensor)| Ok((name, import(&tensor)?));
    tensors.into_iter().map(one).collect()
}

fn exported(tensors: &BTreeMap<String, Tensor>) -> BTreeMap<String, plugin_api::Tensor> {
    let one = |(name, tensor): (&String, &Tensor)| (name.clone(), export(tensor));
    tensors.iter().map(one).collect()
}

fn done((): ()) -> api::Nothing {
    api::Nothing {}
}

fn parameter_request(asked: api::ParameterIn) -> Answer<ParameterRequest> {
    Ok(ParameterRequest {
        name: asked.name,
        shape: asked.shape,
        init: Init::decode(asked.init)?,
        decay: asked.decay.unwrap_or(true),
    })
}

/// What holds of an adapter's file whoever writes it: paths that stay where they belong, and something to write.
fn adapter_file(asked: api::AdapterIn) -> Answer<AdapterFile> {
    let file = asked.file;
    if !file.ends_with(ADAPTER_ENDING) {
        return Err(Error::msg(format!(
            "the adapter's file `{file}` must end in {ADAPTER_ENDING}"
        )));
    }
    for path in std::iter::once(&file).chain(asked.texts.keys()) {
        if let Some(problem) = misplaced(path) {
            return Err(Error::msg(format!("the adapter's file `{path}` {problem}")));
        }
    }
    if let Some(text) = asked
        .texts
        .keys()
        .find(|text| text.ends_with(ADAPTER_ENDING))
    {
        return Err(Error::msg(format!(
            "the adapter's `{text}` is named as a file of tensors and is a text"
        )));
    }
    if asked.tensors.is_empty() {
        return Err(Error::msg(format!(
            "the adapter's file `{file}` holds no tensor"
        )));
    }
    let shapes = asked.shapes.unwrap_or_default();
    for (name, shape) in &shapes {
        let held = asked.tensors.get(name).map(plugin_api::Tensor::elem_count);
        if held != Some(shape.iter().product()) {
            return Err(Error::msg(format!(
                "`{name}` of the adapter's file `{file}` cannot be written in the shape {shape:?}"
            )));
        }
    }
    Ok(AdapterFile {
        file,
        tensors: imported(asked.tensors)?,
        shapes,
        metadata: asked.metadata,
        texts: asked.texts,
    })
}

/// What is wrong with a path inside of `adapter/`, if anything.
fn misplaced(path: &str) -> Option<&'static str> {
    let mut parts = path.split('/');
    if matches!(
        path.split_once('/'),
        Some(("transformer" | "unet" | "scheduler", _))
    ) {
        return Some("lies in a folder that the host writes");
    }
    // One rule for every system: what is a separator or a drive on another may not be in a name here.
    let odd = |part: &str| part.is_empty() || part.starts_with('.') || part.contains(['\\', ':']);
    parts
        .any(odd)
        .then_some("is no path inside of the adapter's folder")
}

fn sample_request(asked: api::SampleIn) -> Answer<SampleRequest> {
    for (what, given) in [
        ("class labels", asked.class_labels.as_ref().map(Vec::len)),
        ("captions", asked.captions.as_ref().map(Vec::len)),
    ] {
        if let Some(given) = given.filter(|&given| given != asked.count) {
            return Err(Error::msg(format!(
                "{given} {what} for {} pictures",
                asked.count
            )));
        }
    }
    for (what, number) in [
        ("pictures", asked.count),
        ("pictures at a time", asked.batch_size),
        ("steps", asked.steps),
    ] {
        if number == 0 {
            return Err(Error::msg(format!("sampling needs more than 0 {what}")));
        }
    }
    Ok(SampleRequest {
        model: asked.model,
        count: asked.count,
        first: asked.first,
        batch_size: asked.batch_size,
        class_labels: asked.class_labels,
        captions: asked.captions,
        steps: asked.steps,
        guidance: asked.guidance,
        seed: asked.seed,
        sampler: asked.sampler,
        decode: asked.decode,
        label: asked.label,
        batch: bag::import(&asked.batch)?,
    })
}

fn folder(folder: CacheFolder) -> Answer<api::CacheOut> {
    let path = folder.path.into_os_string().into_string();
    let path = path
        .map_err(|path| Error::msg(format!("the cache folder {} is not UTF-8", path.display())))?;
    Ok(api::CacheOut {
        path,
        complete: folder.complete,
    })
}

fn formula(context: &Context<'_>, which: Formula, asked: &api::ProcessIn) -> Answer<TensorOut> {
    let part = |part: &Option<plugin_api::Tensor>| match part {
        Some(part) => import(part),
        None => Err(Error::msg("the formula needs two tensors")),
    };
    let (a, b, timesteps) = (part(&asked.a)?, part(&asked.b)?, import(&asked.timesteps)?);
    Ok(tensor(context.services.formula(
        &context.caller,
        which,
        &a,
        &b,
        &timesteps,
    )?))
}
