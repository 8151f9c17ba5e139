//! Brings a block of sums to where the results go.

use std::arch::asm;
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

/// Where a block of sums goes.
#[derive(Clone, Copy)]
pub(super) struct Target {
    pub(super) base: Base,
    pub(super) scale: f32,
    /// The first result; rows lie `stride` elements apart.
    pub(super) data: *mut f32,
    pub(super) stride: usize,
    /// How many of the block are there.
    pub(super) rows: usize,
    pub(super) columns: usize,
}

/// Half rows of a block: what is finished at a time.
pub(super) const HALVES: usize = 2 * SIDE;

impl Target {
    /// A block of which nothing is there.
    pub(super) const NOWHERE: Self = Self {
        base: Base::Nothing,
        scale: 0.0,
        data: std::ptr::null_mut(),
        stride: 0,
        rows: 0,
        columns: 0,
    };

    /// `base + scale sums`, of half a row of the block.
    ///
    /// # Safety
    /// The processor must have AVX-512 F. The block must be valid for writes, for reads where it is the base; a row that is the base, for reads of as many columns.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(super) unsafe fn finish(&self, sums: &Sums, index: usize) {
        let (row, half) = (index / 2, index % 2 * 16);
        if row >= self.rows {
            return;
        }
        let mask: __mmask16 = match self.columns.saturating_sub(half) {
            16.. => !0,
            columns => (1 << columns) - 1,
        };
        let to = self.data.wrapping_add(row * self.stride + half);
        // SAFETY: the caller's promise; the mask leaves out what is beyond the columns. Half a row of sums is 16 numbers.
        unsafe {
            let sums = _mm512_loadu_ps(sums.0.as_ptr().add(row * SIDE + half));
            let base = match self.base {
                Base::Nothing => _mm512_setzero_ps(),
                Base::Destination => _mm512_maskz_loadu_ps(mask, to),
                Base::Row(row) => _mm512_maskz_loadu_ps(mask, row.wrapping_add(half)),
            };
            let scale = _mm512_set1_ps(self.scale);
            _mm512_mask_storeu_ps(to, mask, _mm512_fmadd_ps(sums, scale, base));
        }
    }

    /// Has the memory of half a row fetched, to be written soon.
    #[inline]
    pub(super) fn fetch(&self, index: usize) {
        let to = self
            .data
            .wrapping_add(index / 2 * self.stride + index % 2 * 16);
        // SAFETY: fetching has no effect but on time, wherever it points; every processor with tiles has the instruction.
        unsafe { asm!("prefetchw [{}]", in(reg) to, options(nostack, readonly, preserves_flags)) };
    }
}
