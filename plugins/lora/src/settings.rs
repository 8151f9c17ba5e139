//! What a user can set.

use plugin_api::Settings;

/// LoRA (arXiv 2106.09685): train a low-rank update beside chosen layers of the frozen backbone.
#[derive(Debug, Clone, PartialEq, Settings)]
pub struct LoraSettings {
    /// Rank of each update: how many directions of its input a layer learns to answer anew.
    #[setting(default = 16, range = 1..=65536)]
    pub rank: usize,
    /// Each update counts alpha / rank; the rank itself when not given.
    #[setting(above = 0)]
    pub alpha: Option<f64>,
    /// Globs over the paths of the layers to adapt (`host model inspect` lists them): `*` stays within one part between dots, `**` does not.
    #[setting(default = ["**.to_q", "**.to_k", "**.to_v", "**.to_out.0"])]
    pub targets: Vec<String>,
}

impl LoraSettings {
    /// `alpha`, or what stands for it.
    pub fn alpha(&self) -> f64 {
        self.alpha.unwrap_or(self.rank as f64)
    }

    /// What each update is multiplied by.
    pub fn scale(&self) -> f64 {
        self.alpha() / self.rank as f64
    }
}
