//! Ctrl-C: the first asks the run to save and stop, the second stops the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of a run that was interrupted, as shells use it for SIGINT.
pub const INTERRUPTED: i32 = 130;

/// Whether someone asked to stop. Clones share the answer.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A request that follows SIGINT, SIGTERM and SIGHUP of this process.
    ///
    /// # Errors
    /// The system does not let a handler be installed, or one is installed already.
    pub fn on_signal() -> Result<Self, ctrlc::Error> {
        let cancel = Self::default();
        let requested = cancel.clone();
        ctrlc::set_handler(move || {
            if requested.0.swap(true, Ordering::SeqCst) {
                std::process::exit(INTERRUPTED);
            }
            eprintln!("\nstopping after this step; press Ctrl-C again to stop at once");
        })?;
        Ok(cancel)
    }

    /// Asks to stop.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Has someone asked?
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}
