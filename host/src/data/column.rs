//! Further pictures of an item beside its image (sources, references, masks): what they are called, and how they become values.

use image::{GrayImage, RgbImage, imageops};

use super::{Error, Size, crop, transform};

/// A picture beside an item's image, of the image's size.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// What it holds.
    pub kind: ColumnKind,
    /// `[channels, H, W]`, row by row; the range is [`ColumnKind`]'s.
    pub values: Vec<f32>,
}

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    /// Three channels in -1..=1, as an image.
    Picture,
    /// A picture whose red is a direction to the right, so that a mirror also turns it round.
    Normals,
    /// One channel in 0..=1.
    Mask,
}

/// Names of a batch that a column cannot take.
const TAKEN: [&str; 8] = [
    "images",
    "class_labels",
    "loss_mask",
    "encoder_hidden_states",
    "text_embeds",
    "time_ids",
    "target",
    "blank",
];

impl ColumnKind {
    /// What a column called `name` in the batch holds, where it comes from something called `source`: a name of `mask`, `mask_...` or `..._mask` is a
    /// mask's.
    pub(super) fn of(name: &str, source: &str) -> Self {
        if name == "mask" || name.starts_with("mask_") || name.ends_with("_mask") {
            Self::Mask
        } else if source == "normals" {
            Self::Normals
        } else {
            Self::Picture
        }
    }

    /// Channels of its values.
    pub fn channels(self) -> usize {
        match self {
            Self::Picture | Self::Normals => 3,
            Self::Mask => 1,
        }
    }

    /// The middle of a picture at `size`, as interleaved bytes: resized and cropped as images are, a mask by nearest neighbour.
    pub(super) fn cropped(self, picture: &RgbImage, size: Size) -> Vec<u8> {
        match self {
            Self::Picture | Self::Normals => crop::center_crop(picture, size).image.into_raw(),
            Self::Mask => {
                let grey: GrayImage = imageops::grayscale(picture);
                crop::center_crop_nearest(&grey, size).into_raw()
            }
        }
    }

    /// A column of these bytes, which are interleaved.
    pub(super) fn column(self, bytes: &[u8]) -> Column {
        let values = match self {
            Self::Picture | Self::Normals => transform::planes(bytes, 3),
            Self::Mask => bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect(),
        };
        Column { kind: self, values }
    }
}

/// Refuses a name that means something else in a batch, or cannot be one.
pub(super) fn check_name(name: &str) -> Result<(), Error> {
    let plain = |c: char| c.is_alphanumeric() || "_-.".contains(c);
    if name.is_empty() || !name.chars().all(plain) || TAKEN.contains(&name) {
        return Err(Error::ColumnName {
            name: name.to_owned(),
            taken: TAKEN.join(", "),
        });
    }
    Ok(())
}
