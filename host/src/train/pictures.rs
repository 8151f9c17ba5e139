//! What samples are kept as: PNG grids, one a kind of picture, or each picture by itself.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use candle_core::{DType, Tensor};
use plugin_api::hooks::Encoding;

use crate::data::transform::{GridOptions, save_grid, save_grid16};
use crate::fs::Error as FileError;
use crate::plugin::stack::OutputPicture;

use super::Error;

/// The colours from 0 to 1 of [`Encoding::COLORMAP`], evenly spaced: viridis, whose brightness rises throughout.
const COLOURS: [[u8; 3]; 9] = [
    [68, 1, 84],
    [71, 45, 123],
    [59, 82, 139],
    [44, 114, 142],
    [33, 145, 140],
    [40, 174, 128],
    [94, 201, 98],
    [173, 220, 48],
    [253, 231, 37],
];

/// Writes each kind of picture as a grid: the main one, without a kind, at `path`, the others beside it with their kind in the name. Gives the
/// files in the order of the pictures.
///
/// # Errors
/// A disk that refuses.
pub fn save(pictures: &[OutputPicture], path: &Path) -> Result<Vec<PathBuf>, Error> {
    pictures
        .iter()
        .map(|picture| {
            let file = named(path, &picture.kind);
            write(picture, &file)?;
            Ok(file)
        })
        .collect()
}

/// Writes every picture by itself at its own size, under the name that `names` has for it (relative to the folder, an ending left aside), with its kind:
/// `street/01-depth.png`. A name that comes again gets its number. Gives the files.
///
/// # Errors
/// A disk that refuses.
pub fn save_each(
    pictures: &[OutputPicture],
    names: &[String],
    folder: &Path,
) -> Result<Vec<PathBuf>, Error> {
    let mut files = Vec::new();
    let alone = GridOptions {
        columns: 1,
        padding: 0,
        scale: 1,
        ..GridOptions::default()
    };
    let stems = stems(names);
    for picture in pictures {
        for index in 0..picture.images.dims().first().copied().unwrap_or_default() {
            let number = || PathBuf::from(format!("{index:06}"));
            let stem = stems.get(index).cloned().unwrap_or_else(number);
            let mut name = folder.join(stem).into_os_string();
            name.push(".png");
            let file = named(Path::new(&name), &picture.kind);
            let one = OutputPicture {
                images: picture.images.narrow(0, index, 1)?,
                ..picture.clone()
            };
            write_as(&one, &file, &alone)?;
            files.push(file);
        }
    }
    Ok(files)
}

/// The names without their endings and without anything that leads out of a folder, no two alike.
fn stems(names: &[String]) -> Vec<PathBuf> {
    let mut met: BTreeMap<PathBuf, usize> = BTreeMap::new();
    let stem = |name: &String| {
        let parts = Path::new(name).components();
        let inside = parts.filter(|part| matches!(part, Component::Normal(_)));
        let stem = inside.collect::<PathBuf>().with_extension("");
        let times = met.entry(stem.clone()).or_default();
        *times += 1;
        match *times {
            1 => stem,
            times => {
                let mut again = stem.into_os_string();
                again.push(format!("-{times}"));
                again.into()
            }
        }
    };
    names.iter().map(stem).collect()
}

/// `after.png` with the kind `depth`: `after-depth.png`.
pub(super) fn named(path: &Path, kind: &str) -> PathBuf {
    if kind.is_empty() {
        return path.to_path_buf();
    }
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let ending = path.extension().unwrap_or_default().to_string_lossy();
    let dot = if ending.is_empty() { "" } else { "." };
    path.with_file_name(format!("{stem}-{kind}{dot}{ending}"))
}

/// Writes one kind as a PNG; the folders above it are made.
pub(super) fn write(picture: &OutputPicture, path: &Path) -> Result<(), Error> {
    write_as(picture, path, &GridOptions::default())
}

fn write_as(picture: &OutputPicture, path: &Path, options: &GridOptions) -> Result<(), Error> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| FileError::io("create", folder, error))?;
    }
    let images = picture.images.detach().to_dtype(DType::F32)?;
    match picture.encoding {
        Encoding::GRAY16 => save_grid16(&images, options, path)?,
        Encoding::GRAY => save_grid(&images.affine(2.0, -1.0)?, options, path)?,
        Encoding::COLORMAP => save_grid(&coloured(&images)?, options, path)?,
        // The stack lets no others through.
        _ => save_grid(&images, options, path)?,
    }
    Ok(())
}

/// Values `[N, 1, H, W]` in 0..=1 to colours `[N, 3, H, W]` in -1..=1.
fn coloured(values: &Tensor) -> candle_core::Result<Tensor> {
    let (count, _, height, width) = values.dims4()?;
    let flat = values.flatten_all()?.to_vec1::<f32>()?;
    let plane = height * width;
    let mut colours = vec![0f32; 3 * flat.len()];
    for (at, &value) in flat.iter().enumerate() {
        let place = value.clamp(0.0, 1.0) * (COLOURS.len() - 1) as f32;
        let below = (place as usize).min(COLOURS.len() - 2);
        let share = place - below as f32;
        for channel in 0..3 {
            let [low, high] = [below, below + 1].map(|at| f32::from(COLOURS[at][channel]));
            let byte = low + share * (high - low);
            colours[(3 * (at / plane) + channel) * plane + at % plane] = byte / 127.5 - 1.0;
        }
    }
    Tensor::from_vec(colours, (count, 3, height, width), values.device())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    fn saved(encoding: Encoding, values: &[f32]) -> image::DynamicImage {
        let folder = tempfile::tempdir().unwrap();
        let channels = if encoding == Encoding::RGB { 3 } else { 1 };
        let shape = (values.len() / channels, channels, 1, 1);
        let picture = OutputPicture {
            kind: "depth".into(),
            images: Tensor::from_slice(values, shape, &Device::Cpu).unwrap(),
            encoding,
        };
        let files = save(&[picture], &folder.path().join("grid.png")).unwrap();
        assert_eq!(files, [folder.path().join("grid-depth.png")]);
        image::open(&files[0]).unwrap()
    }

    /// A pixel in the middle of each of two pictures side by side, each enlarged to 96 pixels.
    fn two(picture: &image::DynamicImage) -> [[u8; 3]; 2] {
        let picture = picture.to_rgb8();
        [50, 150].map(|x| picture.get_pixel(x, 50).0)
    }

    #[test]
    fn each_encoding_reaches_the_file() {
        let rgb = saved(Encoding::RGB, &[-1.0, 0.0, 1.0, 1.0, 1.0, -1.0]);
        assert_eq!(two(&rgb), [[0, 128, 255], [255, 255, 0]]);
        assert_eq!(two(&saved(Encoding::GRAY, &[0.0, 0.4])), [[0; 3], [102; 3]]);
        let coloured = saved(Encoding::COLORMAP, &[0.0, 1.0]);
        assert_eq!(two(&coloured), [COLOURS[0], COLOURS[8]]);
        let fine = saved(Encoding::GRAY16, &[0.25, 1.5]);
        let image::DynamicImage::ImageLuma16(fine) = fine else {
            panic!("{:?}", fine.color());
        };
        let levels = [50, 150].map(|x| fine.get_pixel(x, 50).0[0]);
        assert_eq!(levels, [16384, 65535]);
    }

    #[test]
    fn each_picture_is_written_by_itself_under_its_own_name() {
        let folder = tempfile::tempdir().unwrap();
        let picture = OutputPicture {
            kind: "depth".into(),
            images: Tensor::from_slice(&[0f32, 0.5, 1.0], (3, 1, 1, 1), &Device::Cpu).unwrap(),
            encoding: Encoding::GRAY16,
        };
        let names = ["street/01.jpg", "../street/01.png", "/b.c.png"].map(String::from);
        let files = save_each(&[picture], &names, folder.path()).unwrap();
        let expected = [
            "street/01-depth.png",
            "street/01-2-depth.png",
            "b.c-depth.png",
        ];
        assert_eq!(files, expected.map(|file| folder.path().join(file)));
        for (file, level) in files.iter().zip([0, 32768, 65535]) {
            let image::DynamicImage::ImageLuma16(written) = image::open(file).unwrap() else {
                panic!("16 bits");
            };
            assert_eq!(
                (written.dimensions(), written.get_pixel(0, 0).0),
                ((1, 1), [level])
            );
        }
    }

    #[test]
    fn the_colour_map_gets_brighter_throughout() {
        let steps: Vec<f32> = (0..=100).map(|step| step as f32 / 100.0).collect();
        let values = Tensor::from_slice(&steps, (101, 1, 1, 1), &Device::Cpu).unwrap();
        let colours = coloured(&values).unwrap().flatten_all().unwrap();
        let colours = colours.to_vec1::<f32>().unwrap();
        let brightness = |rgb: &[f32]| 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
        let brightness: Vec<f32> = colours.chunks(3).map(brightness).collect();
        assert!(brightness.windows(2).all(|pair| pair[0] < pair[1]));
    }
}
