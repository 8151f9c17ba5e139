//! The moment a plugin file becomes code in this process, and the handshake that follows.
//!
//! Only files that passed [`preflight`](super::preflight) come here. A loaded library is never unloaded: its functions, type
//! descriptions and thread-local destructors may be referred to from anywhere until the process ends.

use std::path::{Path, PathBuf};

use abi_stable::StableAbi;
use abi_stable::abi_stability::abi_checking::{
    CheckingGlobals, check_layout_compatibility_with_globals,
};
use abi_stable::library::{AbiHeaderRef, LibHeader, ROOT_MODULE_LOADER_NAME_WITH_NUL};
use abi_stable::type_layout::TypeLayout;
use plugin_api::abi::PluginModuleRef;
use plugin_api::export::Export;

use super::manifest::Manifest;
use super::preflight::Checked;

/// Why a sound plugin file did not become a plugin.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's loader refused the file.
    #[error("{} cannot be loaded: {reason}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the loader says, e.g. a symbol that is nowhere.
        reason: String,
    },
    /// The file has a manifest and no root module.
    #[error("{} has a plugin manifest but exports no plugin: build it again with `export_plugin!`", .path.display())]
    NoRootModule {
        /// The file.
        path: PathBuf,
        /// What the lookup says.
        reason: String,
    },
    /// The two sides disagree about the layout of the boundary's types.
    #[error(
        "plugin `{id}` {version} ({}) and this host describe the plugin boundary differently: build the plugin again with a released `plugin-api` 1.x",
        .path.display()
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// The plugin's id.
        id: String,
        /// The plugin's version.
        version: String,
        /// Every difference, many lines; for `--verbose`.
        details: String,
    },
    /// The root module could not be made.
    #[error("plugin `{id}` ({}) failed its handshake: {reason}", .path.display())]
    Handshake {
        /// The file.
        path: PathBuf,
        /// The plugin's id.
        id: String,
        /// What failed.
        reason: String,
    },
    /// The manifest read from the file is not the one its code reports.
    #[error("the manifest in {} is not the one its code reports: build the plugin again", .path.display())]
    ManifestDiffers {
        /// The file.
        path: PathBuf,
    },
}

/// A plugin that is code in this process now. Any number of instances can be made from it.
#[derive(Clone)]
pub struct Loaded {
    manifest: Manifest,
    pub(super) module: PluginModuleRef,
}

impl Loaded {
    /// What the plugin says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// A plugin that is linked into this program, as a host with built-in plugins or a test has them.
    ///
    /// # Errors
    /// Its manifest does not parse, which its own macro would have to have caused.
    pub fn linked<P: Export>() -> Result<Self, super::manifest::Error> {
        let module = plugin_api::export::module::<P>();
        let manifest = Manifest::from_json(module.manifest().as_str());
        let manifest = manifest.map_err(|error| super::manifest::Error::Parse {
            reason: error.to_string(),
        })?;
        Ok(Self { manifest, module })
    }
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("manifest", &self.manifest)
            .finish_non_exhaustive()
    }
}

/// Loads a checked plugin file: its constructors run, every symbol is bound at once, the boundary's layout is compared.
/// Loading one file twice gives the same code twice, which is fine.
///
/// # Errors
/// The loader refuses the file, it has no root module, or the layouts differ.
pub fn load(checked: &Checked) -> Result<Loaded, Error> {
    let path = &checked.path;
    let header = open(path)?;
    let refused = |reason: String| Error::Handshake {
        path: path.clone(),
        id: checked.manifest.id.clone(),
        reason,
    };
    let header: &'static LibHeader = header
        .upgrade()
        .map_err(|error| refused(error.to_string()))?;
    check_layout(checked, header)?;
    // SAFETY: `PluginModuleRef` is what the root module of a plugin is; the layout check just above found the library's
    // description of that type compatible with ours, in one direction at least, and prefix types make both directions safe:
    // each side reads no field past those the other side has.
    let module = unsafe { header.init_root_module_with_unchecked_layout::<PluginModuleRef>() }
        .map_err(|error| refused(error.to_string()))?;
    let reported = Manifest::from_json(module.manifest().as_str());
    if reported.ok().as_ref() != Some(&checked.manifest) {
        return Err(Error::ManifestDiffers { path: path.clone() });
    }
    Ok(Loaded {
        manifest: checked.manifest.clone(),
        module,
    })
}

/// Opens the library for ever and finds the header of its root module.
fn open(path: &Path) -> Result<AbiHeaderRef, Error> {
    let opened = |error: libloading::Error| Error::Open {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    // `RTLD_NOW`: a missing symbol must be an error here, not the end of the process in the middle of a run. `RTLD_LOCAL`:
    // two plugins must not see each other's symbols.
    // SAFETY: opening runs the file's constructors, which is code the user asked for by naming the plugin; preflight has
    // made sure that the loader maps a whole file of this machine's format.
    #[cfg(unix)]
    let library = unsafe {
        use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
        Library::open(Some(path), RTLD_NOW | RTLD_LOCAL)
    }
    .map_err(opened)?;
    // SAFETY: as above.
    #[cfg(not(unix))]
    let library = unsafe { libloading::Library::new(path) }.map_err(opened)?;
    // Leaked before anything of it is used: what follows may hand out references into it.
    let library = Box::leak(Box::new(library));
    // SAFETY: a library that exports this name does so through `export_plugin!`, which defines it as a static `LibHeader`,
    // whose first field is the `AbiHeader` that `AbiHeaderRef` points at; a symbol's value is the address of that static.
    let symbol =
        unsafe { library.get::<AbiHeaderRef>(ROOT_MODULE_LOADER_NAME_WITH_NUL.as_bytes()) };
    match symbol {
        Ok(symbol) => Ok(*symbol),
        Err(error) => Err(Error::NoRootModule {
            path: path.to_owned(),
            reason: error.to_string(),
        }),
    }
}

/// Compares the layouts of the boundary's types in both directions and accepts when one holds.
///
/// `abi_stable`'s own check demands that the library's prefix structs have at least the fields of the host's, so it refuses
/// every plugin that is older than its host; the reverse direction is what holds then. It also keeps a map for the whole
/// process that would make the answer depend on which plugins came before: hence fresh globals each time.
fn check_layout(checked: &Checked, header: &'static LibHeader) -> Result<(), Error> {
    let refused = |details: String| Error::Layout {
        path: checked.path.clone(),
        id: checked.manifest.id.clone(),
        version: checked.manifest.version.clone(),
        details,
    };
    let ours: &'static TypeLayout = <PluginModuleRef as StableAbi>::LAYOUT;
    let theirs = header
        .layout()
        .ok_or_else(|| refused("the plugin carries no layout description".to_owned()))?;
    let check = |interface, implementation| {
        check_layout_compatibility_with_globals(interface, implementation, &CheckingGlobals::new())
    };
    if let Err(forward) = check(ours, theirs)
        && check(theirs, ours).is_err()
    {
        return Err(refused(forward.to_string()));
    }
    Ok(())
}
