//! What a user can set.

use plugin_api::Settings;

/// Diff-Tuning (arXiv 2406.00773): retain the pretrained model near the data, reconsolidate it near the noise.
#[derive(Debug, Clone, PartialEq, Settings)]
pub struct DiffTuningSettings {
    /// Share of each batch that is drawn from the memory bank.
    #[setting(default = 0.2, range = 0.0..=1.0)]
    pub ratio: f64,
    /// Weight of the memory samples' mean loss beside that of the target samples.
    #[setting(default = 0.1, range = 0.0..=1000.0)]
    pub weight: f64,
    /// How timesteps get their emphasis.
    #[setting(default = Mode::Sampling)]
    pub mode: Mode,
    /// Exponent s of the target samples' timestep law (t + 1)^s; 0 is uniform. For mode "sampling".
    #[setting(default = 1.0, range = 0.0..=20.0)]
    pub target_power: f64,
    /// Exponent s of the memory samples' timestep law (T - t)^s; 0 is uniform. For mode "sampling".
    #[setting(default = 1.0, range = 0.0..=20.0)]
    pub memory_power: f64,
    /// Images in the memory bank, drawn once from the frozen pretrained model.
    #[setting(default = 128, range = 1..=1000000)]
    pub memory: u64,
    /// Denoising steps for each image of the bank.
    #[setting(default = 30, range = 1..=1000)]
    pub memory_steps: u64,
    /// Guidance scale of the bank's images.
    #[setting(default = 2.0, range = 0.0..=100.0)]
    pub memory_guidance: f64,
    /// Sampler of the bank's images.
    #[setting(default = "ddim", one_of = ["ddpm", "ddim", "dpmpp_2m", "euler"])]
    pub memory_sampler: String,
    /// Texts of the bank's images, drawn in turn, for a backbone that is conditioned on text; none draws without text. They should be of all that it is to go on
    /// knowing, not of the new data.
    #[setting(default = [])]
    pub memory_prompts: Vec<String>,
    /// Seed of the bank's images.
    #[setting(default = 0, range = 0..=9223372036854775807)]
    pub memory_seed: u64,
    /// Images of the bank that are drawn together; it changes speed and memory use, never the images.
    #[setting(default = 32, range = 1..=4096)]
    pub memory_batch: u64,
}

/// How retention and reconsolidation choose their timesteps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Mode {
    /// Target samples draw t towards the noise, memory samples towards the data.
    Sampling,
    /// All draw t uniformly; losses are weighted by t / T and 1 - t / T instead.
    Weighting,
}
