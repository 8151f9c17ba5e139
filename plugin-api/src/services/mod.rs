//! What the host does for plugins: codes and messages of every service, and the methods of [`Host`](crate::Host) that call them.
//!
//! One file a family. A host decodes [`ServiceDef::In`], does the work, and encodes [`ServiceDef::Out`].

mod adapter;
mod blocks;
mod cache;
mod model;
mod parameters;
mod process;
mod random;
mod read_adapter;
mod read_weights;
mod run;
mod sampling;

pub use adapter::{AdapterFile, AdapterIn};
pub use blocks::{BlockCopy, CopyBlocksIn, CopyBlocksOut, RunBlocksIn, RunBlocksOut};
pub use cache::{CacheEntry, CacheIn, CacheOut};
pub use model::{
    BackboneInfo, BatchOut, DenoiseIn, LayerInfo, LayerKind, LayersOut, Model, NoIn, ParameterInfo,
    ParametersOut, TensorIn, TensorOut, TextsIn,
};
pub use parameters::{Init, InitMessage, NameIn, ParameterIn, StandInIn};
pub use process::{ProcessIn, ProcessInfo};
pub use random::{Random, RandomIn};
pub use read_adapter::{AdapterUpdates, LayerUpdate, ReadAdapterIn};
pub use read_weights::{ReadWeightsIn, Weights};
pub use run::{ArtifactIn, MetricIn, Nothing, ProgressIn, RunInfo, StopIn};
pub use sampling::{SampleIn, SampleOut, SampleRequest};

use crate::message::Message;

/// One service of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Service {
    /// What the boundary calls it.
    pub code: u32,
    /// Its name in messages.
    pub name: &'static str,
    /// The first [`ABI_MINOR`](crate::abi::ABI_MINOR) whose hosts have it.
    pub since: u32,
}

impl Service {
    /// The service with this code.
    pub fn by_code(code: u32) -> Option<Service> {
        ALL.iter().copied().find(|service| service.code == code)
    }
}

/// A service with its typed messages.
pub trait ServiceDef {
    /// The service.
    const SERVICE: Service;
    /// The question.
    type In: Message;
    /// The answer.
    type Out: Message;
}

macro_rules! services {
    ($($(#[$meta:meta])* $marker:ident = $code:literal $name:literal since $since:literal: $in:ty => $out:ty;)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy)]
            pub struct $marker;
            impl ServiceDef for $marker {
                const SERVICE: Service = Service { code: $code, name: $name, since: $since };
                type In = $in;
                type Out = $out;
            }
        )*
        /// Every service this version knows, by code.
        pub const ALL: &[Service] = &[$(<$marker as ServiceDef>::SERVICE),*];

        /// Code, name and messages of every service, for the ABI listing.
        pub(crate) const MESSAGES: &[(Service, MessageShape, MessageShape)] =
            &[$((<$marker as ServiceDef>::SERVICE, shape::<$in>(), shape::<$out>())),*];
    };
}

/// Name and fields of a message, for the ABI listing.
pub(crate) type MessageShape = (&'static str, &'static [(&'static str, &'static str)]);

pub(crate) const fn shape<M: Message>() -> MessageShape {
    (M::NAME, M::FIELDS)
}

services! {
    /// A trainable parameter of the plugin.
    Parameter = 1 "parameter" since 0: ParameterIn => TensorOut;
    /// A trainable or fixed tensor in place of a backbone weight.
    StandIn = 2 "stand_in" since 0: StandInIn => TensorOut;
    /// A weight of the frozen backbone.
    Weight = 3 "weight" since 0: NameIn => TensorOut;
    /// Random numbers of the plugin's own stream.
    RandomNumbers = 4 "random" since 0: RandomIn => TensorOut;
    /// Pictures to latents.
    Encode = 5 "encode" since 0: TensorIn => TensorOut;
    /// Latents to pictures.
    Decode = 6 "decode" since 0: TensorIn => TensorOut;
    /// Captions to conditioning tensors.
    EncodeTexts = 7 "encode_texts" since 0: TextsIn => BatchOut;
    /// A prediction of the frozen or the current model.
    Denoise = 8 "denoise" since 0: DenoiseIn => TensorOut;
    /// Pictures drawn by the frozen or the current model.
    Sample = 9 "sample" since 0: SampleIn => SampleOut;
    /// A trainable copy of backbone blocks.
    CopyBlocks = 10 "copy_blocks" since 0: CopyBlocksIn => CopyBlocksOut;
    /// A forward pass through such a copy.
    RunBlocks = 11 "run_blocks" since 0: RunBlocksIn => RunBlocksOut;
    /// A cache folder, found or begun.
    CacheOpen = 12 "cache_open" since 0: CacheIn => CacheOut;
    /// A cache folder made permanent.
    CacheCommit = 13 "cache_commit" since 0: CacheIn => CacheOut;
    /// What the backbone is.
    Backbone = 14 "backbone" since 0: NoIn => BackboneInfo;
    /// The backbone's adaptable layers.
    Layers = 15 "layers" since 0: NoIn => LayersOut;
    /// The backbone's parameters.
    Parameters = 16 "parameters" since 0: NoIn => ParametersOut;
    /// What the diffusion process is.
    Process = 17 "process" since 0: NoIn => ProcessInfo;
    /// Latents and noise to noisy latents.
    AddNoise = 18 "add_noise" since 0: ProcessIn => TensorOut;
    /// Latents and noise to what the network should predict.
    Target = 19 "target" since 0: ProcessIn => TensorOut;
    /// Prediction and noisy latents to clean latents.
    ToX0 = 20 "to_x0" since 0: ProcessIn => TensorOut;
    /// Prediction and noisy latents to noise.
    ToEpsilon = 21 "to_epsilon" since 0: ProcessIn => TensorOut;
    /// Signal-to-noise ratio of timesteps.
    Snr = 22 "snr" since 0: ProcessIn => TensorOut;
    /// What the run is.
    Run = 23 "run" since 0: NoIn => RunInfo;
    /// A number to plot.
    Metric = 24 "metric" since 0: MetricIn => Nothing;
    /// How far a long task is.
    Progress = 25 "progress" since 0: ProgressIn => Nothing;
    /// A file for the run folder.
    Artifact = 26 "artifact" since 0: ArtifactIn => Nothing;
    /// A file of the result in a format that others read.
    Adapter = 27 "adapter" since 0: AdapterIn => Nothing;
    /// A request to end training.
    Stop = 28 "stop" since 0: StopIn => Nothing;
    /// An adapter file that others wrote, by layers of the backbone.
    ReadAdapter = 29 "read_adapter" since 1: ReadAdapterIn => AdapterUpdates;
    /// A weight of the backbone as it is now.
    CurrentWeight = 30 "current_weight" since 1: NameIn => TensorOut;
    /// The tensors of a model folder or a weights file.
    ReadWeights = 31 "read_weights" since 2: ReadWeightsIn => Weights;
}
