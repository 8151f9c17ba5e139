//! `#[derive(Settings)]`.
