//! The binary boundary, and nothing else: the C-layout types and function tables that a host and a plugin exchange.
//!
//! Plugin authors never need this module; the safe wrappers ([`Tensor`](crate::Tensor), [`Host`](crate::Host), the hook
//! traits) are built on it. Hosts implement it.
//!
//! Three tables make up the whole ABI, and none of them changes when a hook, an operation or a service is added:
//!
//! | table | implemented by | purpose |
//! |---|---|---|
//! | [`TensorOps`] | host | tensors: reference counts, shape, copies, and one `invoke` for every operation |
//! | [`HostServices`] | host | one `call` for every service, and the log |
//! | [`PluginTable`] | plugin | make an instance, call a hook, drop the instance |
//!
//! What varies travels as a code plus a [`Packet`] of named values.

mod host;
mod packet;
mod plugin;
mod status;
mod tensor_ops;

pub use host::{HostHandle, HostServices, HostServicesRef, LogLevel, LogRecord, Phase};
pub use packet::{Field, Packet, Value, ValueKind};
pub use plugin::{PluginModule, PluginModuleRef, PluginTable, PluginTableRef, RawInstance};
pub use status::{Failure, Status, report};
pub use tensor_ops::{OpArgs, RawDevice, RawTensor, TensorOps, TensorOpsRef};

pub(crate) use host::HostServicesPrefix;
pub(crate) use plugin::{PluginModulePrefix, PluginTablePrefix};
pub(crate) use tensor_ops::TensorOpsPrefix;

/// Major version of the boundary. It never moves within `plugin-api` 1.x; a host refuses another major.
pub const ABI_MAJOR: u32 = 1;

/// Minor version of the boundary: grows by one whenever an operation, a slot, a service or a table function is appended.
/// A plugin runs in every host whose minor is at least the one its manifest states as needed.
pub const ABI_MINOR: u32 = 2;
