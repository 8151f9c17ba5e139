//! The number of threads of computation, decided once before the first of them starts.

/// Lets everything compute with `threads` threads; 0 leaves the choice to the number of cores.
///
/// Must come before any computation and while the process has one thread.
pub(super) fn set(threads: usize) {
    if threads > 0 {
        // candle and gemm read this variable at each product, rayon when its pool starts: one place for all three.
        // SAFETY: commands call this first, before any thread is started that could read the environment at the same time.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    }
}
