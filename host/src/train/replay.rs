//! Gradient checkpointing of a training pass: blocks run again in the backward pass, with the same stand-ins, adapters and random numbers.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Tensor;
use plugin_api::Phase;

use crate::backbone::{LayerHook, Overlay, Pass, Piece, Replay};
use crate::plugin::failure::PluginError;
use crate::random::{StreamState, Streams};

use super::Session;
use super::scales::Adapted;

/// The training pass whose blocks may run again.
#[derive(Clone)]
pub(super) struct TrainingReplay {
    session: Rc<Session>,
    overlay: Rc<Overlay>,
    step: u64,
    failed: Rc<RefCell<Option<PluginError>>>,
}

impl TrainingReplay {
    pub(super) fn new(session: Rc<Session>, overlay: Overlay, step: u64) -> Self {
        Self {
            session,
            overlay: Rc::new(overlay),
            step,
            failed: Rc::default(),
        }
    }

    /// The plugin error behind a failed pass, if one was: candle's error carries only its sentence.
    pub(super) fn failure(&self) -> Option<PluginError> {
        self.failed.borrow_mut().take()
    }
}

impl Replay for TrainingReplay {
    fn piece(&self) -> Rc<dyn Piece> {
        Rc::new(Block {
            pass: self.clone(),
            streams: self.session.streams.borrow().state(),
            ran: Cell::new(false),
        })
    }
}

/// One block, and the random numbers that its adapters drew the first time.
struct Block {
    pass: TrainingReplay,
    streams: BTreeMap<String, StreamState>,
    ran: Cell<bool>,
}

impl Block {
    fn forward(
        &self,
        forward: &dyn Fn(&Pass<'_>) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        let TrainingReplay {
            session,
            overlay,
            step,
            failed,
        } = &self.pass;
        let stack = session.stack().map_err(candle_core::Error::wrap)?;
        let hook = stack.layer_hook(session.scene(*step, Phase::TRAIN));
        let scales = session.scales.borrow();
        let adapted = Adapted {
            scales: &scales,
            plugins: hook.as_ref(),
        };
        let output = forward(&Pass {
            overlay: Some(overlay),
            layers: Some(&adapted as &dyn LayerHook),
            ..Pass::default()
        });
        if let Some(failure) = hook.and_then(|hook| hook.failure()) {
            *failed.borrow_mut() = Some(failure);
        }
        output
    }
}

impl Piece for Block {
    fn run(
        &self,
        forward: &dyn Fn(&Pass<'_>) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        if !self.ran.replace(true) {
            return self.forward(forward);
        }
        let streams = &self.pass.session.streams;
        let seed = self.pass.session.facts.seed;
        let again = Streams::restore(seed, &self.streams);
        let live = streams.replace(again);
        let output = self.forward(forward);
        streams.replace(live);
        output
    }
}
