//! What a hook gets from the host beside its message: the service table, and where in the run it stands.

use std::ffi::c_void;

use abi_stable::{
    StableAbi,
    std_types::{RStr, RString},
};

use super::{Failure, Packet, RawDevice, Status, TensorOpsRef};

/// Severity of a log line, as `tracing` orders them. Open.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct LogLevel(pub u32);

impl LogLevel {
    /// Something failed.
    pub const ERROR: LogLevel = LogLevel(1);
    /// Something looks wrong.
    pub const WARN: LogLevel = LogLevel(2);
    /// Worth a user's attention.
    pub const INFO: LogLevel = LogLevel(3);
    /// For whoever looks for a fault.
    pub const DEBUG: LogLevel = LogLevel(4);
    /// Everything.
    pub const TRACE: LogLevel = LogLevel(5);
}

/// One log line of a plugin. The strings are borrowed for the call.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct LogRecord<'a> {
    /// Severity.
    pub level: LogLevel,
    /// Id of the plugin.
    pub plugin: RStr<'a>,
    /// The event's target, normally a module path.
    pub target: RStr<'a>,
    /// The message.
    pub message: RString,
    /// The event's other fields as `key=value`, separated by spaces; may be empty.
    pub fields: RString,
    /// Source file; empty if unknown.
    pub file: RStr<'a>,
    /// Source line; 0 if unknown.
    pub line: u32,
}

/// What the host is doing while it calls a hook. Open.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Phase(pub u32);

impl Phase {
    /// Making plugin instances.
    pub const BUILD: Phase = Phase(0);
    /// Before step 0: slots `trainable` and `prepare`.
    pub const PREPARE: Phase = Phase(1);
    /// Inside a training step: dropout and other noise are on.
    pub const TRAIN: Phase = Phase(2);
    /// Drawing samples: dropout and other noise are off.
    pub const SAMPLE: Phase = Phase(3);
    /// Measuring a loss without training: dropout and other noise are off.
    pub const EVALUATE: Phase = Phase(4);
    /// Writing or reading a checkpoint.
    pub const CHECKPOINT: Phase = Phase(5);
}

/// The host's services. None of the functions unwinds.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = HostServicesRef, prefix_fields = HostServicesPrefix)))]
#[sabi(missing_field(panic))]
pub struct HostServices {
    /// Calls a service; [`services`](crate::services) documents codes and messages. `request` is moved from (the caller forgets it)
    /// whatever the outcome; `reply` is replaced on [`Status::OK`], `failure` otherwise.
    pub call: unsafe extern "C" fn(
        context: *const c_void,
        service: u32,
        request: *mut Packet,
        reply: *mut Packet,
        failure: *mut Failure,
    ) -> Status,
    /// Whether `call` knows this service.
    pub supports: unsafe extern "C" fn(service: u32) -> bool,
    /// Whether a line of this level and target would be kept. Any thread, any time.
    pub log_enabled:
        unsafe extern "C" fn(level: LogLevel, plugin: RStr<'_>, target: RStr<'_>) -> bool,
    /// Takes a log line. Any thread, any time.
    #[sabi(last_prefix_field)]
    pub log: unsafe extern "C" fn(record: *const LogRecord<'_>),
}

/// The host as one hook call sees it. Plain and frozen; it is valid only during the call it is handed to.
#[repr(C)]
#[derive(StableAbi, Clone, Copy)]
pub struct HostHandle {
    /// The service functions; valid for the whole process.
    pub services: HostServicesRef,
    /// The tensor functions; valid for the whole process.
    pub tensors: TensorOpsRef,
    /// First argument of [`HostServices::call`]; tells the host which plugin asks. Valid during the call.
    pub context: *const c_void,
    /// Where new tensors go. Valid for the whole process.
    pub device: RawDevice,
    /// Training step, from 0.
    pub step: u64,
    /// What the host is doing.
    pub phase: Phase,
    /// Zero; room for later.
    pub reserved: [u64; 4],
}
