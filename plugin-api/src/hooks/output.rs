//! Slot `output`: what a sample is written as.

use super::hook;
use crate::{
    Batch, Host, Result, Tensor,
    abi::Value,
    message::{FieldValue, list_items, message},
};

/// Turns decoded samples into what is written to disk: a depth map instead of a picture, one tile of a canvas. Exclusive. No gradients.
pub trait OutputHook {
    /// Returns the pictures to write; one entry for each kind (`depth`, `depth_color`), each holding all N samples.
    ///
    /// # Errors
    /// The host refuses shapes that do not fit the encoding.
    fn output(&mut self, at: &OutputIn, host: &Host) -> Result<Vec<Picture>>;
}

/// How values become a PNG. Open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Encoding(pub u32);

impl Encoding {
    /// 3 channels in -1..1, 8 bits.
    pub const RGB: Encoding = Encoding(1);
    /// 1 channel in 0..1, 8 bits.
    pub const GRAY: Encoding = Encoding(2);
    /// 1 channel in 0..1, 16 bits.
    pub const GRAY16: Encoding = Encoding(3);
    /// 1 channel in 0..1, shown through a perceptual colour map, 8 bits.
    pub const COLORMAP: Encoding = Encoding(4);
}

impl FieldValue for Encoding {
    const EXPECTED: &'static str = "a picture encoding";
    fn into_value(self) -> Value {
        self.0.into_value()
    }
    fn from_value(value: Value) -> Option<Self> {
        u32::from_value(value).map(Encoding)
    }
}

message! {
    /// Decoded samples.
    pub struct OutputIn {
        /// The bag that `sample_begin` left.
        pub batch: Batch,
        /// Clean latents, `[N, C, h, w]`.
        pub latents: Tensor,
        /// Decoded pictures, `[N, 3, H, W]` f32, clamped to -1..1.
        pub images: Tensor,
        /// A name for each sample, without extension.
        pub names: Vec<String>,
    }
}

message! {
    /// One kind of picture of all samples.
    pub struct Picture {
        /// What kind: becomes part of the file name; empty for the main one.
        pub kind: String,
        /// `[N, 3, H, W]` or `[N, 1, H, W]`, with the range the encoding wants.
        pub images: Tensor,
        /// How values become a PNG.
        pub encoding: Encoding,
    }
}

message! {
    /// The pictures to write.
    pub struct OutputOut {
        /// One entry a kind.
        pub pictures: Vec<Picture>,
    }
}

list_items!(Picture);

hook!(Output, OutputHook, OutputIn => OutputOut, |plugin, message, host| {
    Ok(OutputOut { pictures: plugin.output(&message, host)? })
});
