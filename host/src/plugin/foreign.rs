//! One instance of a loaded plugin, and the call across the boundary: guarded, charged to the profiler, and refused after a failure.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use abi_stable::std_types::RStr;
use candle_core::Device;
use plugin_api::abi::{Failure, HostHandle, Packet, PluginTableRef, RawInstance, Status};
use plugin_api::message::Message;
use plugin_api::slots::CallDef;
use plugin_api::{Error, Phase};
use serde_json::{Map, Value};

use super::crossing::Crossing;
use super::failure::{Moment, PluginError};
use super::load::Loaded;
use super::services::{Caller, Context, Services, Speaking};
use super::slots::Slot;
use super::{handle, services, tensor_ops};
use crate::report::Profiler;

/// What a hook sees of the host: whom it can ask, and where in the run it stands.
#[derive(Clone, Copy)]
pub struct Scene<'a> {
    /// The session that answers.
    pub services: &'a dyn Services,
    /// Where new tensors go.
    pub device: &'a Device,
    /// What keeps the time of hooks, if anything does.
    pub profiler: Option<&'a Profiler>,
    /// The training step, from 0; while preparing and sampling, the number of steps done.
    pub step: u64,
    /// What the host is doing.
    pub phase: Phase,
}

/// A plugin instance of this run.
pub struct Foreign {
    name: String,
    id: String,
    version: String,
    slots: Vec<Slot>,
    table: PluginTableRef,
    instance: RawInstance,
    /// Held while a hook runs.
    busy: AtomicBool,
    /// How it failed, if it has.
    poisoned: Mutex<Option<String>>,
}

// SAFETY: a plugin's type is `Send` by the bound on `plugin_api::Plugin`, so its instance may move between threads; the table is
// static.
unsafe impl Send for Foreign {}
// SAFETY: `busy` admits one call at a time, so no two threads are ever inside of the instance; everything else is a lock, an
// atomic, or never changes.
unsafe impl Sync for Foreign {}

impl std::fmt::Debug for Foreign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Foreign")
            .field("name", &self.name)
            .field("slots", &self.slots)
            .finish_non_exhaustive()
    }
}

impl Foreign {
    /// Makes an instance of a loaded plugin under a name, taking these slots, with these settings.
    ///
    /// # Errors
    /// The plugin refuses its settings or panics.
    pub fn create(
        loaded: &Loaded,
        name: &str,
        slots: &[Slot],
        settings: &Map<String, Value>,
        scene: &Scene<'_>,
    ) -> Result<Self, PluginError> {
        let manifest = loaded.manifest();
        let mut plugin = Self {
            name: name.to_owned(),
            id: manifest.id.clone(),
            version: manifest.version.clone(),
            slots: slots.to_vec(),
            table: loaded.module.table(),
            instance: RawInstance::NULL,
            busy: AtomicBool::new(false),
            poisoned: Mutex::new(None),
        };
        let settings = Value::Object(settings.clone()).to_string();
        let mut instance = RawInstance::NULL;
        plugin.cross(scene, None, |host, failure| {
            // SAFETY: the table came out of a checked root module; settings and host are valid during the call, and the out
            // pointers are valid for writes.
            unsafe {
                plugin.table.create()(RStr::from_str(&settings), host, &raw mut instance, failure)
            }
        })?;
        plugin.instance = instance;
        Ok(plugin)
    }

    /// Its name in this run.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The plugin's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The plugin's version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The slots it takes in this run.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// How it failed, if it has; it is not called any more then.
    pub fn poisoned(&self) -> Option<String> {
        self.poisoned
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Calls a hook with its typed messages: `plugin.call::<plugin_api::slots::Batch>(scene, message)`.
    ///
    /// # Errors
    /// The plugin fails or panics, which ends its part in the run; it failed before; or one of its hooks is running already.
    pub fn call<C: CallDef>(
        &self,
        scene: &Scene<'_>,
        message: C::In,
    ) -> Result<C::Out, PluginError> {
        let slot = Slot::from_code(C::SLOT.code);
        let _busy = self.admit(moment(scene, slot))?;
        let _time = scene
            .profiler
            .zip(slot)
            .map(|(profiler, slot)| profiler.hook(&self.name, slot.name()));
        let _crossing = scene
            .profiler
            .map(|profiler| Crossing::start(|time| profiler.crossed(time)));
        let mut request = std::mem::ManuallyDrop::new(message.encode());
        let mut reply = Packet::new();
        let crossed = self.cross(scene, slot, |host, failure| {
            // SAFETY: the instance is this plugin's, and `busy` is held, so nobody else is inside; the plugin moves out of
            // `request`, which is therefore not dropped here; the rest is valid during the call.
            unsafe {
                self.table.call()(
                    self.instance,
                    C::SLOT.code,
                    C::METHOD,
                    host,
                    &raw mut *request,
                    &raw mut reply,
                    failure,
                )
            }
        });
        let answer = crossed.and_then(|()| {
            C::Out::decode(reply).map_err(|error| self.failed(moment(scene, slot), error))
        });
        answer.inspect_err(|error| self.poison(error))
    }

    /// Lets one call in at a time, and none after a failure.
    fn admit(&self, moment: Moment) -> Result<Busy<'_>, PluginError> {
        if let Some(reason) = self.poisoned() {
            return Err(PluginError::Poisoned {
                plugin: self.name.clone(),
                moment,
                reason,
            });
        }
        if self.busy.swap(true, Ordering::Acquire) {
            return Err(PluginError::Reentrant {
                plugin: self.name.clone(),
                moment,
            });
        }
        Ok(Busy(&self.busy))
    }

    /// Crosses the boundary: builds what the plugin sees of the host, and turns a status into an error.
    fn cross(
        &self,
        scene: &Scene<'_>,
        slot: Option<Slot>,
        into: impl FnOnce(*const HostHandle, *mut Failure) -> Status,
    ) -> Result<(), PluginError> {
        let context = Context {
            caller: Caller {
                plugin: &self.name,
                id: &self.id,
                slot,
                step: scene.step,
                phase: scene.phase,
            },
            services: scene.services,
        };
        let host = HostHandle {
            services: services::table(),
            tensors: tensor_ops::table(),
            context: (&raw const context).cast(),
            device: handle::device_handle(scene.device),
            step: scene.step,
            phase: scene.phase,
            reserved: [0; 4],
        };
        let mut failure = Failure::default();
        let _speaking = Speaking::new(&self.name, slot);
        let status = into(&raw const host, &raw mut failure);
        if status == Status::OK {
            return Ok(());
        }
        Err(self.failed(moment(scene, slot), Error::from_failure(status, failure)))
    }

    fn failed(&self, moment: Moment, error: Error) -> PluginError {
        let plugin = self.name.clone();
        match error {
            Error::Panic { message, location } => PluginError::Panicked {
                plugin,
                moment,
                message,
                location,
            },
            Error::Cancelled => PluginError::Cancelled { plugin, moment },
            error => PluginError::Failed {
                plugin,
                moment,
                message: error.to_string(),
            },
        }
    }

    fn poison(&self, error: &PluginError) {
        if error.is_failure() {
            let mut poisoned = self.poisoned.lock().unwrap_or_else(PoisonError::into_inner);
            poisoned.get_or_insert_with(|| error.to_string());
        }
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if self.instance == RawInstance::NULL {
            return;
        }
        let mut failure = Failure::default();
        // SAFETY: the instance is this plugin's and nobody uses it after this.
        let status = unsafe { self.table.drop()(self.instance, &raw mut failure) };
        if status != Status::OK {
            let error = Error::from_failure(status, failure);
            tracing::warn!(
                plugin = self.name.as_str(),
                "the plugin failed as it was dropped: {error}"
            );
        }
    }
}

/// While it lives, a hook of the plugin runs.
struct Busy<'a>(&'a AtomicBool);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

fn moment(scene: &Scene<'_>, slot: Option<Slot>) -> Moment {
    Moment {
        slot,
        step: scene.step,
        phase: scene.phase,
    }
}
