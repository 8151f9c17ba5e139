//! The training step and the loop around it.

pub mod bench;
pub mod cache;
pub mod checkpoint;
mod error;
mod export;
mod feed;
mod fit;
pub mod folder;
pub mod from_run;
mod inputs;
pub mod objective;
mod optimizer;
mod parameters;
mod pictures;
pub mod pipeline;
pub mod pretrain;
mod replay;
pub mod run;
mod sampling;
mod scales;
mod schedule;
mod selection;
mod services;
mod session;
mod step;
mod story;
mod trainer;

pub use error::Error;
pub use feed::{Feed, Start};
pub use fit::{Ending, Records};
pub use parameters::{Ema, Owner, Parameter, Parameters, Swapped};
pub use pictures::{save as save_pictures, save_each};
pub use sampling::{Drawing, Weights, draw_latents, draw_pictures};
pub use schedule::LearningRate;
pub use session::{Facts, Session};
pub use trainer::Trainer;
