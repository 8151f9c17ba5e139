//! From a type with safe traits to a plugin file: the macro, and the functions behind the exported table.

mod log;
mod table;

#[doc(hidden)]
pub use table::{Export, abi_stable_parts, module};

/// Makes the crate a plugin file: `export_plugin!(Type: Slot, Slot, ...);` once, in a crate of type `cdylib`.
///
/// Lists every slot whose trait the type implements, by the names in [`slots`](crate::slots). A listed slot whose trait is missing is a compile error; a
/// trait implemented but not listed is never called.
///
/// The macro expands to `unsafe` code (an exported symbol and a link section), and it is this crate's, not yours: `#![forbid(unsafe_code)]`
/// in a plugin crate accepts it.
///
/// A plugin must be compiled with `panic = "unwind"` (the default): with `abort` a panic could not be reported, so it does not compile.
#[macro_export]
macro_rules! export_plugin {
    ($plugin:ty : $($slot:ident),+ $(,)?) => {
        const _: () = {
            #[cfg(panic = "abort")]
            ::core::compile_error!(
                "a plugin must be compiled with panic = \"unwind\": with \"abort\" a panic would kill the host's run"
            );

            const SPEC: $crate::manifest::ManifestSpec = $crate::manifest::ManifestSpec {
                id: <$plugin as $crate::Plugin>::ID,
                version: ::core::env!("CARGO_PKG_VERSION"),
                summary: <$plugin as $crate::Plugin>::SUMMARY,
                slots: &[$(<$crate::slots::$slot as $crate::slots::SlotMarker>::SLOT),+],
                requires: <$plugin as $crate::Plugin>::REQUIRES,
                conflicts: <$plugin as $crate::Plugin>::CONFLICTS,
                before: <$plugin as $crate::Plugin>::BEFORE,
                after: <$plugin as $crate::Plugin>::AFTER,
                ops: <$plugin as $crate::Plugin>::OPS,
                schema: <<$plugin as $crate::Plugin>::Settings as $crate::settings::Settings>::SCHEMA,
                panic: if ::core::cfg!(panic = "unwind") { "unwind" } else { "abort" },
            };

            #[used]
            #[cfg_attr(
                not(any(target_vendor = "apple", target_os = "windows")),
                unsafe(link_section = ".plugin_manifest")
            )]
            #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__manifest"))]
            #[cfg_attr(target_os = "windows", unsafe(link_section = ".plugman"))]
            static MANIFEST: [u8; SPEC.size()] = SPEC.bytes();

            impl $crate::export::Export for $plugin {
                fn manifest() -> &'static [u8] {
                    &MANIFEST
                }

                fn dispatch(
                    instance: &mut $crate::hooks::Instance<Self>,
                    slot: u32,
                    method: u32,
                    host: &$crate::Host,
                    request: $crate::abi::Packet,
                ) -> $crate::Result<$crate::abi::Packet> {
                    $(
                        if slot == <$crate::slots::$slot as $crate::slots::SlotMarker>::SLOT.code {
                            return <$crate::slots::$slot as $crate::hooks::Dispatch<Self>>::dispatch(
                                instance, method, host, request,
                            );
                        }
                    )+
                    ::core::result::Result::Err($crate::Error::Unsupported {
                        who: <$plugin as $crate::Plugin>::ID.to_owned(),
                        what: $crate::slots::Slot::by_code(slot)
                            .map_or_else(|| ::std::format!("slot {slot}"), |slot| ::std::format!("hook `{}`", slot.name)),
                        revision: method,
                    })
                }
            }

            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            pub static ROOT: $crate::export::abi_stable_parts::LibHeader =
                $crate::export::abi_stable_parts::header::<$plugin>();
        };
    };
}
