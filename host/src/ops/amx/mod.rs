//! Products of `f32` matrices on the tile unit (Intel AMX), which multiplies bf16 only, sixteen times as fast as vectors multiply `f32`.
//!
//! Each number is split into three bf16 parts that add up to it exactly (`pack.rs`), and the six products of parts that matter at the accuracy of `f32` are summed in
//! the unit's `f32` accumulators (`tiles.rs`): of a product of two numbers less than 2^-22 of it is left out, of either sign and 2^-25 in the mean, and there
//! are fewer roundings than in a sum of as many terms. The unit takes numbers below 2^-126 for zero: of numbers below 2^-103 the last bits are lost, results below 2^-126
//! are 0. An infinite or undefined element has no parts; what it takes part in is computed one by one (`exceptional`).
//!
//! Every element is a sum in the order of its terms alone: the same bits for any number of threads and wherever the rows and columns lie in the matrix.

mod finish;
mod lineup;
mod pack;
mod tiles;

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rayon::prelude::*;

use super::gemm::{Matrix, Right, Start, Threads};
use finish::{Base, HALVES, Target};
use lineup::{Order, Part, Scratch};
use pack::{Block, FEW};
use tiles::{DEPTH, SIDE, STEP, Sums, Tiles};

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

/// Whether the product of an `m` by `k` and a `k` by `n` matrix is faster here than on vectors. Measured: small ones are not, nor those of which the unit's blocks
/// are mostly padding, nor those with so few columns that packing the left factor takes longer than multiplying.
pub(super) fn takes([m, n, k]: [usize; 3]) -> bool {
    let padded = [m, n, k]
        .map(|x| x.next_multiple_of(SIDE))
        .iter()
        .product::<usize>();
    m >= 24
        && n >= 48
        && k >= 24
        && m * n * k >= 1 << 17
        && 4 * padded <= 7 * m * n * k
        && refusal().is_none()
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
    let pack = |matrix: Matrix<'_>,
                [row, column]: [usize; 2],
                [panel, step]: [usize; 2],
                scratch: &mut Scratch| {
        let size = [
            DEPTH.min(terms.len() - step * DEPTH),
            SIDE.min(columns.len() - panel * SIDE),
        ];
        // The next but one, in either order of packing.
        let part = Part::new(matrix, [row, column], size, 2 * SIDE);
        (0..Order::of(matrix).pieces()).for_each(|piece| scratch.line_up(&part, piece));
        let at = (panel * steps + step) * STEP;
        // SAFETY: the tile unit is only found beside AVX-512. The block was taken from a live matrix. The memory has a piece for each panel and step, and each of these
        // is packed once.
        unsafe {
            let to = packed.at(at);
            if pack::right(scratch.lined_up(&part), to) {
                let block = std::slice::from_raw_parts(to, STEP);
                strange[panel].fetch_or(pack::strange_columns(block), Ordering::Relaxed);
            }
        }
    };
    let place =
        |panel: usize, step: usize| [terms.start + step * DEPTH, columns.start + panel * SIDE];
    match right {
        Right::Stored(matrix) if Order::of(matrix) == Order::Rows => threads.each(steps, |step| {
            let mut scratch = Scratch::new();
            for panel in 0..panels {
                pack(matrix, place(panel, step), [panel, step], &mut scratch);
            }
        }),
        Right::Stored(matrix) => threads.each(panels, |panel| {
            let mut scratch = Scratch::new();
            for step in 0..steps {
                pack(matrix, place(panel, step), [panel, step], &mut scratch);
            }
        }),
        Right::Made(rows) => threads.each(steps, |step| {
            let mut scratch = Scratch::new();
            let first = terms.start + step * DEPTH;
            let count = DEPTH.min(terms.end - first);
            let mut made = vec![0.0; count * columns.len()];
            for (row, made) in made.chunks_exact_mut(columns.len()).enumerate() {
                rows.fill(first + row, columns.start, made);
            }
            let made = Matrix::new(&made, count, columns.len());
            for panel in 0..panels {
                pack(made, [0, panel * SIDE], [panel, step], &mut scratch);
            }
        }),
        Right::MadeTransposed(rows) => threads.each(panels, |panel| {
            let mut scratch = Scratch::new();
            let first = columns.start + panel * SIDE;
            let count = SIDE.min(columns.end - first);
            let mut made = vec![0.0; count * terms.len()];
            for (row, made) in made.chunks_exact_mut(terms.len()).enumerate() {
                rows.fill(first + row, terms.start, made);
            }
            let made = Matrix::new(&made, count, terms.len()).t();
            for step in 0..steps {
                pack(made, [step * DEPTH, 0], [panel, step], &mut scratch);
            }
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
    ///
    /// The tile unit works on while the processor does something else, if that is little. So, a little at a time, the sums before are brought to the results and the left
    /// factor's next rows are packed in between.
    fn piece(&self, rows: Range<usize>, panels: Range<usize>) {
        let Some(tiles) = Tiles::set_up() else {
            unreachable!("products come here only where the tiles are found")
        };
        let steps = self.terms.len().div_ceil(DEPTH);
        let pauses = steps * Tiles::PAUSES;
        with_memory(1, 2 * steps * STEP, |memory| {
            let (mut left, mut next) = memory.split_at_mut(steps * STEP);
            let mut aside = Aside {
                packer: Packer::new(self, rows.start),
                share: 0,
                sums: [const { Sums::new() }; 2],
                which: 0,
                before: Target::NOWHERE,
                target: Target::NOWHERE,
                half: 0,
                halves: HALVES.div_ceil(pauses),
            };
            aside.packer.advance(left, usize::MAX);
            for row in rows.clone() {
                let strange = aside.packer.strange;
                let more = row + 1 < rows.end;
                aside
                    .packer
                    .restart(if more { row + 1 } else { usize::MAX / SIDE - 1 });
                aside.share = aside.packer.pieces().div_ceil(pauses * panels.len());
                for panel in panels.clone() {
                    aside.target = self.target(row, panel);
                    aside.half = 0;
                    let right = &self.right[panel * steps * STEP..][..steps * STEP];
                    tiles.begin();
                    for (left, right) in left.chunks_exact(STEP).zip(right.chunks_exact(STEP)) {
                        // SAFETY: these are packed blocks. The tile unit is only found beside AVX-512; `target` says why sums may go there.
                        unsafe { tiles.add(left.as_ptr(), right.as_ptr(), || aside.some(next)) };
                    }
                    let sums = &mut aside.sums[aside.which];
                    tiles.end(sums);
                    exceptional(sums, left, right, [strange, self.strange[panel]]);
                    aside.which = 1 - aside.which;
                    aside.before = aside.target;
                }
                aside.packer.advance(next, usize::MAX);
                std::mem::swap(&mut left, &mut next);
            }
            let sums = &aside.sums[1 - aside.which];
            // SAFETY: as above.
            (0..HALVES).for_each(|half| unsafe { aside.before.finish(sums, half) });
        });
    }

    /// Where the sums of a block go. May be written while this piece of the results runs: the tile unit is only found beside AVX-512; the block lies in the results, where no
    /// other piece reads or writes it, and is initialised where the sums are added to it; a row that is the base has as many numbers as the results have columns.
    fn target(&self, row: usize, panel: usize) -> Target {
        let (row, column) = (row * SIDE, self.columns.start + panel * SIDE);
        let Results { data, stride, rows } = self.results;
        let columns = SIDE.min(self.columns.end - column);
        Target {
            base: match self.start {
                Start::Zero => Base::Nothing,
                Start::Current => Base::Destination,
                Start::Row(start) => Base::Row(start[column..][..columns].as_ptr()),
            },
            scale: self.scale,
            data: data.at(row * stride + column),
            stride,
            rows: SIDE.min(rows - row),
            columns,
        }
    }
}

/// What is done while the tile unit works.
struct Aside<'a> {
    /// Packs the left factor's next rows, at each pause so many pieces of that work.
    packer: Packer<'a>,
    share: usize,
    /// The sums of the block that is at work, and those of the one before; the former are the `which`th.
    sums: [Sums; 2],
    which: usize,
    /// Where they go.
    target: Target,
    before: Target,
    /// Halves of rows that went there, and how many go at a pause.
    half: usize,
    halves: usize,
}

impl Aside<'_> {
    /// What is done at a pause.
    ///
    /// # Safety
    /// The processor must have AVX-512 F and BW, and sums may be written to `before`.
    #[inline(never)]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn some(&mut self, next: &mut [u16]) {
        let done = &self.sums[1 - self.which];
        let end = HALVES.min(self.half + self.halves);
        for half in self.half..end {
            // SAFETY: the caller's promise.
            unsafe { self.before.finish(done, half) };
            self.target.fetch(half);
        }
        self.half = end;
        self.packer.advance(next, self.share);
    }
}

/// Packs 32 rows of the left factor, as far as it is told to.
struct Packer<'a> {
    matrix: Matrix<'a>,
    order: Order,
    all_rows: usize,
    rows: Range<usize>,
    terms: Range<usize>,
    scratch: Scratch,
    /// The block of 32 terms that is at work, none when all are done; how it is packed from, and its pieces that are done.
    part: Option<Part>,
    block: Block,
    step: usize,
    piece: usize,
    /// Whether the block holds something that is not finite; which rows of those before do.
    suspect: bool,
    strange: u32,
}

impl<'a> Packer<'a> {
    /// For the rows of a block of results.
    fn new(pass: &Pass<'a>, row: usize) -> Self {
        let mut packer = Self {
            matrix: pass.left,
            order: Order::of(pass.left),
            all_rows: pass.results.rows,
            rows: 0..0,
            terms: pass.terms.clone(),
            scratch: Scratch::new(),
            part: None,
            block: Block::NONE,
            step: 0,
            piece: 0,
            suspect: false,
            strange: 0,
        };
        packer.restart(row);
        packer
    }

    /// The same for other rows; done at once if they are not there.
    fn restart(&mut self, row: usize) {
        self.rows = (row * SIDE).min(self.all_rows)..((row + 1) * SIDE).min(self.all_rows);
        self.strange = 0;
        self.take_up(0);
    }

    /// Begins with a block.
    fn take_up(&mut self, step: usize) {
        let first = self.terms.start + step * DEPTH;
        self.step = step;
        self.piece = 0;
        self.part = (first < self.terms.end && !self.rows.is_empty()).then(|| {
            let size = [self.rows.len(), DEPTH.min(self.terms.end - first)];
            let ahead = match self.matrix.strides()[1] {
                1 => 2 * DEPTH,
                stride => DEPTH * stride,
            };
            Part::new(self.matrix, [self.rows.start, first], size, ahead)
        });
    }

    /// Pieces of work in all: some to line each block up, where that needs any, and one for every few of its rows.
    fn pieces(&self) -> usize {
        self.terms.len().div_ceil(DEPTH) * (self.order.pieces() + SIDE / FEW)
    }

    /// Does up to `count` pieces of work.
    #[inline]
    fn advance(&mut self, packed: &mut [u16], count: usize) {
        let lining_up = self.order.pieces();
        for _ in 0..count {
            let Some(part) = &self.part else {
                return;
            };
            if self.piece < lining_up {
                self.scratch.line_up(part, self.piece);
            } else {
                if self.piece == lining_up {
                    self.block = self.scratch.lined_up(part);
                }
                let packed = &mut packed[self.step * STEP..][..STEP];
                // SAFETY: the tile unit is only found beside AVX-512; the block lies in its matrix or in the scratch, and the memory is a block's.
                self.suspect |= unsafe {
                    pack::left(
                        &self.block,
                        (self.piece - lining_up) * FEW,
                        packed.as_mut_ptr(),
                    )
                };
            }
            self.piece += 1;
            if self.piece == lining_up + SIDE / FEW {
                if std::mem::take(&mut self.suspect) {
                    self.strange |= pack::strange_rows(&packed[self.step * STEP..][..STEP]);
                }
                self.take_up(self.step + 1);
            }
        }
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
