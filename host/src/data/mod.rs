//! Datasets, the scene generator and the loader.
