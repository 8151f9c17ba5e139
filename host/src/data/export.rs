//! Writes rendered scenes as an ordinary image folder, for other tools and for a look at the data.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use image::{DynamicImage, GrayImage, ImageBuffer, Luma, RgbImage};
use rayon::prelude::*;
use serde_json::json;

use super::scenes::{Domain, FAR, Scenes};
use super::{ColumnKind, DataOptions, Dataset, Error, Map, MapKind, transform};

/// What to write, and where.
#[derive(Clone, Debug, PartialEq)]
pub struct ExportOptions {
    /// The domain's name, without `scenes:`.
    pub domain: String,
    /// The folder; made if need be, and empty or absent before.
    pub out: PathBuf,
    /// How many scenes, at least 1.
    pub count: usize,
    /// Pixels along each side.
    pub size: usize,
    /// Which scenes.
    pub seed: u64,
    /// Maps to write beside the images.
    pub maps: Vec<MapKind>,
    /// Columns to write beside the images: a name, and where it comes from ([`DataOptions::columns`]).
    pub columns: BTreeMap<String, String>,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Images written; each map has as many.
    pub images: usize,
    /// The class folders.
    pub classes: Vec<String>,
}

/// Writes `CLASS/NUMBER.png`, one line a scene in `metadata.jsonl` (`file_name`, `text`, `label`, and `<map>_file_name` for each map and
/// column), and these under `_maps/MAP/CLASS/NUMBER.png`. [`super::Folder`] reads it back: every map and column is a picture beside the image.
///
/// Depth is 16-bit grey, 65535 for [`FAR`] world units and 0 for the sky, whose depth nobody knows; normals are RGB, -1..=1 to 0..=255; mask and edges are 8-bit grey, 0..=255;
/// segmentation is 8-bit grey, the region's number itself; fill is RGB. `progress` is called with the number of scenes done, from several threads.
///
/// # Errors
/// [`Error::OutputExists`] if the folder holds anything; [`Error::UnknownDomain`], [`Error::OutOfRange`], or what the disk says.
pub fn export(
    options: &ExportOptions,
    progress: &(dyn Fn(usize) + Sync),
) -> Result<Exported, Error> {
    let domain = Domain::parse(&options.domain)?;
    let scenes = Scenes::new(
        domain,
        &DataOptions {
            size: options.size,
            count: Some(options.count),
            seed: options.seed,
            maps: options.maps.clone(),
            columns: Some(options.columns.clone()),
            ..DataOptions::default()
        },
    )?;
    let out = &options.out;
    if out.exists()
        && (!out.is_dir()
            || std::fs::read_dir(out)
                .map_err(Error::io(out))?
                .next()
                .is_some())
    {
        return Err(Error::OutputExists { path: out.clone() });
    }
    if let Some(kind) = options
        .maps
        .iter()
        .find(|kind| options.columns.contains_key(kind.name()))
    {
        return Err(Error::ColumnName {
            name: kind.name().to_owned(),
            taken: format!("the maps asked for ({})", kind.name()),
        });
    }
    let maps = options.maps.iter().map(|kind| kind.name());
    let names = maps.chain(options.columns.keys().map(String::as_str));
    let folders =
        std::iter::once(out.clone()).chain(names.map(|name| out.join("_maps").join(name)));
    for folder in folders {
        for class in scenes.classes() {
            let folder = folder.join(class);
            std::fs::create_dir_all(&folder).map_err(Error::io(folder))?;
        }
    }
    let done = AtomicUsize::new(0);
    let lines = (0..options.count)
        .into_par_iter()
        .map(|index| {
            let line = write(&scenes, index, out);
            progress(done.fetch_add(1, Ordering::Relaxed) + 1);
            line
        })
        .collect::<Result<Vec<String>, Error>>()?;
    let metadata = out.join("metadata.jsonl");
    std::fs::write(&metadata, lines.concat()).map_err(Error::io(metadata))?;
    Ok(Exported {
        images: options.count,
        classes: scenes.classes().to_vec(),
    })
}

/// Writes one scene and returns its line of metadata.
fn write(scenes: &Scenes, index: usize, out: &Path) -> Result<String, Error> {
    let item = scenes.get(index)?;
    let class = item
        .class
        .and_then(|class| scenes.classes().get(class as usize))
        .map_or("scene", String::as_str);
    let file_name = format!("{class}/{index:06}.png");
    let size = scenes.size();
    transform::save_png(
        &colour(&item.image, size, |v| (v + 1.0) * 127.5),
        &out.join(&file_name),
    )?;
    let mut line = BTreeMap::from([
        ("file_name".to_owned(), json!(file_name)),
        ("text".to_owned(), json!(item.caption)),
        // The folders' order is not the scenes'.
        ("label".to_owned(), json!(item.class)),
    ]);
    for (kind, map) in &item.maps {
        let map_name = format!("_maps/{}/{file_name}", kind.name());
        let picture = match kind {
            MapKind::Depth => levels(map, size).into(),
            _ => picture(*kind, map, size),
        };
        transform::save_png(&picture, &out.join(&map_name))?;
        line.insert(format!("{}_file_name", kind.name()), json!(map_name));
    }
    for (name, column) in &item.columns {
        let column_name = format!("_maps/{name}/{file_name}");
        let picture = match column.kind {
            ColumnKind::Mask => grey(&column.values, size),
            ColumnKind::Depth => ImageBuffer::from_fn(size as u32, size as u32, |x, y| {
                let value = column.values[y as usize * size + x as usize];
                Luma([(value * 65535.0).round() as u16])
            })
            .into(),
            ColumnKind::Picture | ColumnKind::NormalsPicture | ColumnKind::Normals => {
                colour(&column.values, size, |v| (v + 1.0) * 127.5)
            }
        };
        transform::save_png(&picture, &out.join(&column_name))?;
        line.insert(format!("{name}_file_name"), json!(column_name));
    }
    Ok(format!("{}\n", json!(line)))
}

/// A map as a picture to look at; but for depth, whose sky is far in it, also what its file holds.
pub(super) fn picture(kind: MapKind, map: &Map, size: usize) -> DynamicImage {
    let side = size as u32;
    let at = |x: u32, y: u32| map.values[y as usize * size + x as usize];
    match kind {
        MapKind::Depth => ImageBuffer::from_fn(side, side, |x, y| Luma([level(at(x, y))])).into(),
        MapKind::Normals => colour(&map.values, size, |v| (v + 1.0) * 127.5),
        MapKind::Fill => colour(&map.values, size, |v| v * 255.0),
        MapKind::Mask | MapKind::Edges => grey(&map.values, size),
        MapKind::Segmentation => {
            GrayImage::from_fn(side, side, |x, y| Luma([at(x, y).round() as u8])).into()
        }
    }
}

/// Depth as it is measured: 0 for the sky.
pub(super) fn levels(map: &Map, size: usize) -> ImageBuffer<Luma<u16>, Vec<u16>> {
    let side = size as u32;
    ImageBuffer::from_fn(side, side, |x, y| {
        let depth = map.values[y as usize * size + x as usize];
        Luma([if depth < FAR { level(depth) } else { 0 }])
    })
}

fn level(depth: f32) -> u16 {
    (depth / FAR * 65535.0).round() as u16
}

/// One plane of values in 0..=1.
fn grey(values: &[f32], size: usize) -> DynamicImage {
    GrayImage::from_fn(size as u32, size as u32, |x, y| {
        Luma([(values[y as usize * size + x as usize] * 255.0).round() as u8])
    })
    .into()
}

fn colour(values: &[f32], size: usize, byte: impl Fn(f32) -> f32) -> DynamicImage {
    let plane = size * size;
    RgbImage::from_fn(size as u32, size as u32, |x, y| {
        let at = y as usize * size + x as usize;
        image::Rgb([0, 1, 2].map(|channel| byte(values[channel * plane + at]).round() as u8))
    })
    .into()
}
