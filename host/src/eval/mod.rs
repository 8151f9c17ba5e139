//! Measuring generated images against real ones: features from a network, distances between two sets of them, and the record of it.

mod classifier;
mod error;
pub mod network;

pub use classifier::{
    Accuracy, ClassifierRecipe, ClassifierSection, Trained, store as store_classifier,
    train as train_classifier,
};
pub use error::Error;
