//! What the tests of this package stand on: the real `host` program and real plugin files, built once, used on a tiny backbone and a few
//! pictures in a folder of their own.
#![allow(clippy::unwrap_used)]

mod built;
pub mod formula;
mod lab;
mod library;
mod material;
mod outcome;

pub use built::{third_party, workspace};
pub use lab::{DIFF_TUNING, Lab};
pub use library::Library;
pub use material::{goldens, picture, tensors, values};
pub use outcome::Outcome;
