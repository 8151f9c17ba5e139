//! The host command; everything it does is in the library.

/// candle allocates and frees a large buffer for every tensor; the system's allocator gives each back to the kernel and asks anew.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    host::cli::run()
}
