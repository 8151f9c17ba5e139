//! The host's error: one variant an area, each carrying that area's own error.

/// What can go wrong in the host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A run file, a flag, or a choice of plugins is wrong.
    #[error(transparent)]
    Config(#[from] crate::config::Error),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    /// The backbone cannot be used.
    #[error(transparent)]
    Backbone(#[from] crate::backbone::Error),
    /// The noise schedule cannot be used.
    #[error(transparent)]
    Diffusion(#[from] crate::diffusion::Error),
    /// A plugin's file cannot be found.
    #[error(transparent)]
    Discover(#[from] crate::plugin::discover::Error),
    /// A file is no plugin of this host.
    #[error(transparent)]
    Preflight(#[from] crate::plugin::preflight::Error),
    /// A record or report cannot be written.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] crate::fs::Error),
}

/// The host's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
