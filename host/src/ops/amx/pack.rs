//! Factors as the tile unit takes them: each `f32` in three parts of bf16, block by block.
//!
//! A part is the upper half of the bits of what the parts before it leave, 8 bits of the significand each, 24 in all, so that the three add up to the number exactly
//! (Henry, Tang and Heinecke 2019, "Leveraging the bfloat16 Artificial Intelligence Datatype For Higher-Precision Computations"). The middle one is rounded, so that the
//! last has either sign, and what is left out of products none on average. The leading one is not, since large numbers would become infinite.
//!
//! A packed block has `STEP` elements: for each part two tiles, 16 rows of 16 pairs each. The unit multiplies pairs of terms; term 0 is paired with 16, 1 with 17,
//! and so on, which costs the fewest instructions here. The left factor's tiles have its rows 0 to 15 and 16 to 31, each row the pairs of its terms. The right
//! factor's have its columns 0 to 15 and 16 to 31, each row the pairs of two rows' elements.

use std::arch::x86_64::*;

use super::tiles::{DEPTH, PART, PARTS, SIDE};

/// A block of a factor as it lies in memory: at most 32 rows of at most 32 elements, rows `stride` apart.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) data: *const f32,
    pub(super) stride: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    /// How many elements further the memory lies that is packed soon: fetched meanwhile.
    pub(super) ahead: usize,
}

impl Block {
    /// A block of which nothing is there.
    pub(super) const NONE: Self = Self {
        data: std::ptr::null(),
        stride: 0,
        rows: 0,
        columns: 0,
        ahead: 0,
    };

    fn whole(&self) -> bool {
        self.rows == SIDE && self.columns == SIDE
    }

    /// Columns 0 to 15 of a row, or 16 to 31; zeros where there is nothing. Has what lies further ahead fetched.
    ///
    /// # Safety
    /// The processor must have AVX-512 F. The block must be valid for reads, and whole if so called.
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn load<const WHOLE: bool>(&self, row: usize, half: usize) -> __m512 {
        let from = self.data.wrapping_add(row * self.stride + 16 * half);
        // SAFETY: fetching has no effect but on time, wherever it points. The mask and the branch leave out what is beyond the block.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(from.wrapping_add(self.ahead).cast());
            if WHOLE {
                return _mm512_loadu_ps(from);
            }
            if row >= self.rows {
                return _mm512_setzero_ps();
            }
            let mask: __mmask16 = match self.columns.saturating_sub(16 * half) {
                16.. => !0,
                columns => (1 << columns) - 1,
            };
            _mm512_maskz_loadu_ps(mask, from)
        }
    }
}

/// Splits 16 numbers; the parts are in the upper halves of the elements, and all bits of the last.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn split(x: __m512) -> [__m512i; PARTS] {
    let upper = _mm512_set1_epi32(0xffff_0000_u32.cast_signed());
    let high = _mm512_and_si512(_mm512_castps_si512(x), upper);
    let rest = _mm512_sub_ps(x, _mm512_castsi512_ps(high));
    let rounded = _mm512_add_epi32(_mm512_castps_si512(rest), _mm512_set1_epi32(0x8000));
    let middle = _mm512_and_si512(rounded, upper);
    let last = _mm512_sub_ps(rest, _mm512_castsi512_ps(middle));
    [high, middle, _mm512_castps_si512(last)]
}

/// Two numbers' parts in one element each: those of the first in the lower half.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn pairs(x: __m512i, y: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_srli_epi32::<16>(x), y)
}

/// Rows that [`left`] packs.
pub(super) const FEW: usize = 4;

/// Packs a few rows of a block of the left factor, from `first` on; what is not there is zero. True if an element is infinite or no number: these have no parts.
///
/// # Safety
/// The processor must have AVX-512 F and BW. The block must be valid for reads, and `to` for writes of `STEP` elements; `first` at most `SIDE - FEW`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn left(block: &Block, first: usize, to: *mut u16) -> bool {
    // SAFETY: the caller's promises.
    unsafe {
        match block.whole() {
            true => left_of::<true>(block, first, to),
            false => left_of::<false>(block, first, to),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn left_of<const WHOLE: bool>(block: &Block, first: usize, to: *mut u16) -> bool {
    let mut strange = _mm512_setzero_ps();
    for row in first..first + FEW {
        // SAFETY: the caller's promises.
        let (x, y) = unsafe { (block.load::<WHOLE>(row, 0), block.load::<WHOLE>(row, 1)) };
        let (x, y) = (split(x), split(y));
        for part in 0..PARTS {
            // SAFETY: rows of 32 elements, 32 of them a part, within the `STEP` elements of the caller.
            unsafe {
                let to = to.add(part * PART + row * DEPTH);
                _mm512_storeu_si512(to.cast(), pairs(x[part], y[part]));
            }
        }
        strange = watch(strange, x[2], y[2]);
    }
    _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(strange, strange) != 0
}

/// Packs a block of the right factor, whose rows are terms of the sums and whose columns are the result's.
///
/// # Safety
/// As [`left`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn right(block: Block, to: *mut u16) -> bool {
    // SAFETY: the caller's promises.
    unsafe {
        match block.whole() {
            true => right_of::<true>(block, to),
            false => right_of::<false>(block, to),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn right_of<const WHOLE: bool>(block: Block, to: *mut u16) -> bool {
    let mut strange = _mm512_setzero_ps();
    for row in 0..DEPTH / 2 {
        for half in 0..2 {
            // SAFETY: the caller's promises.
            let (x, y) = unsafe {
                (
                    block.load::<WHOLE>(row, half),
                    block.load::<WHOLE>(row + DEPTH / 2, half),
                )
            };
            let (x, y) = (split(x), split(y));
            for part in 0..PARTS {
                // SAFETY: 16 rows of 32 elements each half, two halves a part, within the `STEP` elements of the caller.
                unsafe {
                    let to = to.add(part * PART + half * (PART / 2) + row * 32);
                    _mm512_storeu_si512(to.cast(), pairs(x[part], y[part]));
                }
            }
            strange = watch(strange, x[2], y[2]);
        }
    }
    _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(strange, strange) != 0
}

/// Becomes and stays no number where the last part is none, as it is of whatever is not finite.
#[inline]
#[target_feature(enable = "avx512f")]
fn watch(strange: __m512, x: __m512i, y: __m512i) -> __m512 {
    let last = _mm512_add_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(y));
    _mm512_add_ps(strange, last)
}

/// Quarters of a block, as [`transpose`] takes them.
pub(super) const QUARTERS: usize = 4;

/// Writes a quarter, 16 by 16, of the transpose of a block into `to`, rows of 32 elements. What is beyond the block is zero or left out.
///
/// # Safety
/// The processor must have AVX-512 F. The block must be valid for reads.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) unsafe fn transpose(block: &Block, quarter: usize, to: &mut [f32; SIDE * DEPTH]) {
    let (half, first) = (quarter / 2, quarter % 2 * 16);
    if half * 16 >= block.columns || first >= block.rows {
        return;
    }
    // SAFETY: the caller's promises.
    unsafe {
        match block.whole() {
            true => transpose_of::<true>(block, half, first, to),
            false => transpose_of::<false>(block, half, first, to),
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn transpose_of<const WHOLE: bool>(
    block: &Block,
    half: usize,
    first: usize,
    to: &mut [f32; SIDE * DEPTH],
) {
    // Within lanes of four first: `fours[i][j]` has, in lane `l`, column `4 l + j` of the rows `4 i` to `4 i + 3`.
    let mut fours = [[_mm512_setzero_ps(); 4]; 4];
    for (i, four) in fours.iter_mut().enumerate() {
        // SAFETY: the caller's promises.
        let load = |row| unsafe { block.load::<WHOLE>(first + 4 * i + row, half) };
        let [a, b, c, d] = [load(0), load(1), load(2), load(3)];
        let pair = |x, y| {
            [_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y)].map(|x| _mm512_castps_pd(x))
        };
        let ([ab, ab_high], [cd, cd_high]) = (pair(a, b), pair(c, d));
        *four = [
            _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd)),
            _mm512_castpd_ps(_mm512_unpacklo_pd(ab_high, cd_high)),
            _mm512_castpd_ps(_mm512_unpackhi_pd(ab_high, cd_high)),
        ];
    }
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    for j in 0..4 {
        let [a, b, c, d] = fours.map(|four| four[j]);
        let (ab_even, ab_odd) = (
            _mm512_shuffle_f32x4::<EVEN>(a, b),
            _mm512_shuffle_f32x4::<ODD>(a, b),
        );
        let (cd_even, cd_odd) = (
            _mm512_shuffle_f32x4::<EVEN>(c, d),
            _mm512_shuffle_f32x4::<ODD>(c, d),
        );
        let columns = [
            _mm512_shuffle_f32x4::<EVEN>(ab_even, cd_even),
            _mm512_shuffle_f32x4::<EVEN>(ab_odd, cd_odd),
            _mm512_shuffle_f32x4::<ODD>(ab_even, cd_even),
            _mm512_shuffle_f32x4::<ODD>(ab_odd, cd_odd),
        ];
        for (lane, column) in columns.into_iter().enumerate() {
            let at = (16 * half + 4 * lane + j) * DEPTH + first;
            // SAFETY: 32 rows of 32 elements; this writes 16 of one.
            unsafe { _mm512_storeu_ps(to.as_mut_ptr().add(at), column) };
        }
    }
}

/// Which rows of a packed left block hold something that is not finite.
pub(super) fn strange_rows(packed: &[u16]) -> u32 {
    (0..SIDE)
        .filter(|row| packed[row * DEPTH..][..DEPTH].iter().any(|&x| strange(x)))
        .fold(0, |rows, row| rows | 1 << row)
}

/// Which columns of a packed right block do.
pub(super) fn strange_columns(packed: &[u16]) -> u32 {
    let columns = packed[..PART].iter().enumerate();
    columns
        .filter(|&(_, &x)| strange(x))
        .fold(0, |columns, (i, _)| {
            columns | 1 << (i / (PART / 2) * 16 + i % 32 / 2)
        })
}

/// Whether a leading part is infinite or no number.
fn strange(leading: u16) -> bool {
    leading & 0x7f80 == 0x7f80
}

/// The number at `row` and `column` of a packed left block.
pub(super) fn left_at(packed: &[u16], row: usize, column: usize) -> f32 {
    whole(packed, row * DEPTH + column % 16 * 2 + column / 16)
}

/// The number at `row` and `column` of a packed right block.
pub(super) fn right_at(packed: &[u16], row: usize, column: usize) -> f32 {
    let half = column / 16 * (PART / 2);
    whole(packed, half + row % 16 * 32 + column % 16 * 2 + row / 16)
}

/// The sum of an element's parts, from the smallest: exact. What is not finite has only the leading one.
fn whole(packed: &[u16], at: usize) -> f32 {
    let part = |part: usize| f32::from_bits(u32::from(packed[part * PART + at]) << 16);
    match strange(packed[at]) {
        true => part(0),
        false => part(0) + (part(1) + part(2)),
    }
}
