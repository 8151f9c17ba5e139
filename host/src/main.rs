//! The host command; everything it does is in the library.

use libmimalloc_sys::{mi_option_set_default, mi_option_t};

/// candle allocates and frees a large buffer for every tensor; the system's allocator gives each back to the kernel and asks anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `mi_option_purge_delay` of mimalloc.h: after how many milliseconds freed memory goes back to the kernel; -1 is never.
const PURGE_DELAY: mi_option_t = 15;

fn main() -> std::process::ExitCode {
    // candle's errors print where they were made after what they say; a message here is one sentence, and RUST_BACKTRACE is for panics.
    if std::env::var_os("RUST_LIB_BACKTRACE").is_none() {
        // SAFETY: no other thread runs yet that could read the environment.
        unsafe { std::env::set_var("RUST_LIB_BACKTRACE", "0") };
    }
    // Every step takes the memory that the last one freed; given back in between, each page of it would be cleared and mapped again.
    // SAFETY: sets a number inside the allocator, which may happen at any time; the environment's MIMALLOC_PURGE_DELAY still wins.
    unsafe { mi_option_set_default(PURGE_DELAY, -1) };
    host::cli::run()
}
