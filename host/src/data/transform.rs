//! Between tensors and pictures: single images and grids, of 8 bits mostly.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use image::{ImageBuffer, Luma, Pixel, Rgb, RgbImage};

use super::Error;

/// Interleaved bytes (0..=255) to planes of values in -1..=1.
pub(super) fn planes(bytes: &[u8], channels: usize) -> Vec<f32> {
    let mut values = Vec::with_capacity(bytes.len());
    for channel in 0..channels {
        values.extend(
            bytes[channel..]
                .iter()
                .step_by(channels)
                .map(|&byte| f32::from(byte) / 127.5 - 1.0),
        );
    }
    values
}

/// A picture resized and cropped to a square, as a folder's images are.
///
/// The picture must have no side of 0.
pub fn fitted(picture: &RgbImage, side: usize) -> RgbImage {
    super::crop::center_crop(picture, super::Size::square(side)).image
}

/// A picture as a tensor.
///
/// # Shapes
/// `[3, H, W]` f32 in -1..=1.
///
/// # Errors
/// Only if the device fails.
pub fn from_rgb8(image: &RgbImage, device: &Device) -> Result<Tensor, Error> {
    let shape = (3, image.height() as usize, image.width() as usize);
    Ok(Tensor::from_vec(planes(image.as_raw(), 3), shape, device)?)
}

/// A tensor as a picture; values outside -1..=1 are clipped, and one channel becomes grey.
///
/// # Shapes
/// `[3, H, W]` or `[1, H, W]`, any floating dtype, any device.
///
/// # Errors
/// [`Error::NotAnImage`] for another shape.
pub fn to_rgb8(image: &Tensor) -> Result<RgbImage, Error> {
    let wrong = || Error::NotAnImage {
        shape: image.dims().to_vec(),
        expected: "[3, H, W] or [1, H, W]",
    };
    let &[channels @ (1 | 3), height, width] = image.dims() else {
        return Err(wrong());
    };
    let values = image
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let plane = height * width;
    let byte = |channel: usize, at: usize| {
        let value = values[(channel % channels) * plane + at];
        ((value + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
    };
    Ok(RgbImage::from_fn(width as u32, height as u32, |x, y| {
        let at = y as usize * width + x as usize;
        Rgb([byte(0, at), byte(1, at), byte(2, at)])
    }))
}

/// How [`grid`] lays out its images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridOptions {
    /// Images in a row; 0 means as near a square as possible, wider rather than taller.
    pub columns: usize,
    /// Pixels between images and around them, after enlarging.
    pub padding: u32,
    /// Whole-number enlargement by nearest neighbour, at least 1; 0 picks one that makes each image at least 96 pixels wide.
    pub scale: u32,
    /// Colour of the padding.
    pub background: [u8; 3],
}

impl Default for GridOptions {
    fn default() -> Self {
        Self {
            columns: 0,
            padding: 4,
            scale: 0,
            background: [255, 255, 255],
        }
    }
}

/// Many images as one picture, row by row.
///
/// # Shapes
/// `images` is `[N, 3, H, W]` or `[N, 1, H, W]` in -1..=1 with N at least 1.
///
/// # Errors
/// [`Error::NotAnImage`] for another shape.
pub fn grid(images: &Tensor, options: &GridOptions) -> Result<RgbImage, Error> {
    let wrong = || Error::NotAnImage {
        shape: images.dims().to_vec(),
        expected: "[N, 3, H, W] or [N, 1, H, W], N at least 1",
    };
    let &[count, 1 | 3, _, _] = images.dims() else {
        return Err(wrong());
    };
    if count == 0 {
        return Err(wrong());
    }
    let pictures = (0..count)
        .map(|index| to_rgb8(&images.get(index)?))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(arrange(&pictures, options, Rgb(options.background)))
}

/// As [`grid`], in 16-bit grey, for what is measured rather than looked at; the padding is white.
///
/// # Shapes
/// `images` is `[N, 1, H, W]` in 0..=1 with N at least 1.
///
/// # Errors
/// [`Error::NotAnImage`] for another shape.
pub fn grid16(images: &Tensor, options: &GridOptions) -> Result<Gray16, Error> {
    let wrong = || Error::NotAnImage {
        shape: images.dims().to_vec(),
        expected: "[N, 1, H, W], N at least 1",
    };
    let &[count, 1, height, width] = images.dims() else {
        return Err(wrong());
    };
    if count == 0 {
        return Err(wrong());
    }
    let values = images
        .to_device(&Device::Cpu)?
        .to_dtype(DType::F32)?
        .flatten_all()?
        .to_vec1::<f32>()?;
    let picture = |index: usize| {
        Gray16::from_fn(width as u32, height as u32, |x, y| {
            let at = (index * height + y as usize) * width + x as usize;
            Luma([(values[at] * 65535.0).round().clamp(0.0, 65535.0) as u16])
        })
    };
    let pictures: Vec<Gray16> = (0..count).map(picture).collect();
    Ok(arrange(&pictures, options, Luma([u16::MAX])))
}

/// A picture of 16-bit greys.
pub type Gray16 = ImageBuffer<Luma<u16>, Vec<u16>>;

/// Pictures of one size, row by row on `background`.
fn arrange<P: Pixel + 'static>(
    pictures: &[ImageBuffer<P, Vec<P::Subpixel>>],
    options: &GridOptions,
    background: P,
) -> ImageBuffer<P, Vec<P::Subpixel>> {
    let count = pictures.len();
    let (width, height) = pictures
        .first()
        .map_or((1, 1), |picture| (picture.width(), picture.height()));
    let scale = match options.scale {
        0 => 96u32.div_ceil(width).max(1),
        scale => scale,
    };
    let columns = match options.columns {
        0 => (count as f64).sqrt().ceil() as usize,
        columns => columns.min(count),
    };
    let rows = count.div_ceil(columns.max(1));
    let (cell_width, cell_height) = (width * scale, height * scale);
    let extent =
        |cells: usize, cell: u32| cells as u32 * (cell + options.padding) + options.padding;
    let mut canvas = ImageBuffer::from_pixel(
        extent(columns, cell_width),
        extent(rows, cell_height),
        background,
    );
    for (index, picture) in pictures.iter().enumerate() {
        let left = options.padding + (index % columns) as u32 * (cell_width + options.padding);
        let top = options.padding + (index / columns) as u32 * (cell_height + options.padding);
        for y in 0..cell_height {
            for x in 0..cell_width {
                canvas.put_pixel(left + x, top + y, *picture.get_pixel(x / scale, y / scale));
            }
        }
    }
    canvas
}

/// Writes [`grid`] as a PNG, by way of a temporary name, so that a reader never sees half a file.
///
/// # Errors
/// As [`grid`], and if the file cannot be written.
pub fn save_grid(images: &Tensor, options: &GridOptions, path: &Path) -> Result<(), Error> {
    save_png(&grid(images, options)?.into(), path)
}

/// Writes [`grid16`] as a PNG, as [`save_grid`] does.
///
/// # Errors
/// As [`grid16`], and if the file cannot be written.
pub fn save_grid16(images: &Tensor, options: &GridOptions, path: &Path) -> Result<(), Error> {
    save_png(&grid16(images, options)?.into(), path)
}

/// Writes a picture as a PNG, by way of a temporary name.
pub(super) fn save_png(picture: &image::DynamicImage, path: &Path) -> Result<(), Error> {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    let partial = path.with_file_name(name);
    let written = picture
        .save_with_format(&partial, image::ImageFormat::Png)
        .map_err(Error::image(path));
    let placed = written.and_then(|()| std::fs::rename(&partial, path).map_err(Error::io(path)));
    if placed.is_err() {
        // The error above matters; a leftover that cannot be removed either does not.
        let _ = std::fs::remove_file(&partial);
    }
    placed
}
