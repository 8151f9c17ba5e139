//! The data module as a caller meets it: what every part's tests share.
#![allow(clippy::unwrap_used)]

mod columns;
mod folder;
mod loader;
mod measured;
mod pictures;

use std::path::Path;

use image::{DynamicImage, Rgb, RgbImage};

use super::*;

fn write(path: &Path, picture: impl Into<DynamicImage>) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    picture.into().save(path).unwrap();
}

fn plain(colour: [u8; 3]) -> RgbImage {
    RgbImage::from_pixel(20, 16, Rgb(colour))
}

fn folder(root: &Path, size: usize) -> Result<Folder, Error> {
    Folder::open(
        root,
        &DataOptions {
            size,
            ..DataOptions::default()
        },
    )
}
