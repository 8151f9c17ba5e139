//! What a user can set.

use plugin_api::Settings;

/// ONE-PIC (arXiv 2412.05619): sources and target as tiles of one picture, of which only the target is predicted.
#[derive(Debug, Clone, PartialEq, Settings)]
pub struct OnePicSettings {
    /// Rows of tiles, from top to bottom, each tile named by what it shows: a column of the data, `target` for the image itself (once), or `blank`.
    #[setting(default = [["source", "target"]])]
    pub layout: Vec<Vec<String>>,
    /// What is predicted.
    #[setting(default = Mask::Tile)]
    pub mask: Mask,
}

/// The part of the canvas that gets noise, and that the loss counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Settings)]
pub enum Mask {
    /// The whole target tile.
    Tile,
    /// The part of the target tile where the data's column `mask` is 1 (above a half); all of it for a sample whose mask is empty.
    Image,
}
