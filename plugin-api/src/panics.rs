//! Panics stop at the boundary: each guarded call turns one into an error that keeps the message, the file and the line.

use std::{
    cell::{Cell, RefCell},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Once,
};

use crate::Error;

thread_local! {
    static GUARDS: Cell<u32> = const { Cell::new(0) };
    static LAST: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

/// Installs, once for each copy of this crate's standard library, a panic hook that remembers panics of guarded calls instead of
/// printing them; panics elsewhere still reach the hook that was there before.
fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDS.with(Cell::get) == 0 {
                return previous(info);
            }
            let message = info
                .payload_as_str()
                .unwrap_or("a panic without a message")
                .to_owned();
            let location = info
                .location()
                .map_or_else(String::new, |at| format!("{}:{}", at.file(), at.line()));
            LAST.with(|last| *last.borrow_mut() = Some((message, location)));
        }));
    });
}

/// Runs `work`; a panic inside becomes [`Error::Panic`].
///
/// The caller must not look at state that `work` may have left half changed: the host stops using a plugin once a call of it panicked.
pub fn catch<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    install();
    GUARDS.with(|guards| guards.set(guards.get() + 1));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    GUARDS.with(|guards| guards.set(guards.get() - 1));
    outcome.unwrap_or_else(|payload| {
        let (message, location) = LAST
            .with(|last| last.borrow_mut().take())
            .unwrap_or_default();
        // Dropping a payload runs its author's code, which may panic in turn; leaking a few bytes cannot.
        std::mem::forget(payload);
        Err(Error::Panic { message, location })
    })
}
