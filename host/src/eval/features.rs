//! Images as points: what a network makes of them, in the double precision that distances between sets are computed in.

use nalgebra::{DMatrix, DVector};
use rayon::prelude::*;

use super::Error;

/// The features of a set of images, one row an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Features {
    /// Row by row, `[count, dimensions]`.
    values: Vec<f64>,
    dimensions: usize,
}

impl Features {
    /// Features `[count, dimensions]`, row by row; `values` must hold whole rows of at least one number.
    ///
    /// # Errors
    /// [`Error::NotFinite`].
    pub fn new(values: Vec<f64>, dimensions: usize) -> Result<Self, Error> {
        let count = values.iter().filter(|value| !value.is_finite()).count();
        if count > 0 {
            return Err(Error::NotFinite { count });
        }
        Ok(Self { values, dimensions })
    }

    /// How many images.
    pub fn count(&self) -> usize {
        self.values.len() / self.dimensions.max(1)
    }

    /// How many numbers an image.
    pub fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// One image's numbers.
    pub fn row(&self, index: usize) -> &[f64] {
        &self.values[index * self.dimensions..][..self.dimensions]
    }

    /// The images of these places, in this order.
    pub fn select(&self, places: &[usize]) -> Self {
        Self {
            values: places
                .iter()
                .flat_map(|&place| self.row(place))
                .copied()
                .collect(),
            dimensions: self.dimensions,
        }
    }

    /// The mean of the rows, `[dimensions]`.
    pub(super) fn mean(&self) -> DVector<f64> {
        let mut mean = DVector::zeros(self.dimensions);
        for row in self.values.chunks_exact(self.dimensions) {
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += value;
            }
        }
        mean / self.count() as f64
    }

    /// The rows as a matrix, `[count, dimensions]`.
    pub(super) fn matrix(&self) -> DMatrix<f64> {
        DMatrix::from_row_slice(self.count(), self.dimensions, &self.values)
    }
}

/// Squared Euclidean distances `[from.count(), to.count()]`, row by row. Each is summed in one order, whatever the number of threads.
pub(super) fn squared_distances(from: &Features, to: &Features) -> Vec<Vec<f64>> {
    (0..from.count())
        .into_par_iter()
        .map(|index| {
            let row = from.row(index);
            let distance = |other: usize| -> f64 {
                row.iter()
                    .zip(to.row(other))
                    .map(|(a, b)| (a - b) * (a - b))
                    .sum()
            };
            (0..to.count()).map(distance).collect()
        })
        .collect()
}

/// Refuses sets that cannot be compared.
///
/// # Errors
/// [`Error::Dimensions`].
pub(super) fn check_pair(generated: &Features, reference: &Features) -> Result<(), Error> {
    if generated.dimensions == reference.dimensions {
        return Ok(());
    }
    Err(Error::Dimensions {
        generated: generated.dimensions,
        reference: reference.dimensions,
    })
}
