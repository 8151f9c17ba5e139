//! Brings a block of sums to where the results go.

use std::arch::x86_64::*;

use super::tiles::{SIDE, Sums};

/// What sums are added to.
#[derive(Clone, Copy)]
pub(super) enum Base {
    Nothing,
    /// What is at their destination.
    Destination,
    /// The numbers from here on, to every row.
    Row(*const f32),
}

/// `to = base + scale sums`, of the first `rows` and `columns` of a block; the rows of `to` lie `stride` elements apart.
///
/// # Safety
/// The processor must have AVX-512 F. `to` must be valid for writes of such a block, for reads where it is the base; a row that is the base, for reads of `columns`.
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn finish(
    sums: &Sums,
    scale: f32,
    base: Base,
    to: *mut f32,
    stride: usize,
    [rows, columns]: [usize; 2],
) {
    let scale = _mm512_set1_ps(scale);
    for half in [0, 16] {
        let mask: __mmask16 = match columns.saturating_sub(half) {
            16.. => !0,
            columns => (1 << columns) - 1,
        };
        let row_base = match base {
            // SAFETY: the mask leaves out what is beyond the columns.
            Base::Row(row) => unsafe { _mm512_maskz_loadu_ps(mask, row.wrapping_add(half)) },
            _ => _mm512_setzero_ps(),
        };
        for (row, sums) in sums.0.chunks_exact(SIDE).take(rows).enumerate() {
            let to = to.wrapping_add(row * stride + half);
            // SAFETY: the caller's promise; the mask leaves out what is beyond the columns. Half a row of sums is 16 numbers.
            unsafe {
                let sums = _mm512_loadu_ps(sums.as_ptr().add(half));
                let base = match base {
                    Base::Destination => _mm512_maskz_loadu_ps(mask, to),
                    _ => row_base,
                };
                _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(sums, scale, base));
            }
        }
    }
}
