//! Loading, checking and composing plugins.
//!
//! A plugin's way through this module, file by file: [`discover`] finds its file, [`preflight`] and [`manifest`] read it
//! without executing it, [`compose`] decides who acts at which [`slots`].

pub mod compose;
pub mod discover;
pub mod lock;
pub mod manifest;
pub mod preflight;
pub mod slots;
