//! Slot `prepare`: work to do once, before the first step.

use super::hook;
use crate::{
    Host, Result,
    services::{NoIn, Nothing},
};

/// Does what comes before step 0: makes parameters, copies blocks, fills a cache, checks that the backbone suits the method.
///
/// Called once a run, also when a run resumes (then saved parameters and [`StateHook`](super::StateHook) state are restored after
/// it), and before sampling from a finished run.
pub trait PrepareHook {
    /// Prepares the plugin.
    ///
    /// # Errors
    /// Ends the run before its first step: say what to change.
    fn prepare(&mut self, host: &Host) -> Result<()>;
}

hook!(Prepare, PrepareHook, NoIn => Nothing, |plugin, _message, host| {
    plugin.prepare(host)?;
    Ok(Nothing {})
});
