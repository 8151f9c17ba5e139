//! Optimisation, each in one pass over memory: AdamW, averages of parameters, and the global norm of a gradient.

mod adamw;
mod average;
mod norm;

pub use adamw::{AdamW, AdamWConfig};
pub use average::{Averages, follow};
pub use norm::{clip_scale, grad_norm};
