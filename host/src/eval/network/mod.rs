//! The networks whose features images are compared by.

pub mod scenes;
