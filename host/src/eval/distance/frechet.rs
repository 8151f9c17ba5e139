//! The Frechet distance between two sets of features, each taken for a normal distribution (Heusel et al., NeurIPS 2017).

use nalgebra::{DMatrix, SymmetricEigen};

use crate::eval::Error;
use crate::eval::features::{Features, check_pair};

/// The distance and its two parts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frechet {
    /// `mean + covariance`.
    pub distance: f64,
    /// `|m1 - m2|²`: how far apart the sets lie.
    pub mean: f64,
    /// `Tr(S1 + S2 - 2 (S1 S2)^½)`: how differently they spread.
    pub covariance: f64,
}

/// `|m1 - m2|² + Tr(S1 + S2 - 2 (S1 S2)^½)` with the sample covariances (divided by N - 1), as pytorch-fid has it.
///
/// The trace of the root is the sum of the roots of the eigenvalues of `Aᵀ S2 A` for any `A` with `A Aᵀ = S1`, which are those of `S1 S2` and of
/// `S1^½ S2 S1^½`. The matrix is symmetric and has no negative eigenvalue but by rounding, so no imaginary part has to be thrown away and no multiple of the
/// identity added where a covariance is singular.
///
/// # Errors
/// Features of different networks, or fewer than 2 images in a set.
pub fn frechet(generated: &Features, reference: &Features) -> Result<Frechet, Error> {
    check_pair(generated, reference)?;
    for (what, set) in [("generated", generated), ("reference", reference)] {
        if set.count() < 2 {
            return Err(Error::TooFew {
                what,
                count: set.count(),
                least: 2,
            });
        }
    }
    let mean = (generated.mean() - reference.mean()).norm_squared();
    let (a, b) = (deviations(generated), deviations(reference));
    let traces = a.norm_squared() + b.norm_squared();
    // S1 = A Aᵀ, and the fewer columns A has, the smaller is the matrix of which eigenvalues are wanted.
    let a = if a.ncols() <= a.nrows() {
        a
    } else {
        root(&a * a.transpose())
    };
    let product = b.transpose() * a; // [N2, columns of A], whose squares are Aᵀ S2 A
    let product = product.tr_mul(&product);
    let roots: f64 = product
        .symmetric_eigenvalues()
        .iter()
        .map(|value| value.max(0.0).sqrt())
        .sum();
    let covariance = traces - 2.0 * roots;
    Ok(Frechet {
        distance: mean + covariance,
        mean,
        covariance,
    })
}

/// `A [dimensions, count]` such that `A Aᵀ` is the covariance: the centred features over the root of `count - 1`.
fn deviations(features: &Features) -> DMatrix<f64> {
    let mean = features.mean();
    let mut columns = features.matrix().transpose();
    for mut column in columns.column_iter_mut() {
        column -= &mean;
    }
    columns / ((features.count() - 1) as f64).sqrt()
}

/// The root of a symmetric matrix without negative eigenvalues but by rounding.
fn root(matrix: DMatrix<f64>) -> DMatrix<f64> {
    let SymmetricEigen {
        eigenvectors,
        eigenvalues,
    } = matrix.symmetric_eigen();
    let mut scaled = eigenvectors.clone();
    for (mut column, value) in scaled.column_iter_mut().zip(eigenvalues.iter()) {
        column *= value.max(0.0).sqrt();
    }
    scaled * eigenvectors.transpose()
}
