//! Loading, checking and composing plugins.
//!
//! A plugin's way through this module, file by file: [`discover`] finds its file, [`preflight`] and [`manifest`] read it
//! without executing it, [`settings`] checks what the user set, [`compose`] decides who acts at which [`slots`]; [`resolve`]
//! does all of that in one call.

pub mod compose;
pub mod discover;
pub mod listing;
pub mod lock;
pub mod manifest;
pub mod preflight;
pub mod resolve;
pub mod settings;
pub mod slots;
