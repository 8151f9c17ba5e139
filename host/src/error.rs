//! The host's error: one variant an area, each carrying that area's own error.

/// What can go wrong in the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

/// The host's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
