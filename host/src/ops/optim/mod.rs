//! Optimisation: AdamW in one pass over memory, and the global norm of a gradient.

mod adamw;
mod norm;

pub use adamw::{AdamW, AdamWConfig};
pub use norm::{clip_scale, grad_norm};
