//! Products of `f32` matrices on the tile unit (Intel AMX), which multiplies bf16 only, sixteen times as fast as vectors multiply `f32`.
//!
//! Each number is split into three bf16 parts that add up to it exactly (`pack.rs`), and the six products of parts that matter at the accuracy of `f32` are summed in
//! the unit's `f32` accumulators (`tiles.rs`): of a product of two numbers less than 2^-22 of it is left out, about as much as rounding takes, and there are fewer
//! roundings than in a sum of as many terms. The unit takes numbers below 2^-126 for zero: of numbers below 2^-110 the lower parts are lost, results below 2^-126
//! are 0. An infinite or undefined element has no parts; what it takes part in is computed one by one (`exceptional`).
//!
//! Every element is a sum in the order of its terms alone: the same bits for any number of threads and wherever the rows and columns lie in the matrix.

mod finish;
mod pack;
mod tiles;

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::gemm::{Matrix, Right, Start, Threads};
use finish::{Base, finish};
use pack::Block;
use tiles::{DEPTH, Rows, SIDE, STEP, Sums, Tiles};

/// Most terms that one pass over the results adds.
const PASS: usize = 512;
/// Most elements of the right factor that are packed at a time: they stay in a core's own cache.
const RIGHT: usize = 200 * 1024;

/// Why products do not run on the tile unit; none if they do. `HOST_MATMUL=vector` keeps them from it.
pub(super) fn refusal() -> Option<&'static str> {
    static REFUSAL: OnceLock<Option<&'static str>> = OnceLock::new();
    *REFUSAL.get_or_init(|| match std::env::var_os("HOST_MATMUL") {
        Some(choice) if choice == "vector" => Some("off, by HOST_MATMUL=vector"),
        _ => tiles::refusal(),
    })
}

/// Whether the product of an `m` by `k` and a `k` by `n` matrix is faster here than on vectors.
pub(super) fn takes([m, n, k]: [usize; 3]) -> bool {
    m.min(n) >= 24 && k >= 24 && m * n * k >= 1 << 18 && refusal().is_none()
}

/// Memory that several threads write, each elements of its own.
#[derive(Clone, Copy)]
struct Shared<T>(*mut T);

// SAFETY: it is a pointer; whoever writes through it says why no two threads write one element.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    fn at(self, index: usize) -> *mut T {
        self.0.wrapping_add(index)
    }
}

/// The results: rows `stride` elements apart.
#[derive(Clone, Copy)]
struct Results {
    data: Shared<f32>,
    stride: usize,
    rows: usize,
}

/// 64 bytes, aligned as the tile unit likes them.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line([u16; 32]);

thread_local! {
    /// Memory for packed factors, kept from product to product. Taken out while in use: a thread that waits for others may start another product.
    static PACKED: Cell<[Vec<Line>; 2]> = const { Cell::new([Vec::new(), Vec::new()]) };
}

/// Runs `work` with memory for `elements` packed elements, of whatever content.
fn with_memory<R>(which: usize, elements: usize, work: impl FnOnce(&mut [u16]) -> R) -> R {
    let mut kept = PACKED.take();
    let mut memory = std::mem::take(&mut kept[which]);
    PACKED.set(kept);
    let lines = elements.div_ceil(32);
    if memory.len() < lines {
        memory = vec![Line([0; 32]); lines];
    }
    // SAFETY: a line is 32 elements without gaps, and the slice is no longer than the vector.
    let packed = unsafe { std::slice::from_raw_parts_mut(memory.as_mut_ptr().cast(), elements) };
    let result = work(packed);
    let mut kept = PACKED.take();
    kept[which] = memory;
    PACKED.set(kept);
    result
}

/// Sets `out`, whose rows lie `row_stride` apart, to `start + scale left right`.
///
/// Every element is written, and read only where it is what the sum begins with.
pub(super) fn product(
    out: &mut [MaybeUninit<f32>],
    row_stride: usize,
    left: Matrix<'_>,
    right: Right<'_>,
    start: Start<'_>,
    scale: f32,
    threads: Threads,
) {
    let ([rows, depth], [_, columns]) = (left.size(), right.size());
    assert!(depth == right.size()[0] && depth > 0, "inner dimensions");
    assert!(
        row_stride >= columns && (rows - 1) * row_stride + columns <= out.len(),
        "destination too small"
    );
    if let Start::Row(start) = start {
        assert_eq!(start.len(), columns, "one number a column");
    }
    let results = Results {
        data: Shared(out.as_mut_ptr().cast()),
        stride: row_stride,
        rows,
    };
    let pass = even(depth, PASS, DEPTH);
    let width = even(columns, RIGHT / pass.next_multiple_of(DEPTH), SIDE);
    for first in (0..columns).step_by(width) {
        let columns = first..columns.min(first + width);
        for term in (0..depth).step_by(pass) {
            let terms = term..depth.min(term + pass);
            let start = match term {
                0 => start,
                _ => Start::Current,
            };
            let panel = terms.len().div_ceil(DEPTH) * STEP;
            let panels = columns.len().div_ceil(SIDE);
            with_memory(0, panels * panel, |packed| {
                let strange = pack_right(right, terms.clone(), columns.clone(), packed, threads);
                let pass = Pass {
                    left,
                    scale,
                    right: packed,
                    strange: &strange,
                    columns: columns.clone(),
                    terms,
                    start,
                    results,
                };
                pass.run(threads);
            });
        }
    }
}

/// The least even cut of `extent` into pieces of at most `most`, a multiple of `unit`.
fn even(extent: usize, most: usize, unit: usize) -> usize {
    let pieces = extent.div_ceil(most.max(unit));
    extent.div_ceil(pieces).next_multiple_of(unit)
}

/// Packs some terms and columns of the right factor: a panel of 32 columns after the other, with all its terms. The result says which columns of each hold something
/// that is not finite.
fn pack_right(
    right: Right<'_>,
    terms: Range<usize>,
    columns: Range<usize>,
    packed: &mut [u16],
    threads: Threads,
) -> Vec<u32> {
    let (steps, panels) = (terms.len().div_ceil(DEPTH), columns.len().div_ceil(SIDE));
    assert!(packed.len() >= steps * panels * STEP, "memory too small");
    let strange: Vec<AtomicU32> = (0..panels).map(|_| AtomicU32::new(0)).collect();
    let packed = Shared(packed.as_mut_ptr());
    // One block, of which `matrix` has the elements from this row and column on.
    let pack = |matrix: Matrix<'_>, row: usize, column: usize, panel: usize, step: usize| {
        let [rows, width] = [
            DEPTH.min(terms.len() - step * DEPTH),
            SIDE.min(columns.len() - panel * SIDE),
        ];
        let mut scratch = Scratch::new();
        // In both orders, the next but one block.
        let block = scratch.line_up(matrix, row..row + rows, column..column + width, 2 * SIDE);
        let at = (panel * steps + step) * STEP;
        // SAFETY: the tile unit is only found beside AVX-512. The block was taken from a live matrix. The memory has a piece for each panel and step, and each of these
        // is packed once.
        unsafe {
            let to = packed.at(at);
            if pack::right(block, to) {
                let block = std::slice::from_raw_parts(to, STEP);
                strange[panel].fetch_or(pack::strange_columns(block), Ordering::Relaxed);
            }
        }
    };
    match right {
        Right::Stored(matrix) if matrix.strides()[1] == 1 => threads.each(steps, |step| {
            for panel in 0..panels {
                let (row, column) = (terms.start + step * DEPTH, columns.start + panel * SIDE);
                pack(matrix, row, column, panel, step);
            }
        }),
        Right::Stored(matrix) => threads.each(panels, |panel| {
            for step in 0..steps {
                let (row, column) = (terms.start + step * DEPTH, columns.start + panel * SIDE);
                pack(matrix, row, column, panel, step);
            }
        }),
        Right::Made(rows) => threads.each(steps, |step| {
            let first = terms.start + step * DEPTH;
            let count = DEPTH.min(terms.end - first);
            let mut made = vec![0.0; count * columns.len()];
            for (row, made) in made.chunks_exact_mut(columns.len()).enumerate() {
                rows.fill(first + row, columns.start, made);
            }
            let made = Matrix::new(&made, count, columns.len());
            (0..panels).for_each(|panel| pack(made, 0, panel * SIDE, panel, step));
        }),
        Right::MadeTransposed(rows) => threads.each(panels, |panel| {
            let first = columns.start + panel * SIDE;
            let count = SIDE.min(columns.end - first);
            let mut made = vec![0.0; count * terms.len()];
            for (row, made) in made.chunks_exact_mut(terms.len()).enumerate() {
                rows.fill(first + row, terms.start, made);
            }
            let made = Matrix::new(&made, count, terms.len()).t();
            (0..steps).for_each(|step| pack(made, step * DEPTH, 0, panel, step));
        }),
    }
    strange.into_iter().map(AtomicU32::into_inner).collect()
}

impl Threads {
    /// Runs `work` on each index.
    fn each(self, count: usize, work: impl Fn(usize) + Sync + Send) {
        match self {
            Threads::All if rayon::current_num_threads() > 1 => {
                (0..count).into_par_iter().for_each(work);
            }
            _ => (0..count).for_each(work),
        }
    }
}

/// A block of a factor in an order that can be packed.
struct Scratch(MaybeUninit<[f32; SIDE * DEPTH]>);

impl Scratch {
    fn new() -> Self {
        Self(MaybeUninit::uninit())
    }

    /// The block at these rows and columns with the elements of its rows side by side: where they lie, or copied.
    #[inline]
    fn line_up(
        &mut self,
        matrix: Matrix<'_>,
        rows: Range<usize>,
        columns: Range<usize>,
        ahead: usize,
    ) -> Block {
        let [row_stride, column_stride] = matrix.strides();
        let (count, width) = (rows.len(), columns.len());
        let from = &matrix.data()[rows.start * row_stride + columns.start * column_stride..];
        let last = (count - 1) * row_stride + (width - 1) * column_stride;
        assert!(
            count.max(width) <= SIDE && last < from.len(),
            "a block beyond its matrix"
        );
        if column_stride == 1 {
            return Block {
                data: from.as_ptr(),
                stride: row_stride,
                rows: count,
                columns: width,
                ahead,
            };
        }
        let to = self.0.write([0.0; SIDE * DEPTH]);
        if row_stride == 1 {
            let turned = Block {
                data: from.as_ptr(),
                stride: column_stride,
                rows: width,
                columns: count,
                ahead,
            };
            // SAFETY: the tile unit is only found beside AVX-512; the assertion above is that the block lies in its matrix.
            unsafe { pack::transpose(turned, to) };
        } else {
            for (row, to) in to.chunks_exact_mut(DEPTH).take(count).enumerate() {
                for (column, to) in to.iter_mut().take(width).enumerate() {
                    *to = from[row * row_stride + column * column_stride];
                }
            }
        }
        Block {
            data: to.as_ptr(),
            stride: DEPTH,
            rows: count,
            columns: width,
            ahead: 0,
        }
    }
}

/// What adds some terms to some columns of the results.
struct Pass<'a> {
    left: Matrix<'a>,
    scale: f32,
    /// The right factor's part, packed, and which columns of its panels are not finite.
    right: &'a [u16],
    strange: &'a [u32],
    columns: Range<usize>,
    terms: Range<usize>,
    start: Start<'a>,
    results: Results,
}

impl Pass<'_> {
    /// Cuts the results into pieces, several a thread, and runs each.
    fn run(&self, threads: Threads) {
        let (rows, panels) = (
            self.results.rows.div_ceil(SIDE),
            self.columns.len().div_ceil(SIDE),
        );
        let pieces = match threads {
            Threads::One => 1,
            Threads::All => match rayon::current_num_threads() {
                1 => 1,
                threads => 8 * threads,
            },
        };
        let height = rows.div_ceil(pieces);
        let width = panels.div_ceil(pieces.div_ceil(rows));
        let across = panels.div_ceil(width);
        threads.each(rows.div_ceil(height) * across, |piece| {
            let (row, panel) = (piece / across * height, piece % across * width);
            self.piece(
                row..rows.min(row + height),
                panel..panels.min(panel + width),
            );
        });
    }

    /// A piece of the results, in blocks of 32 by 32.
    fn piece(&self, rows: Range<usize>, panels: Range<usize>) {
        let Some(tiles) = Tiles::set_up() else {
            unreachable!("products come here only where the tiles are found")
        };
        let steps = self.terms.len().div_ceil(DEPTH);
        let mut sums = Sums([0.0; SIDE * SIDE]);
        with_memory(1, steps * STEP, |left| {
            for row in rows.map(|row| row * SIDE) {
                let strange = self.pack_left(row, left);
                for panel in panels.clone() {
                    let right = &self.right[panel * steps * STEP..][..steps * STEP];
                    self.block(&tiles, [row, panel], left, right, strange, &mut sums);
                }
            }
        });
    }

    /// Packs 32 rows of the left factor, and tells which of them hold something that is not finite.
    fn pack_left(&self, row: usize, packed: &mut [u16]) -> u32 {
        let rows = row..self.results.rows.min(row + SIDE);
        let mut strange = 0;
        let mut scratch = Scratch::new();
        for (step, packed) in packed.chunks_exact_mut(STEP).enumerate() {
            let first = self.terms.start + step * DEPTH;
            let terms = first..self.terms.end.min(first + DEPTH);
            let [_, column_stride] = self.left.strides();
            let ahead = match column_stride {
                1 => 2 * DEPTH,
                stride => DEPTH * stride,
            };
            let block = scratch.line_up(self.left, rows.clone(), terms, ahead);
            // SAFETY: the tile unit is only found beside AVX-512; the block was taken from a live matrix, and the memory is a block's.
            if unsafe { pack::left(block, packed.as_mut_ptr()) } {
                strange |= pack::strange_rows(packed);
            }
        }
        strange
    }

    /// What the left factor's rows from `row` on are packed from, a step of it.
    #[inline]
    fn coming(&self, row: usize, step: usize) -> Rows {
        let [row_stride, column_stride] = self.left.strides();
        let first = row * row_stride + (self.terms.start + step * DEPTH) * column_stride;
        Rows {
            data: self.left.data().as_ptr().wrapping_add(first),
            stride: match column_stride {
                1 => row_stride,
                stride => stride,
            },
        }
    }

    /// One block of the results, at this row and panel of columns; `sums` is for its use.
    #[inline]
    fn block(
        &self,
        tiles: &Tiles,
        [row, panel]: [usize; 2],
        left: &[u16],
        right: &[u16],
        strange_rows: u32,
        sums: &mut Sums,
    ) {
        let column = self.columns.start + panel * SIDE;
        let size = [
            SIDE.min(self.results.rows - row),
            SIDE.min(self.columns.end - column),
        ];
        let stride = self.results.stride;
        let to = self.results.data.at(row * stride + column);
        let written = Rows { data: to, stride };
        let read = self.coming(row + SIDE, panel);
        let steps = left.len() / STEP;
        // SAFETY: the factors are packed, as many steps each.
        unsafe { tiles.multiply(left.as_ptr(), right.as_ptr(), steps, sums, written, read) };
        exceptional(sums, left, right, [strange_rows, self.strange[panel]]);
        let base = match self.start {
            Start::Zero => Base::Nothing,
            Start::Current => Base::Destination,
            Start::Row(start) => Base::Row(start[column..][..size[1]].as_ptr()),
        };
        // SAFETY: the tile unit is only found beside AVX-512. The block lies in the results, where no other piece reads or writes it, and is initialised where the sums
        // are added to it. A row has as many numbers as the results have columns.
        unsafe { finish(sums, self.scale, base, to, stride, size) };
    }
}

/// Computes what rows and columns with infinite or undefined elements take part in as vectors would: term by term in `f32`. Parts would make an infinite product
/// undefined, as their smaller ones may be 0.
fn exceptional(sums: &mut Sums, left: &[u16], right: &[u16], [rows, columns]: [u32; 2]) {
    if rows | columns == 0 {
        return;
    }
    for (at, sum) in sums.0.iter_mut().enumerate() {
        let (row, column) = (at / SIDE, at % SIDE);
        if (rows >> row | columns >> column) & 1 == 0 {
            continue;
        }
        *sum = 0.0;
        for (left, right) in left.chunks_exact(STEP).zip(right.chunks_exact(STEP)) {
            for term in 0..DEPTH {
                let (left, right) = (
                    pack::left_at(left, row, term),
                    pack::right_at(right, term, column),
                );
                *sum = left.mul_add(right, *sum);
            }
        }
    }
}

#[cfg(test)]
mod tests;
