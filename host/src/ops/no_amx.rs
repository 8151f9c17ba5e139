//! In the place of `amx` where there is no tile unit: takes no product.

use std::mem::MaybeUninit;

use super::gemm::{Matrix, Right, Start, Threads};

/// Why products do not run on a tile unit.
pub(super) fn refusal() -> Option<&'static str> {
    Some("none for this platform")
}

/// Whether a product is faster there: never.
pub(super) fn takes(_: [usize; 3]) -> bool {
    false
}

/// Never called, since nothing is taken.
pub(super) fn product(
    _: &mut [MaybeUninit<f32>],
    _: usize,
    _: Matrix<'_>,
    _: Right<'_>,
    _: Start<'_>,
    _: f32,
    _: Threads,
) {
    unreachable!("there is no tile unit on this platform")
}
