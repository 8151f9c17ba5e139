//! What a user can set, and which of it goes together.

use std::path::PathBuf;

use plugin_api::{Result, Settings, bail};

/// ControlNet (arXiv 2302.05543): a trainable copy of the backbone's first blocks that follows a hint picture.
#[derive(Debug, Clone, PartialEq, Settings)]
pub struct ControlnetSettings {
    /// Where hints come from.
    pub hint: Source,
    /// The data's column that holds the hints, where they come from one.
    #[setting(default = "hint")]
    pub column: String,
    /// What counts as an edge, where hints are edges.
    pub canny: Canny,
    /// How many blocks to copy, from the first on (a DiT; half of them when not given). A UNet's encoder is copied whole.
    #[setting(range = 1..)]
    pub blocks: Option<usize>,
    /// What the control counts when sampling; 0 leaves the backbone alone.
    #[setting(default = 1.0, range = 0..)]
    pub strength: f64,
    /// Share of training samples whose hint is left out, so that the copy also learns to be told nothing.
    #[setting(default = 0.0, range = 0..=1)]
    pub dropout: f64,
    /// Channels of the network that embeds hints; 16, 32, 96, 256 when not given, or as many of them as the backbone's picture size needs.
    #[setting(range = 1..=4096)]
    pub embedding_channels: Option<Vec<usize>>,
    /// Order of a hint's channels as the network sees them.
    pub channel_order: ChannelOrder,
    /// Go on from this ControlNet: the folder that diffusers or a run of this plugin wrote.
    pub from: Option<PathBuf>,
}

/// Where hints come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Source {
    /// A column of the data.
    #[setting(default)]
    Column,
    /// The edges of the image itself (Canny 1986).
    Canny,
}

/// Canny's two thresholds, on gradients of brightness from 0 to 1140.
#[derive(Debug, Clone, Copy, PartialEq, Settings)]
pub struct Canny {
    /// Weaker edges never count.
    #[setting(default = 50.0, range = 0..=1140)]
    pub low: f64,
    /// Stronger edges always count, those between where they go on from one.
    #[setting(default = 100.0, range = 0..=1140)]
    pub high: f64,
}

/// Order of a picture's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum ChannelOrder {
    /// Red first.
    #[setting(default)]
    Rgb,
    /// Blue first.
    Bgr,
}

impl ChannelOrder {
    /// The word in settings and in diffusers' configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rgb => "rgb",
            Self::Bgr => "bgr",
        }
    }
}

impl ControlnetSettings {
    /// Refuses what makes no sense together.
    ///
    /// # Errors
    /// Thresholds in the wrong order, and a column that nothing reads.
    pub fn check(&self) -> Result<()> {
        let Canny { low, high } = self.canny;
        if low > high {
            bail!("`canny.low` is {low}, above `canny.high`, which is {high}: swap them");
        }
        if self.hint == Source::Canny && self.column != Self::default().column {
            bail!(
                "`column` changes nothing where `hint` is canny: leave it out, or set `hint` to column"
            );
        }
        match self.embedding_channels.as_deref() {
            Some([]) => bail!("`embedding_channels` is empty: leave it out, or give at least one"),
            _ => Ok(()),
        }
    }
}
