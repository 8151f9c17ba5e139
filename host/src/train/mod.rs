//! The training step and the loop around it.

pub mod checkpoint;
mod error;
mod fit;
pub mod folder;
pub mod objective;
mod parameters;
pub mod pretrain;
mod sampling;
mod schedule;
mod selection;
mod step;
mod trainer;

pub use error::Error;
pub use fit::{Ending, Records};
pub use parameters::{Ema, Owner, Parameter, Parameters, Swapped};
pub use sampling::{Drawing, draw};
pub use schedule::LearningRate;
pub use trainer::{Session, Trainer};
