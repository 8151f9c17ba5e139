//! Loading, checking, composing and calling plugins.
//!
//! A plugin's way through this module, file by file: [`discover`] finds its file, [`preflight`] and [`manifest`] read it
//! without executing it, [`settings`] checks what the user set, [`compose`] decides who acts at which [`slots`]; [`resolve`]
//! does all of that in one call. From there on its code runs: [`load`] makes the file code and shakes hands, [`foreign`] holds
//! one instance and crosses the boundary, [`stack`] is all instances of a run, one method a slot. What plugins call in turn is
//! in [`tensor_ops`] and [`services`].

mod bag;
pub mod compose;
mod crossing;
pub mod discover;
pub mod failure;
pub mod foreign;
mod handle;
pub mod listing;
pub mod load;
pub mod lock;
pub mod manifest;
pub mod preflight;
pub mod resolve;
pub mod services;
pub mod settings;
pub mod slots;
pub mod stack;
pub mod tensor_ops;

pub use discover::Search;
pub use failure::PluginError;
pub use foreign::Scene;
pub use handle::live_handles;
pub use resolve::{Request, Resolved, resolve};
pub use services::Services;
pub use stack::Stack;
