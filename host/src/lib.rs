//! The host: owns the frozen pretrained backbone and the training loop, and composes plugins into one run.

pub mod adapter;
pub mod backbone;
pub mod cancel;
pub mod cli;
pub mod config;
pub mod data;
pub mod diffusion;
pub mod encode;
pub mod error;
pub mod eval;
pub mod fs;
pub mod hub;
pub mod memo;
pub mod ops;
pub mod plugin;
pub mod pretrained;
pub mod random;
pub mod report;
pub mod sample;
pub mod text;
pub mod train;
pub mod user;

pub use error::{Error, Result};
