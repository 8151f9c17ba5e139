//! The functions behind a plugin's table, generic over the author's type: each one catches panics and speaks in status codes.

use std::sync::{Mutex, TryLockError};

use abi_stable::std_types::RStr;

use super::log;
use crate::{
    Error, Host, Plugin, Result,
    abi::{
        ABI_MAJOR, ABI_MINOR, Failure, HostHandle, Packet, PluginModule, PluginModuleRef,
        PluginTable, PluginTableRef, RawInstance, Status, report,
    },
    hooks::Instance,
    manifest::PREFIX,
    settings::Settings,
};

/// What `export_plugin!` implements on the author's type.
pub trait Export: Plugin {
    /// The bytes of the manifest section.
    fn manifest() -> &'static [u8];
    /// Passes a call on to the right trait.
    ///
    /// # Errors
    /// The hook's, or [`Error::Unsupported`] for a slot the plugin does not take.
    fn dispatch(
        instance: &mut Instance<Self>,
        slot: u32,
        method: u32,
        host: &Host,
        request: Packet,
    ) -> Result<Packet>;
}

/// What an instance pointer points at. The lock is never waited for: it exists to refuse a call that arrives while another one runs.
type Shared<P> = Mutex<Instance<P>>;

/// The root module of a plugin type; also how a host takes a plugin that is linked into it.
pub fn module<P: Export>() -> PluginModuleRef {
    let table = PluginTable {
        create: create::<P>,
        call: call::<P>,
        drop: drop_instance::<P>,
    };
    let table: PluginTableRef = abi_stable::prefix_type::PrefixTypeTrait::leak_into_prefix(table);
    let text = std::str::from_utf8(&P::manifest()[PREFIX..]).unwrap_or("");
    let module = PluginModule {
        abi_major: ABI_MAJOR,
        abi_minor: ABI_MINOR,
        manifest: RStr::from_str(text),
        table,
    };
    abi_stable::prefix_type::PrefixTypeTrait::leak_into_prefix(module)
}

/// The pieces of abi_stable that the macro needs, so that a plugin crate does not depend on it.
pub mod abi_stable_parts {
    pub use abi_stable::library::LibHeader;
    use abi_stable::library::RootModuleResult;

    use crate::abi::PluginModuleRef;

    // The macro must spell the symbol out, because `export_name` takes only a literal.
    const _: () = {
        let ours = b"_1as_0lib_1header_0root_bmodule_bloader";
        let theirs = abi_stable::library::ROOT_MODULE_LOADER_NAME.as_bytes();
        assert!(
            ours.len() == theirs.len(),
            "abi_stable renamed its root symbol"
        );
        let mut index = 0;
        while index < ours.len() {
            assert!(
                ours[index] == theirs[index],
                "abi_stable renamed its root symbol"
            );
            index += 1;
        }
    };

    /// The static that abi_stable looks for in a library.
    pub const fn header<P: super::Export>() -> LibHeader {
        // SAFETY: `construct` returns what abi_stable made of a `PluginModuleRef`.
        unsafe {
            LibHeader::from_constructor::<PluginModuleRef>(
                construct::<P>,
                abi_stable::library::CheckTypeLayout::Yes,
            )
        }
    }

    extern "C" fn construct<P: super::Export>() -> RootModuleResult {
        // This catches panics too.
        abi_stable::library::__call_root_module_loader(super::module::<P>)
    }
}

unsafe extern "C" fn create<P: Export>(
    settings: RStr<'_>,
    host: *const HostHandle,
    out: *mut RawInstance,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the host passes valid pointers, by `PluginTable::create`'s contract.
    let (handle, out, failure) = unsafe { (*host, &mut *out, &mut *failure) };
    let made = report(failure, || {
        log::install(P::ID, handle.services);
        // SAFETY: `handle` is the host's, and valid during this call.
        let host = unsafe { Host::from_handle(handle) };
        let plugin = P::build(P::Settings::from_json(settings.as_str())?, &host)?;
        Ok(Box::new(Mutex::new(Instance {
            plugin,
            layers: Vec::new(),
        })))
    });
    match made {
        Ok(instance) => {
            let instance: Box<Shared<P>> = instance;
            *out = RawInstance(Box::into_raw(instance).cast());
            Status::OK
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn call<P: Export>(
    instance: RawInstance,
    slot: u32,
    method: u32,
    host: *const HostHandle,
    request: *mut Packet,
    reply: *mut Packet,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the host passes valid pointers, gives `request` away, and an instance that `create` of this type made.
    let (shared, handle, request, reply, failure) = unsafe {
        (
            &*instance.0.cast::<Shared<P>>(),
            *host,
            request.read(),
            &mut *reply,
            &mut *failure,
        )
    };
    let answered = report(failure, || {
        let mut instance = match shared.try_lock() {
            Ok(instance) => instance,
            Err(TryLockError::WouldBlock) => return Err(Error::Reentrant),
            Err(TryLockError::Poisoned(_)) => {
                return Err(Error::msg(
                    "this plugin panicked earlier and is not called again",
                ));
            }
        };
        // SAFETY: `handle` is the host's, and valid during this call.
        let host = unsafe { Host::from_handle(handle) };
        P::dispatch(&mut instance, slot, method, &host, request)
    });
    match answered {
        Ok(packet) => {
            *reply = packet;
            Status::OK
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn drop_instance<P: Export>(
    instance: RawInstance,
    failure: *mut Failure,
) -> Status {
    // SAFETY: the host passes a valid pointer.
    let failure = unsafe { &mut *failure };
    let dropped = report(failure, || {
        // SAFETY: `create` of this type made the instance from a box, and the host gives it back once.
        drop(unsafe { Box::from_raw(instance.0.cast::<Shared<P>>()) });
        Ok(())
    });
    dropped.err().unwrap_or(Status::OK)
}
