//! The trait that makes a type a plugin, and the helper for tensors it keeps.

use std::ops::Deref;

use crate::{Host, Result, Tensor, ops::Op, settings::Settings};

/// A plugin: what it is called, what can be set, and how it is built. What it *does* are the hook traits it implements beside this one
/// ([`hooks`](crate::hooks)), listed in [`export_plugin!`](crate::export_plugin).
pub trait Plugin: Sized + Send + 'static {
    /// Settings; `()` for none.
    type Settings: Settings;

    /// Identity: lower-case letters, digits and `_`. The file should have the same name (`lib<id>.so`).
    const ID: &'static str;
    /// What it does, in one line, for listings.
    const SUMMARY: &'static str;
    /// Ids of plugins it cannot work without.
    const REQUIRES: &'static [&'static str] = &[];
    /// Ids of plugins it cannot work with.
    const CONFLICTS: &'static [&'static str] = &[];
    /// Ids of plugins that must come after it where both chain on one slot.
    const BEFORE: &'static [&'static str] = &[];
    /// Ids of plugins that must come before it where both chain on one slot.
    const AFTER: &'static [&'static str] = &[];
    /// Operations newer than the first version of the boundary that it cannot do without; the host then says so at load.
    const OPS: &'static [Op] = &[];

    /// Builds the plugin from settings that have been checked. Cheap: ask the host for facts ([`Host::run`], [`Host::backbone`],
    /// [`Host::process`]); the real preparations belong in [`PrepareHook`](crate::hooks::PrepareHook).
    ///
    /// # Errors
    /// For settings that do not go together: say which, and what to change.
    fn build(settings: Self::Settings, host: &Host) -> Result<Self>;
}

/// A tensor kept beyond the step that made it, cut from its graph, so that keeping it does not keep the step's memory.
#[derive(Debug, Clone)]
pub struct StoredTensor(Tensor);

impl StoredTensor {
    /// Keeps the values of `tensor`.
    ///
    /// # Errors
    /// When the host fails.
    pub fn new(tensor: &Tensor) -> Result<Self> {
        Ok(StoredTensor(tensor.detach()?))
    }
}

impl Deref for StoredTensor {
    type Target = Tensor;
    fn deref(&self) -> &Tensor {
        &self.0
    }
}
