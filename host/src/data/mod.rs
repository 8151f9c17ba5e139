//! Datasets, the scene generator and the loader: everything between a `--data` argument and a batch of tensors.

pub mod bucket;
mod column;
mod crop;
mod error;
mod export;
mod folder;
mod labels;
mod loader;
mod metadata;
mod relabel;
pub mod scenes;
#[cfg(test)]
mod tests;
pub mod transform;
mod walk;

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

pub use column::{Column, ColumnKind};
pub use error::Error;
pub use export::{ExportOptions, Exported, export};
pub use folder::Folder;
pub use loader::{Loader, LoaderState, first_images, first_items};
pub use relabel::relabelled;
pub use scenes::Scenes;

/// One example.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// `[3, H, W]` of `size`, row by row, each value in -1..=1.
    pub image: Vec<f32>,
    /// Of the image, its maps and columns, in pixels.
    pub size: Size,
    /// What of a larger picture the image shows; none where it is all there is.
    pub origin: Option<Origin>,
    /// The label, an index into [`Dataset::classes`]; none where the data has no classes.
    pub class: Option<u32>,
    /// What the image shows, in words, where the data says.
    pub caption: Option<String>,
    /// Unique within the dataset: a file's path relative to its folder, or a scene's number.
    pub name: String,
    /// The exact maps that [`DataOptions::maps`] asked for.
    pub maps: BTreeMap<MapKind, Map>,
    /// Further pictures, by their names in a batch: those of [`Dataset::columns`].
    pub columns: BTreeMap<String, Column>,
}

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
}

impl Size {
    /// The same both ways.
    pub fn square(side: usize) -> Self {
        Self {
            height: side,
            width: side,
        }
    }

    /// Pixels in all.
    pub fn area(self) -> usize {
        self.height * self.width
    }
}

/// Which part of a picture an image shows: what Stable Diffusion XL is told beside the caption (Podell et al. 2023, section 2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The picture before it was resized.
    pub size: Size,
    /// Rows and columns of the resized picture that the crop took off above and on the left.
    pub crop: (usize, usize),
}

/// As `HEIGHTxWIDTH+TOP+LEFT`, the form in batches.
impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (top, left) = self.crop;
        write!(f, "{}x{}+{top}+{left}", self.size.height, self.size.width)
    }
}

impl Origin {
    /// Reads what [`Origin`] displays.
    pub fn parse(text: &str) -> Option<Self> {
        let (size, crop) = text.split_once('+')?;
        let (height, width) = size.split_once('x')?;
        let (top, left) = crop.split_once('+')?;
        let number = |text: &str| text.parse::<usize>().ok();
        Some(Self {
            size: Size {
                height: number(height)?,
                width: number(width)?,
            },
            crop: (number(top)?, number(left)?),
        })
    }
}

/// An image-sized array beside an image.
#[derive(Clone, Debug, PartialEq)]
pub struct Map {
    /// 1 or 3.
    pub channels: usize,
    /// `[channels, H, W]`, row by row; the range is [`MapKind`]'s.
    pub values: Vec<f32>,
}

/// What is known exactly of a rendered scene. Values are read at pixel centres, never averaged across an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MapKind {
    /// One channel: distance along the optical axis in world units (a solid is about 1 across); [`scenes::FAR`] for the sky.
    Depth,
    /// Three channels: unit surface normals as seen from the camera (x right, y up, z towards it); zero for the sky.
    Normals,
    /// One channel: 1 on a solid, else 0.
    Mask,
    /// One channel: how much of the pixel an outline or crease covers, 0..=1.
    Edges,
    /// One channel: 0 sky, 1 floor, 2 and up the kind of solid (2 sphere, 3 box, 4 cylinder, 5 cone, 6 torus, 7 pyramid, 8 capsule, 9 star, 10 arch, 11 dome, 12 cross).
    Segmentation,
    /// Three channels: each region in its one flat colour, display RGB in 0..=1.
    Fill,
}

impl MapKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Depth,
        Self::Normals,
        Self::Mask,
        Self::Edges,
        Self::Segmentation,
        Self::Fill,
    ];

    /// The name in batches and folders.
    pub fn name(self) -> &'static str {
        match self {
            Self::Depth => "depth",
            Self::Normals => "normals",
            Self::Mask => "mask",
            Self::Edges => "edges",
            Self::Segmentation => "segmentation",
            Self::Fill => "fill",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Channels of its map.
    pub fn channels(self) -> usize {
        match self {
            Self::Normals | Self::Fill => 3,
            _ => 1,
        }
    }
}

/// What a dataset is asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct DataOptions {
    /// Pixels along each side of an image: 8..=2048.
    pub size: usize,
    /// Whether the loader mirrors each image left to right with probability one half, anew every epoch.
    pub flip: bool,
    /// How many items: of a folder the first so many in a seeded shuffle, all of them by default; of scenes [`scenes::DEFAULT_COUNT`] by default.
    pub count: Option<usize>,
    /// Which scenes are drawn, and which files a `count` below the folder's size picks.
    pub seed: u64,
    /// The maps that come with every item. Folders have none.
    pub maps: Vec<MapKind>,
    /// Further pictures of each item: the name in a batch, and where it comes from. For a folder that is a picture of its `metadata.jsonl`, for scenes a map,
    /// `hole`, `reference_N`, or `domain:NAME`. Absent: all that a folder's `metadata.jsonl` has under their own names, the depth and normals of scenes.
    pub columns: Option<BTreeMap<String, String>>,
    /// The caption of a folder's images that have none of their own.
    pub caption: Option<String>,
    /// Given, a folder's images keep about their own shape: they get sizes of `size * size` pixels at most whose sides are multiples of this, and batches are
    /// of one size each.
    pub buckets: Option<usize>,
}

impl Default for DataOptions {
    fn default() -> Self {
        Self {
            size: 32,
            flip: false,
            count: None,
            seed: 0,
            maps: Vec::new(),
            columns: None,
            caption: None,
            buckets: None,
        }
    }
}

/// A fixed, ordered collection of examples, readable from several threads at once.
pub trait Dataset: Send + Sync {
    /// How many items, readable or not.
    fn len(&self) -> usize;

    /// Whether there are none; [`open`] never gives such a dataset.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Item `index`, the same at every call.
    ///
    /// # Errors
    /// [`Error::Unreadable`] for this item alone, which a loader skips; any other error is the whole dataset's.
    fn get(&self, index: usize) -> Result<Item, Error>;

    /// Class names in the order of the labels; empty where there are no classes.
    fn classes(&self) -> &[String];

    /// What and how many, for people: "50000 rendered scenes (studio, seed 0)".
    fn describe(&self) -> String;

    /// Equal for equal content under equal options; for cache keys and for checking a resumed run's data.
    fn fingerprint(&self) -> String;

    /// Pixels along each side of an image; of those in buckets, the side of a square of as many pixels.
    fn size(&self) -> usize;

    /// For each item the number of its bucket, where images have sizes of their own: a loader makes batches of one bucket each.
    fn buckets(&self) -> Option<&[usize]> {
        None
    }

    /// How many items have no caption, and the name of the first of them.
    fn uncaptioned(&self) -> Option<(usize, &str)> {
        None
    }

    /// Whether a loader is to mirror images at random.
    fn flips(&self) -> bool {
        false
    }

    /// Looks early for what would stop a run late.
    ///
    /// # Errors
    /// [`Error::Column`] for depth or normals that hold nothing.
    fn check(&self) -> Result<(), Error> {
        Ok(())
    }

    /// Names of the further pictures that every item has.
    fn columns(&self) -> Vec<String> {
        Vec::new()
    }
}

/// The tensors of one training step, with what belongs to them in words.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// `images` `[B, 3, H, W]` f32 in -1..=1; `class_labels` `[B]` u32 where there are classes; a map's name `[B, C, H, W]` f32 for each map;
    /// a column's name `[B, C, H, W]` f32 for each column, its channels and range as [`ColumnKind`] has them.
    pub tensors: BTreeMap<String, Tensor>,
    /// `names` and, where every item has one, `captions` and `origins` ([`Origin`]): JSON arrays of strings in the order of the batch.
    pub meta: BTreeMap<String, String>,
}

/// Opens what `--data` names: `scenes:DOMAIN` (or several domains in turn, `scenes:DOMAIN,DOMAIN`), a folder of images, or a table of images in the form of
/// `metadata.jsonl`.
///
/// # Errors
/// Says what was looked for: no such folder, nothing in it, no such domain, an option out of range.
pub fn open(spec: &str, options: &DataOptions) -> Result<Box<dyn Dataset>, Error> {
    let Some(domains) = spec.strip_prefix("scenes:") else {
        return Ok(Box::new(Folder::open(Path::new(spec), options)?));
    };
    let domains: Vec<scenes::Domain> = (domains.split(','))
        .map(scenes::Domain::parse)
        .collect::<Result<_, _>>()?;
    Ok(match domains.as_slice() {
        [domain] => Box::new(Scenes::new(*domain, options)?),
        domains => Box::new(scenes::Mixed::new(domains, options)?),
    })
}

/// Checks that a backbone of `backbone_classes` classes (without the null class) can take the dataset's labels, which are used as they are.
///
/// # Errors
/// [`Error::TooManyClasses`] with both numbers. A dataset without classes always passes.
pub fn check_classes(dataset: &dyn Dataset, backbone_classes: usize) -> Result<(), Error> {
    let classes = dataset.classes();
    if classes.len() <= backbone_classes {
        return Ok(());
    }
    const SHOWN: usize = 8;
    let mut names = classes
        .iter()
        .take(SHOWN)
        .map(String::as_str)
        .collect::<Vec<_>>()
        .join(", ");
    if classes.len() > SHOWN {
        names.push_str(", ...");
    }
    Err(Error::TooManyClasses {
        dataset: dataset.describe(),
        classes: classes.len(),
        names,
        backbone: backbone_classes,
    })
}

/// Checks that every item has a caption, for a backbone that is conditioned on text.
///
/// # Errors
/// [`Error::NoCaptions`] with the first that has none.
pub fn check_captions(dataset: &dyn Dataset) -> Result<(), Error> {
    match dataset.uncaptioned() {
        None => Ok(()),
        Some((missing, first)) => Err(Error::NoCaptions {
            dataset: dataset.describe(),
            missing,
            first: first.to_owned(),
        }),
    }
}

/// Checks that something can be read at all, before a run makes its folder: reads items up to the first readable one, and all that [`Dataset::check`] does.
///
/// # Errors
/// [`Error::AllUnreadable`] with the first reason; whatever else a dataset reports.
pub fn check_readable(dataset: &dyn Dataset) -> Result<(), Error> {
    dataset.check()?;
    let mut first = None;
    for index in 0..dataset.len() {
        match dataset.get(index) {
            Err(Error::Unreadable { name, reason }) => {
                first.get_or_insert(format!("{name}: {reason}"));
            }
            other => return other.map(drop),
        }
    }
    match first {
        None => Ok(()),
        Some(first) => Err(Error::AllUnreadable {
            dataset: dataset.describe(),
            count: dataset.len(),
            first,
        }),
    }
}

/// The name most like a mistaken one, where one is near.
fn near<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    known
        .map(|known| (strsim::jaro_winkler(known, name), known))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.75)
        .map(|(_, known)| known.to_owned())
}

/// The end of a sentence about a mistaken name: the name that is near, and all that could have been meant.
fn instead<'a>(name: &str, known: impl Iterator<Item = &'a str>, all: &str) -> String {
    let near = near(name, known).map(|near| format!(", did you mean `{near}`?"));
    format!("{}; it has: {all}", near.unwrap_or_default())
}

fn check_size(size: usize) -> Result<(), Error> {
    if (8..=2048).contains(&size) {
        return Ok(());
    }
    Err(Error::OutOfRange {
        setting: "size",
        value: size.to_string(),
        expected: "8 to 2048 pixels",
    })
}
