//! The host command; everything it does is in the library.

fn main() -> std::process::ExitCode {
    host::cli::run()
}
