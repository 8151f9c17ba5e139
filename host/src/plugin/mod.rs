//! Loading, checking and composing plugins.
//!
//! A plugin's way through this module, file by file: [`discover`] finds its file, [`preflight`] and [`manifest`] read it
//! without executing it, [`settings`] checks what the user set, [`compose`] decides who acts at which [`slots`]; [`resolve`]
//! does all of that in one call.

mod bag;
pub mod compose;
pub mod discover;
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
pub mod tensor_ops;
