//! The kernel distance (KID) between two sets of features: the maximum mean discrepancy under a cubic kernel (Binkowski et al., ICLR 2018).

use nalgebra::DMatrix;
use rayon::prelude::*;

use crate::eval::Error;
use crate::eval::features::{Features, check_pair};
use crate::random::Stream;

/// How many subsets the estimate is taken over, where the sets are large enough for several to differ.
pub const SUBSETS: usize = 100;
/// The most images of each set in a subset.
pub const SUBSET_SIZE: usize = 1000;

/// An estimate and how it varies over the subsets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kernel {
    /// Mean over the subsets; around 0, below it too, for sets of one distribution.
    pub mean: f64,
    /// Standard deviation over the subsets (divided by their number).
    pub std: f64,
    /// Images of each set in a subset.
    pub subset_size: usize,
}

/// The unbiased estimate of the squared maximum mean discrepancy under `k(x, y) = (x · y / d + 1)³`, its mean and standard deviation over [`SUBSETS`]
/// subsets of each set. A subset holds at most [`SUBSET_SIZE`] images of each set and never all of the smaller one, so that the spread says something:
/// at most half of it.
///
/// # Errors
/// Features of different networks, or fewer than 4 images in a set.
pub fn kernel(generated: &Features, reference: &Features, seed: u64) -> Result<Kernel, Error> {
    let least = generated.count().min(reference.count());
    let size = (least / 2).min(SUBSET_SIZE);
    if size < 2 {
        let (what, count) = match generated.count() == least {
            true => ("generated", least),
            false => ("reference", least),
        };
        return Err(Error::TooFew {
            what,
            count,
            least: 4,
        });
    }
    over_subsets(generated, reference, SUBSETS, size, seed)
}

/// As [`kernel`], over `subsets` subsets of `size` images.
pub(super) fn over_subsets(
    generated: &Features,
    reference: &Features,
    subsets: usize,
    size: usize,
    seed: u64,
) -> Result<Kernel, Error> {
    check_pair(generated, reference)?;
    let estimates: Vec<f64> = (0..subsets)
        .into_par_iter()
        .map(|subset| {
            let pick = |set: &Features, name: &str| {
                let mut stream = Stream::new(seed, &format!("eval/kernel/{subset}/{name}"));
                set.select(&without_replacement(set.count(), size, &mut stream))
                    .matrix()
            };
            discrepancy(&pick(generated, "generated"), &pick(reference, "reference"))
        })
        .collect();
    let count = subsets as f64;
    let mean = estimates.iter().sum::<f64>() / count;
    let variance = estimates.iter().map(|e| (e - mean).powi(2)).sum::<f64>() / count;
    Ok(Kernel {
        mean,
        std: variance.sqrt(),
        subset_size: size,
    })
}

/// The unbiased estimate for two sets of as many images, `[M, D]` each: the diagonal of the kernel within a set does not count.
fn discrepancy(x: &DMatrix<f64>, y: &DMatrix<f64>) -> f64 {
    let (count, width) = (x.nrows() as f64, x.ncols() as f64);
    let cubed = |product: f64| (product / width + 1.0).powi(3);
    let total = |a: &DMatrix<f64>, b: &DMatrix<f64>| -> f64 {
        (a * b.transpose()).iter().map(|&p| cubed(p)).sum()
    };
    let diagonal =
        |a: &DMatrix<f64>| -> f64 { a.row_iter().map(|row| cubed(row.norm_squared())).sum() };
    let within = total(x, x) - diagonal(x) + total(y, y) - diagonal(y);
    within / (count * (count - 1.0)) - 2.0 * total(x, y) / (count * count)
}

/// `size` different numbers below `count`, by the first steps of Fisher and Yates's shuffle.
fn without_replacement(count: usize, size: usize, stream: &mut Stream) -> Vec<usize> {
    let mut places: Vec<usize> = (0..count).collect();
    for at in 0..size {
        let other = at + stream.below(count - at);
        places.swap(at, other);
    }
    places.truncate(size);
    places
}
