//! Measuring generated images against real ones: features from a network, distances between two sets of them, and the record of it.

mod classifier;
pub mod distance;
mod error;
pub mod estimates;
pub mod features;
mod measure;
pub mod network;
mod pictures;

pub use classifier::{
    Accuracy, ClassifierRecipe, ClassifierSection, Trained, store as store_classifier,
    train as train_classifier,
};
pub use error::Error;
pub use measure::measure;
pub use pictures::Pictures;
