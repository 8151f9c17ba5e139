//! What a user can set.

use plugin_api::Settings;

/// E2E FT (arXiv 2409.11355): depth or normals from one picture, in one step, trained through the decoder.
#[derive(Debug, Clone, PartialEq, Settings)]
pub struct E2eFtSettings {
    /// What is estimated: the data's column of that name.
    #[setting(default = Task::Depth)]
    pub task: Task,
    /// How the estimator learns.
    #[setting(default = Objective::E2e)]
    pub objective: Objective,
    /// What stands in the place of noisy latents. Not given: `zeros` for `e2e`, `gaussian` for `diffusion`.
    pub noise: Option<Noise>,
    /// What the network sees.
    #[setting(default = Input::Widened)]
    pub input: Input,
    /// How far the level 65535 of a depth file is, in the unit that the loss is to be told in: 65.535 for files in millimetres and a loss in metres.
    #[setting(default = 1.0, above = 0)]
    pub depth_range: f64,
}

/// What is estimated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Task {
    /// Depth, up to scale and shift.
    Depth,
    /// Surface normals.
    Normals,
}

impl Task {
    /// The data's column that holds the truth.
    pub fn column(self) -> &'static str {
        match self {
            Task::Depth => "depth",
            Task::Normals => "normals",
        }
    }
}

/// How the estimator learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Objective {
    /// From the last timestep to the picture at once, and the task's own loss on it.
    E2e,
    /// As Marigold does: to take noise away, at every timestep; it estimates in as many steps as the sampler takes.
    Diffusion,
}

/// What stands in the place of noisy latents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Noise {
    /// Nothing: the estimate depends on the picture alone.
    Zeros,
    /// Standard normal noise.
    Gaussian,
    /// Noise of several resolutions, of unit standard deviation.
    Pyramid,
}

/// What the network sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Input {
    /// The picture's latents and the noisy latents, joined: the first layer becomes twice as wide.
    Widened,
    /// The picture's latents alone; nothing is widened, and there is no noise.
    Rgb,
}
