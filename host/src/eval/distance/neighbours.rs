//! What nearest neighbours tell: improved precision and recall (Kynkäänniemi et al., NeurIPS 2019), and whether a picture looks like its class.

use rayon::prelude::*;

use crate::eval::Error;
use crate::eval::features::{Features, check_pair, squared_distances};

/// The neighbour whose distance is the radius of a picture's surroundings.
pub const NEIGHBOURS: usize = 3;

/// What the surroundings of the pictures of two sets tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Neighbours {
    /// For each generated picture: does it lie in the surroundings of a real one? The share of them is the precision: how real they look.
    pub realistic: Vec<bool>,
    /// For each real picture: does it lie in the surroundings of a generated one? The share of them is the recall: how much of the variety there is.
    pub covered: Vec<bool>,
    /// For each generated picture: the place of the real one nearest to it.
    pub nearest: Vec<usize>,
}

impl Neighbours {
    /// Share of generated pictures that lie among real ones, 0..=1.
    pub fn precision(&self) -> f64 {
        share(&self.realistic)
    }

    /// Share of real pictures that lie among generated ones, 0..=1.
    pub fn recall(&self) -> f64 {
        share(&self.covered)
    }
}

/// The share that is true; 0 of nothing.
pub(crate) fn share(flags: &[bool]) -> f64 {
    flags.iter().filter(|flag| **flag).count() as f64 / flags.len().max(1) as f64
}

/// A picture's surroundings are the ball around it that reaches to its [`NEIGHBOURS`]th nearest neighbour within its own set.
///
/// # Errors
/// Features of different networks, or a set of no more than [`NEIGHBOURS`] pictures.
pub fn neighbours(generated: &Features, reference: &Features) -> Result<Neighbours, Error> {
    check_pair(generated, reference)?;
    for (what, set) in [("generated", generated), ("reference", reference)] {
        if set.count() <= NEIGHBOURS {
            return Err(Error::TooFew {
                what,
                count: set.count(),
                least: NEIGHBOURS + 1,
            });
        }
    }
    let (of_generated, of_reference) = (radii(generated), radii(reference));
    let between = squared_distances(generated, reference);
    let realistic = between
        .par_iter()
        .map(|row| row.iter().zip(&of_reference).any(|(d, r)| d <= r))
        .collect();
    let covered = (0..reference.count())
        .into_par_iter()
        .map(|real| {
            between
                .iter()
                .zip(&of_generated)
                .any(|(row, r)| row[real] <= *r)
        })
        .collect();
    let nearest = between
        .par_iter()
        .map(|row| {
            let least = row.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
            least.map_or(0, |(place, _)| place)
        })
        .collect();
    Ok(Neighbours {
        realistic,
        covered,
        nearest,
    })
}

/// The squared distance of each picture to its [`NEIGHBOURS`]th nearest neighbour in its set, itself not counted.
fn radii(set: &Features) -> Vec<f64> {
    squared_distances(set, set)
        .into_par_iter()
        .map(|mut row| {
            // The picture itself is nearest, at 0.
            let (_, radius, _) = row.select_nth_unstable_by(NEIGHBOURS, f64::total_cmp);
            *radius
        })
        .collect()
}
