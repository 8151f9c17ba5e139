//! Accuracy against sums in `f64`, and every promise of the module. Without a tile unit there is nothing to test, and nothing is.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::ops::gemm::Rows as MadeRows;
use crate::random::Stream;

fn values(count: usize, seed: u64) -> Vec<f32> {
    Stream::new(seed, "amx").normals(count)
}

/// Numbers as memory that a product writes.
fn memory(numbers: &mut [f32]) -> &mut [MaybeUninit<f32>] {
    // SAFETY: the layout is one, and a product only ever writes numbers.
    unsafe { &mut *(std::ptr::from_mut(numbers) as *mut [MaybeUninit<f32>]) }
}

/// Both factors row-major, the result too.
fn run(
    left: &[f32],
    right: &[f32],
    [m, n, k]: [usize; 3],
    start: Option<&[f32]>,
    scale: f32,
    threads: Threads,
) -> Vec<f32> {
    let mut out = start.map_or_else(|| vec![f32::NAN; m * n], <[f32]>::to_vec);
    let begin = match start {
        Some(_) => Start::Current,
        None => Start::Zero,
    };
    let (left, right) = (Matrix::new(left, m, k), Matrix::new(right, k, n));
    product(
        memory(&mut out),
        n,
        left,
        Right::Stored(right),
        begin,
        scale,
        threads,
    );
    out
}

/// The same by the definition, in `f64`; and, element by element, the sum of the magnitudes of what is added.
fn exact(left: &[f32], right: &[f32], [m, n, k]: [usize; 3]) -> (Vec<f64>, Vec<f64>) {
    let mut sums = (vec![0.0; m * n], vec![0.0; m * n]);
    for i in 0..m {
        for p in 0..k {
            let x = f64::from(left[i * k + p]);
            for j in 0..n {
                let term = x * f64::from(right[p * n + j]);
                sums.0[i * n + j] += term;
                sums.1[i * n + j] += term.abs();
            }
        }
    }
    sums
}

/// The same with the crate `gemm`.
fn on_vectors(left: &[f32], right: &[f32], [m, n, k]: [usize; 3]) -> Vec<f32> {
    let mut out = vec![0.0; m * n];
    // SAFETY: three row-major matrices of the sizes given.
    unsafe {
        let parallelism = gemm::Parallelism::None;
        let (n_, k_) = (n as isize, k as isize);
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            n_,
            false,
            left.as_ptr(),
            1,
            k_,
            right.as_ptr(),
            1,
            n_,
            0.0f32,
            1.0f32,
            false,
            false,
            false,
            parallelism,
        );
    }
    out
}

fn tiles_are_here() -> bool {
    tiles::refusal().is_none()
}

const ODD: [[usize; 3]; 6] = [
    [32, 32, 32],
    [1, 1, 1],
    [33, 65, 97],
    [100, 47, 1100],
    [31, 500, 16],
    [70, 33, 513],
];

#[test]
fn errors_are_those_of_f32() {
    if !tiles_are_here() {
        return;
    }
    let wild = |x: Vec<f32>, by: u32| -> Vec<f32> {
        x.into_iter()
            .enumerate()
            .map(|(i, x)| x * 2f32.powi((i as u32 * 7919 % by) as i32 - by as i32 / 2))
            .collect()
    };
    for size in ODD.into_iter().chain([[64, 64, 4096]]) {
        let [m, n, k] = size;
        let plain = (values(m * k, 1), values(k * n, 2));
        let scaled = (wild(plain.0.clone(), 60), wild(plain.1.clone(), 40));
        let positive = (
            plain.0.iter().map(|x| x.abs()).collect(),
            plain.1.iter().map(|x| x.abs()).collect(),
        );
        for (left, right) in [plain, scaled, positive] {
            let (sums, magnitudes) = exact(&left, &right, size);
            let worst = |found: Vec<f32>| {
                found
                    .iter()
                    .zip(&sums)
                    .zip(&magnitudes)
                    .map(|((x, sum), size)| (f64::from(*x) - sum).abs() / size)
                    .fold(0.0, f64::max)
            };
            let (ours, theirs) = (
                worst(run(&left, &right, size, None, 1.0, Threads::One)),
                worst(on_vectors(&left, &right, size)),
            );
            // Half a unit in the last place, and what is left out of a product, must be allowed to sums of one term.
            assert!(
                ours <= 2.0 * theirs.max(2f64.powi(-24)) + 2f64.powi(-23),
                "{size:?}: {ours:e}, on vectors {theirs:e}"
            );
        }
    }
}

#[test]
fn integers_are_exact() {
    if !tiles_are_here() {
        return;
    }
    for size in ODD {
        let [m, n, k] = size;
        // Of up to 12 bits on the left, so that two parts are needed, and of 2 on the right: sums stay below 2^24.
        let integers = |count: usize, seed: u64, most: f32| -> Vec<f32> {
            let integer = |x: f32| (x * most / 2.0).round().clamp(-most, most);
            values(count, seed).into_iter().map(integer).collect()
        };
        let (left, right) = (integers(m * k, 3, 4000.0), integers(k * n, 4, 3.0));
        let (sums, _) = exact(&left, &right, size);
        let found = run(&left, &right, size, None, 1.0, Threads::One);
        assert!(
            found
                .iter()
                .zip(&sums)
                .all(|(x, sum)| f64::from(*x) == *sum),
            "{size:?}"
        );
    }
}

#[test]
fn one_by_a_number_is_the_number() {
    if !tiles_are_here() {
        return;
    }
    let identity: Vec<f32> = (0..64 * 64)
        .map(|i| f32::from(u8::from(i / 64 == i % 64)))
        .collect();
    let numbers: Vec<f32> = values(64 * 64, 5)
        .iter()
        .enumerate()
        .map(|(i, x)| x * 10f32.powi(i as i32 % 50 - 25))
        .collect();
    let size = [64, 64, 64];
    assert_eq!(
        run(&identity, &numbers, size, None, 1.0, Threads::One),
        numbers
    );
    assert_eq!(
        run(&numbers, &identity, size, None, 1.0, Threads::One),
        numbers
    );
}

#[test]
fn starts_and_scales_are_honoured() {
    if !tiles_are_here() {
        return;
    }
    for size in ODD {
        let [m, n, k] = size;
        let (left, right, start) = (values(m * k, 6), values(k * n, 7), values(m * n, 8));
        let (sums, _) = exact(&left, &right, size);
        let close = |found: &[f32], base: &dyn Fn(usize) -> f32| {
            for (i, x) in found.iter().enumerate() {
                let expected = f64::from(base(i)) - 0.7 * sums[i];
                assert!(
                    (f64::from(*x) - expected).abs() < 2e-6 * (k as f64).sqrt() + 1e-5,
                    "{size:?}[{i}]: {x} is not {expected}"
                );
            }
        };
        close(
            &run(&left, &right, size, Some(&start), -0.7, Threads::One),
            &|i| start[i],
        );
        // Rows that lie apart, of which what is between stays.
        let mut out = vec![7.0; m * (n + 3)];
        let (left, right) = (Matrix::new(&left, m, k), Matrix::new(&right, k, n));
        product(
            memory(&mut out),
            n + 3,
            left,
            Right::Stored(right),
            Start::Row(&start[..n]),
            -0.7,
            Threads::One,
        );
        let rows: Vec<f32> = out
            .chunks_exact(n + 3)
            .flat_map(|row| row[..n].to_vec())
            .collect();
        close(&rows, &|i| start[i % n]);
        assert!(out.chunks_exact(n + 3).all(|row| row[n..] == [7.0; 3]));
    }
}

/// A matrix that is made row by row.
struct Made(Vec<f32>, [usize; 2]);

impl MadeRows for Made {
    fn size(&self) -> [usize; 2] {
        self.1
    }

    fn fill(&self, row: usize, first: usize, out: &mut [f32]) {
        out.copy_from_slice(&self.0[row * self.1[1] + first..][..out.len()]);
    }
}

#[test]
fn factors_of_any_strides_give_the_same_bits() {
    if !tiles_are_here() {
        return;
    }
    for size in ODD {
        let [m, n, k] = size;
        let (left, right) = (values(m * k, 9), values(k * n, 10));
        let expected = run(&left, &right, size, None, 1.0, Threads::One);
        // In order, transposed, and with gaps both ways.
        let layouts = |x: &[f32], [rows, columns]: [usize; 2]| {
            [[columns, 1], [1, rows], [2 * columns, 2], [3, 3 * rows]].map(|[by_row, by_column]| {
                let mut data = vec![f32::NAN; (rows - 1) * by_row + (columns - 1) * by_column + 1];
                for (i, x) in x.iter().enumerate() {
                    data[i / columns * by_row + i % columns * by_column] = *x;
                }
                (data, [rows, columns], [by_row, by_column])
            })
        };
        let multiply = |left: Matrix<'_>, right: Right<'_>| {
            let mut out = vec![f32::NAN; m * n];
            product(
                memory(&mut out),
                n,
                left,
                right,
                Start::Zero,
                1.0,
                Threads::One,
            );
            assert!(out == expected, "{size:?}");
        };
        let rights = layouts(&right, [k, n]);
        for (data, size, stride) in layouts(&left, [m, k]) {
            let left = Matrix::strided(&data, size, stride);
            for (data, size, stride) in &rights {
                multiply(left, Right::Stored(Matrix::strided(data, *size, *stride)));
            }
        }
        let left = Matrix::new(&left, m, k);
        multiply(left, Right::Made(&Made(right.clone(), [k, n])));
        multiply(
            left,
            Right::MadeTransposed(&Made(rights[1].0.clone(), [n, k])),
        );
    }
}

#[test]
fn threads_and_pieces_do_not_change_a_bit() {
    if !tiles_are_here() {
        return;
    }
    for size in [[300, 200, 700], [40, 1700, 1100]] {
        let [m, n, k] = size;
        let (left, right) = (values(m * k, 11), values(k * n, 12));
        let whole = run(&left, &right, size, None, 1.0, Threads::One);
        for threads in [1, 3, 16] {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .unwrap();
            let found = pool.install(|| run(&left, &right, size, None, 1.0, Threads::All));
            assert!(found == whole, "{size:?}, {threads} threads");
        }
        let first = 7;
        let piece = run(
            &left[first * k..],
            &right,
            [m - first, n, k],
            None,
            1.0,
            Threads::One,
        );
        assert!(piece == whole[first * n..], "{size:?}, rows from {first}");
    }
}

#[test]
fn what_is_not_finite_spreads_as_on_vectors() {
    if !tiles_are_here() {
        return;
    }
    let size = [40, 70, 600];
    let [m, n, k] = size;
    // Ones have parts that are zero, by which an infinite part would be undefined.
    let (mut left, mut right) = (vec![1.0; m * k], vec![1.0; k * n]);
    left[3 * k + 550] = f32::INFINITY;
    left[35 * k + 2] = f32::NAN;
    right[17 * n + 66] = f32::NEG_INFINITY;
    let found = run(&left, &right, size, None, 1.0, Threads::One);
    let (expected, _) = exact(&left, &right, size);
    for (i, (x, expected)) in found.iter().zip(&expected).enumerate() {
        let same = f64::from(*x) == *expected || x.is_nan() && expected.is_nan();
        assert!(same, "[{}, {}]: {x} is not {expected}", i / n, i % n);
    }
}
