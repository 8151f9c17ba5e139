//! What a plugin file exports: one root module with its manifest and the three functions behind which its whole code sits.

use std::ffi::c_void;

use abi_stable::{StableAbi, library::RootModule, sabi_types::VersionStrings, std_types::RStr};

use super::{Failure, HostHandle, Packet, Status};

/// One live plugin instance. Opaque: only the plugin that made it may look behind the pointer.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug)]
pub struct RawInstance(pub *mut c_void);

impl RawInstance {
    /// No instance; the initial value of an out pointer.
    pub const NULL: RawInstance = RawInstance(std::ptr::null_mut());
}

/// A plugin's functions. The host calls one instance from one thread at a time; none of the functions unwinds.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginTableRef, prefix_fields = PluginTablePrefix)))]
#[sabi(missing_field(panic))]
pub struct PluginTable {
    /// Makes an instance from settings (a JSON object; missing keys take their defaults).
    pub create: unsafe extern "C" fn(
        settings: RStr<'_>,
        host: *const HostHandle,
        out: *mut RawInstance,
        failure: *mut Failure,
    ) -> Status,
    /// Calls a hook: the message for `slot` and `method` (see [`slots`](crate::slots)) goes in, the hook's answer comes out.
    /// `request` is moved from (the caller forgets it) whatever the outcome; `reply` is replaced on [`Status::OK`], `failure` otherwise.
    /// A plugin that does not take the slot or know the method answers [`Status::UNSUPPORTED`].
    pub call: unsafe extern "C" fn(
        instance: RawInstance,
        slot: u32,
        method: u32,
        host: *const HostHandle,
        request: *mut Packet,
        reply: *mut Packet,
        failure: *mut Failure,
    ) -> Status,
    /// Drops the instance; errors in the plugin's `Drop` (panics) are reported through `failure`.
    #[sabi(last_prefix_field)]
    pub drop: unsafe extern "C" fn(instance: RawInstance, failure: *mut Failure) -> Status,
}

/// The root module of a plugin file.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef, prefix_fields = PluginModulePrefix)))]
#[sabi(missing_field(panic))]
pub struct PluginModule {
    /// [`ABI_MAJOR`](super::ABI_MAJOR) the plugin was built with.
    pub abi_major: u32,
    /// [`ABI_MINOR`](super::ABI_MINOR) the plugin was built with.
    pub abi_minor: u32,
    /// The manifest as JSON: the same text as in the file's manifest section.
    pub manifest: RStr<'static>,
    /// The plugin's functions.
    #[sabi(last_prefix_field)]
    pub table: PluginTableRef,
}

impl RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "plugin";
    const NAME: &'static str = "plugin";
    const VERSION_STRINGS: VersionStrings = abi_stable::package_version_strings!();
}
