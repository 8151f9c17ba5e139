//! Further pictures of an item beside its image (sources, references, masks, depth, normals): what they are called, and how they become values.

use image::{ColorType, DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage, imageops};

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
    /// Three channels in -1..=1, a picture of normals: red is a direction to the right, so that a mirror also turns it round.
    NormalsPicture,
    /// Three channels: vectors of unit length to the precision of 8 bits, zero where nothing is known; a mirror turns them round as well.
    Normals,
    /// One channel in 0..=1.
    Mask,
    /// One channel: a 16-bit level over 65535, in whatever unit the file has; 0 where nothing is known.
    Depth,
}

/// Whether a column of this name holds hints, which lie on their image pixel by pixel.
pub(super) fn is_hint(name: &str) -> bool {
    name == "hint"
        || name.starts_with("hint_")
        || name.ends_with("_hint")
        || name == "conditioning_image"
}

/// Names of a batch that a column cannot take.
const TAKEN: [&str; 9] = [
    "images",
    "latents",
    "class_labels",
    "loss_mask",
    "encoder_hidden_states",
    "text_embeds",
    "time_ids",
    "target",
    "blank",
];

/// Lengths of normals may differ by so much from 1: more than 8 bits a component cost, less than what is no vector.
const LENGTH_SLACK: f32 = 0.1;

/// So large a share of the normals may be off: where a picture was smoothed, edges are.
const OFF_SHARE: f32 = 0.05;

impl ColumnKind {
    /// What a column called `name` in the batch holds, where it comes from something called `source`: a name of `mask`, `mask_...` or `..._mask` is a
    /// mask's, `depth` and `normals` are measurements. What comes from `normals` under another name is a picture of them.
    pub(super) fn of(name: &str, source: &str) -> Self {
        if name == "mask" || name.starts_with("mask_") || name.ends_with("_mask") {
            Self::Mask
        } else if name == "depth" {
            Self::Depth
        } else if name == "normals" {
            Self::Normals
        } else if source == "normals" {
            Self::NormalsPicture
        } else {
            Self::Picture
        }
    }

    /// Channels of its values.
    pub fn channels(self) -> usize {
        match self {
            Self::Picture | Self::NormalsPicture | Self::Normals => 3,
            Self::Mask | Self::Depth => 1,
        }
    }

    /// Bytes of a pixel, as [`ColumnKind::cropped`] keeps it.
    pub(super) fn pixel_bytes(self) -> usize {
        match self {
            Self::Picture | Self::NormalsPicture | Self::Normals => 3,
            Self::Mask => 1,
            Self::Depth => 2,
        }
    }

    /// Whether it holds measurements: pixel for pixel those of its image, and never blended.
    pub(super) fn is_measured(self) -> bool {
        matches!(self, Self::Normals | Self::Depth)
    }

    /// What is wrong with a file of this kind of colours, if anything.
    pub(super) fn wrong_colours(self, colours: ColorType) -> Option<String> {
        (self == Self::Depth && colours != ColorType::L16).then(|| {
            format!(
                "it is {}, and depth is read from 16-bit grey without a palette, 0 where nothing is known; a picture to look at needs another name than `depth`",
                described(colours)
            )
        })
    }

    /// The middle of a picture at `size`, as interleaved bytes: resized and cropped as images are, but by nearest neighbour where values must
    /// not be blended.
    ///
    /// # Errors
    /// Why the picture is none of this kind: depth of other colours or without a known pixel, normals that are no unit vectors.
    pub(super) fn cropped(self, picture: DynamicImage, size: Size) -> Result<Vec<u8>, String> {
        match self {
            Self::Picture | Self::NormalsPicture => {
                Ok(crop::center_crop(&opaque(picture), size).image.into_raw())
            }
            Self::Mask => {
                let grey: GrayImage = imageops::grayscale(&opaque(picture));
                Ok(crop::center_crop_nearest(&grey, size).into_raw())
            }
            Self::Normals => {
                let middle = crop::center_crop_nearest(&opaque(picture), size);
                check_normals(&middle)?;
                Ok(middle.into_raw())
            }
            Self::Depth => {
                let levels = match picture {
                    DynamicImage::ImageLuma16(levels) => levels,
                    other => {
                        return Err(self.wrong_colours(other.color()).unwrap_or_default());
                    }
                };
                let middle: ImageBuffer<Luma<u16>, Vec<u16>> =
                    crop::center_crop_nearest(&levels, size);
                if middle.iter().all(|&level| level == 0) {
                    return Err("no pixel has a depth: all are 0".to_owned());
                }
                Ok(middle
                    .iter()
                    .flat_map(|level| level.to_le_bytes())
                    .collect())
            }
        }
    }

    /// A column of these bytes, which are interleaved.
    pub(super) fn column(self, bytes: &[u8]) -> Column {
        let values = match self {
            Self::Picture | Self::NormalsPicture => transform::planes(bytes, 3),
            Self::Normals => {
                let vectors: Vec<[f32; 3]> = pixels(bytes)
                    .map(|pixel| vector(pixel).unwrap_or_default())
                    .collect();
                (0..3)
                    .flat_map(|part| vectors.iter().map(move |vector| vector[part]))
                    .collect()
            }
            Self::Mask => bytes.iter().map(|&byte| f32::from(byte) / 255.0).collect(),
            Self::Depth => bytes
                .chunks_exact(2)
                .map(|level| f32::from(u16::from_le_bytes([level[0], level[1]])) / 65535.0)
                .collect(),
        };
        Column { kind: self, values }
    }
}

/// The picture over white, as 8-bit RGB.
pub(super) fn opaque(picture: DynamicImage) -> RgbImage {
    if !picture.color().has_alpha() {
        return picture.into_rgb8();
    }
    let picture = picture.into_rgba8();
    RgbImage::from_fn(picture.width(), picture.height(), |x, y| {
        let [r, g, b, alpha] = picture.get_pixel(x, y).0.map(u32::from);
        let over = |value: u32| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        image::Rgb([over(r), over(g), over(b)])
    })
}

fn pixels(bytes: &[u8]) -> impl Iterator<Item = [u8; 3]> {
    bytes
        .chunks_exact(3)
        .map(|pixel| [pixel[0], pixel[1], pixel[2]])
}

/// The vector that a pixel of a normal map stands for; none where nothing is known, which is black or middle grey.
fn vector(pixel: [u8; 3]) -> Option<[f32; 3]> {
    let unknown = pixel == [0; 3] || pixel.iter().all(|level| (127..=128).contains(level));
    (!unknown).then(|| pixel.map(|level| f32::from(level) / 127.5 - 1.0))
}

fn length(vector: [f32; 3]) -> f32 {
    vector.iter().map(|part| part * part).sum::<f32>().sqrt()
}

/// Refuses a normal map without vectors, or of which many are not of unit length.
fn check_normals(picture: &RgbImage) -> Result<(), String> {
    let lengths: Vec<f32> = pixels(picture.as_raw())
        .filter_map(vector)
        .map(length)
        .collect();
    if lengths.is_empty() {
        return Err("no pixel has a normal: all are black or middle grey".to_owned());
    }
    let off: Vec<f32> = (lengths.iter().copied())
        .filter(|length| (length - 1.0).abs() > LENGTH_SLACK)
        .collect();
    if off.len() as f32 <= OFF_SHARE * lengths.len() as f32 {
        return Ok(());
    }
    Err(format!(
        "{} of its {} normals are not of unit length (the first is {:.2} long); a normal map has (x + 1) / 2 of each component in red, green and blue",
        off.len(),
        lengths.len(),
        off[0]
    ))
}

fn described(colours: ColorType) -> String {
    let bits = 8 * u32::from(colours.bytes_per_pixel()) / u32::from(colours.channel_count());
    let channels = match (colours.has_color(), colours.has_alpha()) {
        (true, true) => "RGB with transparency",
        (true, false) => "RGB",
        (false, true) => "grey with transparency",
        (false, false) => "grey",
    };
    format!("{bits}-bit {channels}")
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
