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
    /// A model of the hub cannot be had.
    #[error(transparent)]
    Hub(#[from] crate::hub::Error),
    /// The data cannot be used.
    #[error(transparent)]
    Data(#[from] crate::data::Error),
    /// An adapter file cannot be used.
    #[error(transparent)]
    Adapter(#[from] crate::adapter::Error),
    /// The backbone cannot be used.
    #[error(transparent)]
    Backbone(#[from] crate::backbone::Error),
    /// The pretrained model cannot be used.
    #[error(transparent)]
    Pretrained(#[from] crate::pretrained::Error),
    /// The noise schedule cannot be used.
    #[error(transparent)]
    Diffusion(#[from] crate::diffusion::Error),
    /// The plugins asked for cannot run together, or not at all.
    #[error(transparent)]
    Plugins(#[from] crate::plugin::resolve::Error),
    /// There is nothing to tell about a plugin.
    #[error(transparent)]
    Inspect(#[from] crate::plugin::listing::Error),
    /// The plugins are not those of the lock file.
    #[error(transparent)]
    Lock(#[from] crate::plugin::lock::Error),
    /// A plugin failed while it ran.
    #[error(transparent)]
    Plugin(#[from] crate::plugin::failure::PluginError),
    /// Training cannot start or go on.
    #[error(transparent)]
    Train(#[from] crate::train::Error),
    /// Sampling failed.
    #[error(transparent)]
    Sample(#[from] crate::sample::Error),
    /// Images cannot be measured.
    #[error(transparent)]
    Eval(#[from] crate::eval::Error),
    /// A record or report cannot be written.
    #[error(transparent)]
    Report(#[from] crate::report::Error),
    /// The disk refused.
    #[error(transparent)]
    Disk(#[from] crate::fs::Error),
}

/// The host's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
