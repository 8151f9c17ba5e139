//! What a plugin can do: one trait a slot, in the order of a training step and then of sampling.
//!
//! ```text
//! dataset -> [batch] -> encode -> latents
//!         -> [timesteps] [noise] [noise_mask] -> noisy_latents -> [denoiser_input]
//!         -> backbone with [layer] and [residuals] -> prediction
//!         -> [objective] -> loss [B] -> [loss_weight] -> mean + [loss_term] -> backward -> optimizer -> [observe]
//! sampling: [sample_begin] -> (denoiser_input -> backbone -> scheduler step -> [sample_step])* -> decode -> [output]
//! before step 0: [trainable] [prepare]          with every checkpoint: [state]
//! ```
//!
//! Every hook takes `&mut self`, its message, and the [`Host`]. Messages may gain fields in later versions; read the ones you need.
//! Unless a trait says otherwise, tensors carry gradients, an error ends the run after a checkpoint of the last good step, and the
//! message names the plugin, the hook and the step. Each file also holds the hook's two boundary messages, which hosts use.

mod batch;
mod denoiser_input;
mod layer;
mod loss_term;
mod loss_weight;
mod noise;
mod noise_mask;
mod objective;
mod observe;
mod output;
mod prepare;
mod residuals;
mod sample_begin;
mod sample_step;
mod state;
mod timesteps;
mod trainable;

pub use batch::{BatchHook, BatchMessage};
pub use denoiser_input::{DenoiserInputHook, DenoiserInputIn};
pub use layer::{LayerHook, LayerIn, LayerSelect, LayerSelectIn, LayerSelectOut};
pub use loss_term::{LossTermHook, LossTermIn};
pub use loss_weight::{LossWeightHook, LossWeightIn};
pub use noise::{NoiseHook, NoiseIn};
pub use noise_mask::{NoiseMaskHook, NoiseMaskIn};
pub use objective::{ObjectiveHook, ObjectiveIn};
pub use observe::{ObserveHook, ObserveIn};
pub use output::{Encoding, OutputHook, OutputIn, OutputOut, Picture};
pub use prepare::PrepareHook;
pub use residuals::{ResidualsHook, ResidualsIn, ResidualsOut};
pub use sample_begin::{SampleBegin, SampleBeginHook};
pub use sample_step::{SampleStepHook, SampleStepIn};
pub use state::{SavedState, StateHook, StateLoad, StateSave};
pub use timesteps::{TimestepsHook, TimestepsIn};
pub use trainable::{TrainableHook, TrainableOut};

use crate::{
    Error, Host, Result,
    abi::Packet,
    message::Message,
    services::{LayerInfo, MessageShape, shape},
    slots::{self, CallDef, SlotMarker},
};

/// A plugin as the boundary keeps it.
#[doc(hidden)]
#[derive(Debug)]
pub struct Instance<P> {
    /// The author's value.
    pub plugin: P,
    /// What [`LayerSelect`] told it, by layer number, so that the hook gets the description with each call.
    pub layers: Vec<LayerInfo>,
}

/// How a slot's calls reach the trait. Implemented for a slot's marker and every type with the slot's trait, so that listing a slot
/// in `export_plugin!` without implementing its trait is a compile error that names the trait.
#[doc(hidden)]
pub trait Dispatch<P>: SlotMarker {
    /// Decodes, calls, encodes.
    ///
    /// # Errors
    /// The hook's, the messages', or [`Error::Unsupported`] for an unknown method.
    fn dispatch(
        instance: &mut Instance<P>,
        method: u32,
        host: &Host,
        request: Packet,
    ) -> Result<Packet>;
}

/// Decodes a call's question, answers it, and encodes the answer.
fn answer<C: CallDef>(
    request: Packet,
    hook: impl FnOnce(C::In) -> Result<C::Out>,
) -> Result<Packet> {
    Ok(hook(C::In::decode(request)?)?.encode())
}

/// The error for a method this plugin is too old to know.
fn unknown_method<S: SlotMarker>(method: u32) -> Error {
    Error::Unsupported {
        who: "plugin".into(),
        what: format!("{} method", S::SLOT.name),
        revision: method,
    }
}

/// A slot with one method: its messages, and how the call reaches the trait.
macro_rules! hook {
    ($marker:ident, $trait:ident, $in:ty => $out:ty, |$plugin:ident, $message:ident, $host:ident| $body:expr) => {
        impl $crate::slots::CallDef for $crate::slots::$marker {
            const SLOT: $crate::slots::Slot =
                <$crate::slots::$marker as $crate::slots::SlotMarker>::SLOT;
            const METHOD: u32 = 0;
            type In = $in;
            type Out = $out;
        }

        impl<P: $trait> $crate::hooks::Dispatch<P> for $crate::slots::$marker {
            fn dispatch(
                instance: &mut $crate::hooks::Instance<P>,
                method: u32,
                $host: &$crate::Host,
                request: $crate::abi::Packet,
            ) -> $crate::Result<$crate::abi::Packet> {
                if method != 0 {
                    return Err($crate::hooks::unknown_method::<Self>(method));
                }
                let $plugin = &mut instance.plugin;
                $crate::hooks::answer::<Self>(request, |$message| $body)
            }
        }
    };
}
use hook;

macro_rules! listed {
    ($($call:ty),* $(,)?) => {
        &[$((
            <$call as CallDef>::SLOT,
            <$call as CallDef>::METHOD,
            shape::<<$call as CallDef>::In>(),
            shape::<<$call as CallDef>::Out>(),
        )),*]
    };
}

/// Slot, method and messages of every call, for the ABI listing.
pub(crate) const MESSAGES: &[(slots::Slot, u32, MessageShape, MessageShape)] = listed![
    slots::Trainable,
    slots::Prepare,
    slots::Batch,
    slots::Timesteps,
    slots::Noise,
    slots::NoiseMask,
    slots::DenoiserInput,
    slots::Layer,
    LayerSelect,
    slots::Residuals,
    slots::Objective,
    slots::LossWeight,
    slots::LossTerm,
    slots::SampleBegin,
    slots::SampleStep,
    slots::Output,
    slots::Observe,
    StateSave,
    StateLoad,
];
