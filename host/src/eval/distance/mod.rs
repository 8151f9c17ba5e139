//! Distances between two sets of images' features. Each is a function of the features alone, in double precision and in a fixed order, so the same
//! features give the same number on any number of threads.

mod frechet;
mod kernel;
mod neighbours;
#[cfg(test)]
mod tests;

pub use frechet::{Frechet, frechet};
pub use kernel::{Kernel, SUBSET_SIZE, SUBSETS, kernel};
pub(super) use neighbours::share;
pub use neighbours::{NEIGHBOURS, Neighbours, neighbours};
