//! The crate from outside: tensors, settings, messages, the manifest, and a whole plugin called through its table.
#![allow(clippy::unwrap_used, missing_docs)]

mod boundary;
mod example;
mod listing;
mod manifest;
mod messages;
mod settings;
mod tensors;
