//! Matrix products on slices: on the tile unit (`super::amx`) where there is one and the product is worth it, else through the `gemm` crate (AVX-512, AVX2 or
//! NEON, chosen at run time). The choice depends on the product's size alone.
//!
//! `gemm` cuts the summed dimension by its length and cache sizes alone, so that a product does not depend on the thread count, and a piece of its rows is
//! bit for bit the rows of the whole. Tall products go to the threads in such pieces, which keeps them busier than `gemm`'s own threads.

use std::mem::MaybeUninit;

use gemm::Parallelism;
use rayon::prelude::*;

use super::amx;
use super::fresh::{Cut, build};

/// A matrix view: element `(i, j)` is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    pub(super) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self::strided(data, [rows, columns], [columns, 1])
    }

    /// A matrix of any strides. `data` must reach its last element.
    pub(super) fn strided(
        data: &'a [f32],
        [rows, columns]: [usize; 2],
        [row_stride, column_stride]: [usize; 2],
    ) -> Self {
        if rows > 0 && columns > 0 {
            let last = (rows - 1) * row_stride + (columns - 1) * column_stride;
            assert!(
                last < data.len(),
                "a {rows}x{columns} matrix ends at {last}, its data at {}",
                data.len()
            );
        }
        Self {
            data,
            rows,
            columns,
            row_stride,
            column_stride,
        }
    }

    /// The memory from the first element on.
    pub(super) fn data(&self) -> &'a [f32] {
        self.data
    }

    /// Rows and columns.
    pub(super) fn size(&self) -> [usize; 2] {
        [self.rows, self.columns]
    }

    /// Elements between rows and between columns.
    pub(super) fn strides(&self) -> [usize; 2] {
        [self.row_stride, self.column_stride]
    }

    /// Rows `first` to `first + count`.
    fn slice(self, first: usize, count: usize) -> Self {
        let data = &self.data[(first * self.row_stride).min(self.data.len())..];
        Self {
            data,
            rows: count,
            ..self
        }
    }

    /// The transposed view.
    pub(super) fn t(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// Who computes a product.
#[derive(Clone, Copy)]
pub(super) enum Threads {
    /// This thread; for products already inside a parallel loop.
    One,
    /// Rayon's pool, if the product is big enough.
    All,
}

/// A matrix that is not in memory as such: its rows are made when a product needs them.
pub(super) trait Rows: Sync {
    /// Rows and columns.
    fn size(&self) -> [usize; 2];

    /// Writes the elements of `row` from column `first` on.
    fn fill(&self, row: usize, first: usize, out: &mut [f32]);
}

/// The right factor of a product on the tile unit.
#[derive(Clone, Copy)]
pub(super) enum Right<'a> {
    Stored(Matrix<'a>),
    Made(&'a dyn Rows),
    /// The transpose of such a matrix.
    MadeTransposed(&'a dyn Rows),
}

impl Right<'_> {
    /// Rows and columns.
    pub(super) fn size(&self) -> [usize; 2] {
        match self {
            Self::Stored(matrix) => matrix.size(),
            Self::Made(rows) => rows.size(),
            Self::MadeTransposed(rows) => {
                let [columns, rows] = rows.size();
                [rows, columns]
            }
        }
    }
}

/// What the sums of a product on the tile unit begin with.
#[derive(Clone, Copy)]
pub(super) enum Start<'a> {
    /// Nothing.
    Zero,
    /// What the destination holds.
    Current,
    /// One number a column.
    Row(&'a [f32]),
}

/// What a product does with its destination.
#[derive(Clone, Copy)]
pub(super) enum Write {
    /// `out = scale lhs rhs`
    Replace { scale: f32 },
    /// `out = out + scale lhs rhs`
    Add { scale: f32 },
}

/// Fewest rows of a piece: the other operand is packed anew for each.
const PIECE: usize = 96;
/// Rows of a block that the bias is written to at a time.
const BIASED: usize = 64;
/// Multiply-adds from which a product is worth several threads.
const LARGE: usize = 1 << 20;

/// `scale lhs rhs`, row-major.
pub(super) fn fresh_product(
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    scale: f32,
    threads: Threads,
) -> Vec<f32> {
    let len = lhs.rows * rhs.columns;
    let mut out = Vec::with_capacity(len);
    let memory = &mut out.spare_capacity_mut()[..len];
    into_memory(
        memory,
        rhs.columns,
        lhs,
        rhs,
        Write::Replace { scale },
        threads,
    );
    // SAFETY: a product that replaces writes each of the `len` elements, without reading it.
    unsafe { out.set_len(len) };
    out
}

/// `lhs rhs + bias`, row-major; one number of `bias` a column.
pub(super) fn biased_product(lhs: Matrix<'_>, rhs: Matrix<'_>, bias: &[f32]) -> Vec<f32> {
    let width = rhs.columns;
    let len = lhs.rows * width;
    if amx::takes([lhs.rows, width, lhs.columns]) {
        let mut out = Vec::with_capacity(len);
        let memory = &mut out.spare_capacity_mut()[..len];
        let (rhs, start) = (Right::Stored(rhs), Start::Row(bias));
        amx::product(memory, width, lhs, rhs, start, 1.0, Threads::All);
        // SAFETY: a product writes each of the `len` elements, and reads none that its sums do not begin with.
        unsafe { out.set_len(len) };
        return out;
    }
    // The product adds to the bias, which saves a pass over the output.
    let mut out = build(len, Cut::flat(len, BIASED * width), |_, _, out| {
        out.chunks_exact_mut(width)
            .for_each(|row| row.copy_from_slice(bias));
    });
    product(
        &mut out,
        width,
        lhs,
        rhs,
        Write::Add { scale: 1.0 },
        Threads::All,
    );
    out
}

/// Writes `lhs rhs` into `out`, whose rows lie `row_stride` apart (at least `rhs.columns`).
pub(super) fn product(
    out: &mut [f32],
    row_stride: usize,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    write: Write,
    threads: Threads,
) {
    // SAFETY: `f32` and `MaybeUninit<f32>` have one layout, and `into_memory` only ever writes numbers.
    let memory = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
    into_memory(memory, row_stride, lhs, rhs, write, threads);
}

/// [`product`] with a right factor that is made for it; only for sizes that [`amx::takes`].
pub(super) fn product_with(
    out: &mut [f32],
    row_stride: usize,
    lhs: Matrix<'_>,
    rhs: Right<'_>,
    write: Write,
    threads: Threads,
) {
    let (start, scale) = match write {
        Write::Replace { scale } => (Start::Zero, scale),
        Write::Add { scale } => (Start::Current, scale),
    };
    // SAFETY: as in `product`.
    let memory = unsafe { &mut *(std::ptr::from_mut(out) as *mut [MaybeUninit<f32>]) };
    amx::product(memory, row_stride, lhs, rhs, start, scale, threads);
}

/// As [`product`]; what it adds to must be initialised.
fn into_memory(
    out: &mut [MaybeUninit<f32>],
    row_stride: usize,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    write: Write,
    threads: Threads,
) {
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    assert_eq!(k, rhs.rows, "inner dimensions");
    if m == 0 || n == 0 {
        return;
    }
    assert!(
        row_stride >= n && (m - 1) * row_stride + n <= out.len(),
        "destination too small"
    );
    let (accumulate, scale) = match write {
        Write::Replace { scale } => (false, scale),
        Write::Add { scale } => (true, scale),
    };
    if amx::takes([m, n, k]) {
        let start = match accumulate {
            true => Start::Current,
            false => Start::Zero,
        };
        let rhs = Right::Stored(rhs);
        return amx::product(out, row_stride, lhs, rhs, start, scale, threads);
    }
    on_vectors(out, row_stride, lhs, rhs, (accumulate, scale), threads);
}

/// The rest of [`into_memory`], for what is not worth the tile unit or where there is none.
fn on_vectors(
    out: &mut [MaybeUninit<f32>],
    row_stride: usize,
    lhs: Matrix<'_>,
    rhs: Matrix<'_>,
    (accumulate, scale): (bool, f32),
    threads: Threads,
) {
    let (m, n, k) = (lhs.rows, rhs.columns, lhs.columns);
    let parallelism = match (threads, rayon::current_num_threads()) {
        (Threads::One, _) | (Threads::All, 1) => Parallelism::None,
        (Threads::All, threads) if m >= 2 * threads * PIECE && m * n * k >= LARGE => {
            // Two pieces a thread, so that one that falls behind is helped out.
            let piece = m.div_ceil(2 * threads);
            out[..(m - 1) * row_stride + n]
                .par_chunks_mut(piece * row_stride)
                .enumerate()
                .for_each(|(index, out)| {
                    let first = index * piece;
                    let rows = lhs.slice(first, piece.min(m - first));
                    on_vectors(
                        out,
                        row_stride,
                        rows,
                        rhs,
                        (accumulate, scale),
                        Threads::One,
                    );
                });
            return;
        }
        (Threads::All, threads) => Parallelism::Rayon(threads),
    };
    // SAFETY: `Matrix::strided` checked that every element of both operands lies in its slice, and the assertion above that
    // every element of the destination lies in `out`, which is borrowed mutably and so overlaps neither. Strides and sizes are
    // those of live slices, so they fit in `isize`.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr().cast(),
            1,
            row_stride as isize,
            accumulate,
            lhs.data.as_ptr(),
            lhs.column_stride as isize,
            lhs.row_stride as isize,
            rhs.data.as_ptr(),
            rhs.column_stride as isize,
            rhs.row_stride as isize,
            1.0,
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(count: usize, seed: u64) -> Vec<f32> {
        crate::random::Stream::new(seed, "gemm").normals(count)
    }

    #[test]
    fn strides_scale_and_accumulation_are_honoured() {
        let (m, n, k) = (5, 7, 11);
        let (a, b) = (values(m * k, 1), values(k * n, 2));
        let mut expected = vec![0.5f32; m * n];
        for i in 0..m {
            for j in 0..n {
                expected[i * n + j] +=
                    3.0 * (0..k).map(|p| a[p * m + i] * b[p * n + j]).sum::<f32>();
            }
        }
        let mut out = vec![0.5; m * (n + 2)];
        let (a, b) = (Matrix::new(&a, k, m).t(), Matrix::new(&b, k, n));
        product(
            &mut out,
            n + 2,
            a,
            b,
            Write::Add { scale: 3.0 },
            Threads::All,
        );
        for i in 0..m {
            for j in 0..n {
                assert!((out[i * (n + 2) + j] - expected[i * n + j]).abs() < 1e-4);
            }
        }
    }

    #[test]
    fn an_empty_sum_is_zero() {
        let mut out = vec![1.0; 6];
        let (a, b) = (Matrix::new(&[], 2, 0), Matrix::new(&[], 0, 3));
        product(
            &mut out,
            3,
            a,
            b,
            Write::Replace { scale: 1.0 },
            Threads::One,
        );
        assert_eq!(out, vec![0.0; 6]);
    }

    #[test]
    fn the_thread_count_does_not_change_a_bit() {
        check_threads(300, 200, 700);
        check_threads(769, 65, 1100);
        check_threads(2 * 3 * PIECE + 1, 7, 1500);
    }

    fn check_threads(m: usize, n: usize, k: usize) {
        let (a, b) = (values(m * k, 3), values(k * n, 4));
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("a pool");
            pool.install(|| {
                let mut out = vec![0.0; m * n];
                let (a, b) = (Matrix::new(&a, m, k), Matrix::new(&b, k, n));
                product(
                    &mut out,
                    n,
                    a,
                    b,
                    Write::Replace { scale: 1.0 },
                    Threads::All,
                );
                out
            })
        };
        assert_eq!(run(1), run(3));
    }
}
