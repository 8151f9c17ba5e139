//! The number of threads of computation, decided once before the first of them starts.

/// What the pools look at: rayon when its own starts, candle and gemm at each product, candle when the pool for its elementwise
/// operations starts, which goes by the second variable before it goes by the first.
const VARIABLES: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// Lets everything compute with `threads` threads; 0 leaves the choice to the environment and the number of cores.
///
/// Must come before any computation and while the process has one thread.
pub(super) fn set(threads: usize) {
    if threads > 0 {
        for variable in VARIABLES {
            // SAFETY: commands call this first, before any thread is started that could read the environment at the same time.
            unsafe { std::env::set_var(variable, threads.to_string()) };
        }
    }
}
