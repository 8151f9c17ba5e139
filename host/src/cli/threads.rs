//! The number of threads of computation, decided once before the first of them starts.

/// Lets everything compute with `threads` threads; 0 leaves the choice to the environment and the number of cores.
///
/// Must come before any computation and while the process has one thread.
pub(super) fn set(threads: usize) {
    let mut variables = Vec::from([
        // candle's own pool, for its elementwise operations, waits by spinning: on a shared machine an operation that takes a tenth of a millisecond
        // then takes several. What is worth several threads is ours, and runs on rayon's.
        ("CANDLE_NUM_THREADS", 1),
    ]);
    if threads > 0 {
        // rayon reads it when its pool starts, candle and gemm at each product.
        variables.push(("RAYON_NUM_THREADS", threads));
    }
    for (variable, value) in variables {
        // SAFETY: commands call this first, before any thread is started that could read the environment at the same time.
        unsafe { std::env::set_var(variable, value.to_string()) };
    }
    // This thread is one of the pool's: an operation that it begins runs here at once, instead of waking another thread and waiting for it. Where the pool is already
    // there, as in tests, it stays as it is.
    let _ = rayon::ThreadPoolBuilder::new()
        .use_current_thread()
        .build_global();
}
