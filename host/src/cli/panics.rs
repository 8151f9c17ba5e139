//! A panic of the host itself is a defect: it is told as one, politely, and ends the program with an exit code of its own.
//!
//! Panics inside plugins, and inside operations that plugins call, never arrive here: the plugin boundary contains them.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use super::failure::Failure;
use super::text::Palette;

/// The exit code of a defect; what Rust programs use for a panic.
pub(super) const DEFECT: u8 = 101;

/// What the latest panic of the main thread said. It is told only if nothing contains that panic.
static LATEST: Mutex<Option<String>> = Mutex::new(None);

/// Runs the program, and turns a panic into a message and [`DEFECT`].
pub(super) fn contain(
    palette: &Palette,
    program: impl FnOnce() -> Result<ExitCode, Failure>,
) -> Result<ExitCode, Failure> {
    let main_thread = std::thread::current().id();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let said = describe(panic);
        if std::thread::current().id() == main_thread {
            *LATEST.lock().unwrap_or_else(PoisonError::into_inner) = Some(said);
        } else {
            eprintln!("a background thread failed: {said}");
        }
    }));
    let outcome = catch_unwind(AssertUnwindSafe(program));
    std::panic::set_hook(before);
    outcome.unwrap_or_else(|_| {
        let said = LATEST.lock().unwrap_or_else(PoisonError::into_inner).take();
        let said = said.unwrap_or_else(|| "a background thread failed, as told above".to_owned());
        eprintln!(
            "{} this is a defect of the host, not of your input: {said}",
            palette.red("error:")
        );
        eprintln!(
            "{} checkpoints on disk are whole; please report the command line and the line above",
            palette.cyan("help:")
        );
        Ok(ExitCode::from(DEFECT))
    })
}

fn describe(panic: &PanicHookInfo<'_>) -> String {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic
        .location()
        .map(|location| format!(" ({}:{})", location.file(), location.line()))
        .unwrap_or_default();
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        // Only where RUST_BACKTRACE asks for it.
        BacktraceStatus::Captured => format!("{message}{place}\n{backtrace}"),
        _ => format!("{message}{place}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_of_the_host_ends_with_its_own_exit_code() {
        let palette = Palette { colours: false };
        let outcome = contain(&palette, || panic!("two and two make {}", 5));
        let code = outcome.ok().map(|code| format!("{code:?}"));
        assert_eq!(code, Some(format!("{:?}", ExitCode::from(DEFECT))));
        assert!(
            LATEST
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .is_none(),
            "told, so no longer kept"
        );
        let outcome = contain(&palette, || Ok(ExitCode::SUCCESS));
        assert!(outcome.is_ok());
    }
}
