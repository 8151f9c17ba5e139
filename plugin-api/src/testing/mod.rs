//! A small host for plugins' unit tests: tensors as plain lists on the CPU, no gradients, no backbone.
//!
//! ```
//! use plugin_api::{Tensor, testing::TestHost};
//!
//! let host = TestHost::new();
//! let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], [3], &host)?;
//! assert_eq!((&x * 2.0)?.sum_all()?.to_scalar::<f32>()?, 12.0);
//! drop(x);
//! assert_eq!(host.live_tensors(), 0);
//! # Ok::<(), plugin_api::Error>(())
//! ```
//!
//! It answers `random`, `parameter`, `process` and its formulas (a cosine schedule, 1000 timesteps, epsilon prediction), `run` and `metric`
//! out of the box, and ignores `progress`, `artifact`, `stop` and `adapter`; give it answers for other services, or other answers, with [`TestHost::answer`]. It knows the
//! operations for arithmetic, reductions, shapes, indices, `matmul`, `linear`, `softmax`; others are [`Error::Unsupported`](crate::Error::Unsupported).
//! For gradients and real networks, run the plugin file in the host.

mod ops;
mod services;
mod tensors;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::c_void,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    Host, Phase, Plugin, Result, Tensor,
    abi::{HostHandle, LogRecord, Packet, RawDevice},
    message::Message,
    services::ServiceDef,
    settings::Settings,
};

/// A host for unit tests; use it wherever a hook wants a [`Host`].
pub struct TestHost {
    host: Host,
    // The handle in `host` points at this; an `Arc`, because a `Box` that moves must not be pointed at.
    state: Arc<State>,
}

type Answer = Arc<dyn Fn(Packet) -> Result<Packet> + Send + Sync>;

/// What the table functions find behind their context pointer.
struct State {
    live: Arc<AtomicUsize>,
    answers: Mutex<HashMap<u32, Answer>>,
    parameters: Mutex<BTreeMap<String, Tensor>>,
    metrics: Mutex<Vec<(String, f64)>>,
    random: Mutex<u64>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Default for TestHost {
    fn default() -> Self {
        Self::new()
    }
}

impl TestHost {
    /// A host at step 0 of training.
    pub fn new() -> Self {
        let state = Arc::new(State {
            live: Arc::new(AtomicUsize::new(0)),
            answers: Mutex::default(),
            parameters: Mutex::default(),
            metrics: Mutex::default(),
            random: Mutex::new(0),
        });
        let handle = HostHandle {
            services: services::table(),
            tensors: tensors::table(),
            context: Arc::as_ptr(&state).cast::<c_void>(),
            device: RawDevice((&raw const state.live).cast::<c_void>()),
            step: 0,
            phase: Phase::TRAIN,
            reserved: [0; 4],
        };
        // SAFETY: the tables are this module's, and `state` lives as long as the value, because both are in it.
        let host = unsafe { Host::from_handle(handle) };
        TestHost { host, state }
    }

    /// The same host at another step and phase.
    pub fn at(self, step: u64, phase: Phase) -> Self {
        let handle = HostHandle {
            step,
            phase,
            ..*self.host.handle()
        };
        // SAFETY: as in `new`; the state does not move.
        let host = unsafe { Host::from_handle(handle) };
        TestHost {
            host,
            state: self.state,
        }
    }

    /// Answers service `S` with `answer` from now on.
    pub fn answer<S: ServiceDef>(
        &self,
        answer: impl Fn(S::In) -> Result<S::Out> + Send + Sync + 'static,
    ) {
        let answer: Answer = Arc::new(move |request| Ok(answer(S::In::decode(request)?)?.encode()));
        lock(&self.state.answers).insert(S::SERVICE.code, answer);
    }

    /// Builds a plugin from settings given as JSON, checked as a host checks them.
    ///
    /// # Errors
    /// The settings' problems, or the plugin's own.
    pub fn build<P: Plugin>(&self, settings: &str) -> Result<P> {
        P::build(P::Settings::from_json(settings)?, self)
    }

    /// Number of tensors that something still holds, not counting the host's own parameters.
    pub fn live_tensors(&self) -> usize {
        self.state.live.load(Ordering::SeqCst) - lock(&self.state.parameters).len()
    }

    /// The parameters that plugins made, by name.
    pub fn made_parameters(&self) -> BTreeMap<String, Tensor> {
        lock(&self.state.parameters).clone()
    }

    /// The metrics that plugins recorded, in order.
    pub fn metrics(&self) -> Vec<(String, f64)> {
        lock(&self.state.metrics).clone()
    }

    /// The log lines of this thread's plugins since the last call, as `level message fields`.
    pub fn take_log(&self) -> Vec<String> {
        LOG.with_borrow_mut(std::mem::take)
    }
}

thread_local! {
    static LOG: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Keeps a log line; log functions have no context, so lines are kept by thread.
fn keep_log(record: &LogRecord<'_>) {
    let line = format!("{} {} {}", record.level.0, record.message, record.fields);
    LOG.with_borrow_mut(|log| log.push(line.trim_end().to_owned()));
}

impl Deref for TestHost {
    type Target = Host;
    fn deref(&self) -> &Host {
        &self.host
    }
}

impl std::fmt::Debug for TestHost {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestHost")
            .field("host", &self.host)
            .field("live_tensors", &self.live_tensors())
            .finish()
    }
}
