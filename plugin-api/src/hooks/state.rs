//! Slot `state`: what of the plugin goes into checkpoints.

use super::{Dispatch, Instance, answer, unknown_method};
use crate::{
    Host, Result,
    abi::Packet,
    message::message,
    services::{NoIn, Nothing},
    slots::{CallDef, Slot, SlotMarker, State},
};

/// Saves and restores what the plugin itself remembers between steps (a running mean, a position). Parameters and random streams
/// are the host's and need no hook. With it, a resumed run equals an uninterrupted one bit for bit.
pub trait StateHook {
    /// Number of the layout that [`StateHook::save`] writes; let it grow with each change of layout.
    const REVISION: u32 = 1;

    /// The state as bytes, written into every checkpoint.
    ///
    /// # Errors
    /// The checkpoint is not written.
    fn save(&mut self) -> Result<Vec<u8>>;

    /// Restores what an earlier `save` returned, perhaps of an earlier revision: migrate it, or refuse it with a sentence. Called after
    /// `prepare`.
    ///
    /// # Errors
    /// For bytes that are no state of this plugin: refuse them, never panic.
    fn load(&mut self, state: SavedState, host: &Host) -> Result<()>;
}

message! {
    /// A plugin's state in a checkpoint.
    pub struct SavedState {
        /// What `save` returned.
        pub bytes: Vec<u8>,
        /// [`StateHook::REVISION`] of the plugin that saved it.
        pub revision: u32,
    }
}

/// Method 0 of the slot: save.
#[derive(Debug, Clone, Copy)]
pub struct StateSave;

impl CallDef for StateSave {
    const SLOT: Slot = <State as SlotMarker>::SLOT;
    const METHOD: u32 = 0;
    type In = NoIn;
    type Out = SavedState;
}

/// Method 1 of the slot: load.
#[derive(Debug, Clone, Copy)]
pub struct StateLoad;

impl CallDef for StateLoad {
    const SLOT: Slot = <State as SlotMarker>::SLOT;
    const METHOD: u32 = 1;
    type In = SavedState;
    type Out = Nothing;
}

impl<P: StateHook> Dispatch<P> for State {
    fn dispatch(
        instance: &mut Instance<P>,
        method: u32,
        host: &Host,
        request: Packet,
    ) -> Result<Packet> {
        let plugin = &mut instance.plugin;
        match method {
            StateSave::METHOD => answer::<StateSave>(request, |_| {
                Ok(SavedState {
                    bytes: plugin.save()?,
                    revision: P::REVISION,
                })
            }),
            StateLoad::METHOD => answer::<StateLoad>(request, |state| {
                plugin.load(state, host)?;
                Ok(Nothing {})
            }),
            other => Err(unknown_method::<State>(other)),
        }
    }
}
