//! Slot `output`: what a sample is written as.

use super::hook;
use crate::{
    Batch, Host, Result, Tensor,
    abi::Value,
    message::{FieldValue, list_items, message},
};

/// Turns decoded samples into what a user gets to see: a depth map instead of a picture, one tile of a canvas. Exclusive. No gradients.
///
/// Called for each batch of samples, when they are done: for those of a run after its first step, and for those drawn from a run later. The
/// pretrained backbone alone has no plugins, and [`Host::sample`](crate::Host::sample) hands its pictures to a plugin, so neither calls it.
pub trait OutputHook {
    /// Returns the pictures to keep, and nothing else is kept: one entry for each kind (`depth`, `normals`), each holding all N samples. The
    /// host writes a grid a kind: `after.png` for the kind `""`, `after-depth.png` for `depth`.
    ///
    /// # Errors
    /// The host refuses shapes that do not fit the encoding, and a kind that comes twice.
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
        /// Clean latents, `[N, C, h, w]`; their height and width are those that `sample_begin` chose.
        pub latents: Tensor,
        /// Decoded pictures, `[N, 3, H, W]` f32, clamped to -1..1.
        pub images: Tensor,
        /// A name for each sample: its number within the whole request, six digits.
        pub names: Vec<String>,
        /// The pictures before clamping; missing from a host that is older than this field.
        pub decoded: Option<Tensor>,
    }
}

message! {
    /// One kind of picture of all samples.
    pub struct Picture {
        /// What kind, in letters, digits, `_` and `-`: becomes part of the file name; empty for the main one.
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
