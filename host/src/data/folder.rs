//! A folder of image files: one subfolder a class, flat, or as its `metadata.jsonl` lists them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageReader};
use rayon::prelude::*;
use sha2::{Digest, Sha256};

use super::column::opaque;
use super::walk::{Found, entries, extensions, walk};
use super::{
    ColumnKind, DataOptions, Dataset, Error, Item, Origin, Size, bucket, crop, metadata, transform,
};
use crate::random::Stream;

/// Image files of a folder in the order of their paths.
///
/// - Where subfolders hold images, each such subfolder is a class (in sorted order; deeper folders belong to the class above them),
///   and images beside the class folders are left out, with a warning. Otherwise the images lie flat and have no class.
/// - A `metadata.jsonl` in it lists the images instead, in its own order, with further pictures, captions and labels.
/// - Names that begin with `.` or `_` are ignored: `.DS_Store`, `__MACOSX`, and the `_maps` of an export.
/// - A caption is the `text` of the image's line in `metadata.jsonl`, else what stands in the text file of the image's name (`01.txt` beside `01.png`), else
///   [`DataOptions::caption`].
/// - A file counts as an image by its extension, and is then decoded by its content: a PNG named `.jpg` works.
/// - Transparent pixels show white; 16-bit and grey images become 8-bit RGB; a camera's orientation mark is applied.
/// - Each image is resized and cropped as DiT's training data was, to a square or to the bucket nearest to its shape.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    table: Option<PathBuf>,
    files: Vec<File>,
    classes: Vec<String>,
    /// The pictures beside each image: name in the batch, and what it holds.
    columns: Vec<(String, ColumnKind)>,
    size: usize,
    buckets: Option<Buckets>,
    flip: bool,
    fingerprint: OnceLock<String>,
    /// The cropped bytes of images met before, each followed by those of its columns, as many from the front as [`KEPT`] allows: a few large photographs would
    /// otherwise be decoded at every epoch, at many times the cost of a training step.
    decoded: Vec<OnceLock<Decoded>>,
}

/// Sizes that images come in, and the place of each file's among them.
#[derive(Debug)]
struct Buckets {
    multiple: usize,
    sizes: Vec<Size>,
    of: Vec<usize>,
}

/// An image as it is kept.
#[derive(Clone, Debug)]
struct Decoded {
    /// The cropped image, interleaved, followed by its columns.
    bytes: Vec<u8>,
    origin: Origin,
}

/// Memory for decoded images, in bytes.
const KEPT: usize = 512 << 20;

/// How many items a run looks at before its first step, where measurements lie beside the images.
const CHECKED: usize = 1000;

/// Why an item cannot be used.
struct Flaw {
    /// The column at fault; none for the image itself.
    column: Option<(String, String)>,
    reason: String,
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.column {
            Some((column, file)) => write!(f, "its `{column}`, {file}: {}", self.reason),
            None => f.write_str(&self.reason),
        }
    }
}

#[derive(Debug)]
struct File {
    /// Relative to the root, with `/` on every system.
    name: String,
    class: Option<u32>,
    caption: Option<String>,
    /// Relative to the root, one for each column.
    columns: Vec<String>,
}

impl File {
    /// An image without anything beside it.
    fn alone(name: String, class: Option<u32>) -> Self {
        Self {
            name,
            class,
            caption: None,
            columns: Vec::new(),
        }
    }
}

impl Folder {
    /// Lists a folder, or a table of images in the form of `metadata.jsonl`; no image is read yet.
    ///
    /// # Errors
    /// [`Error::MissingFolder`], [`Error::EmptyFolder`], [`Error::OutOfRange`], [`Error::Metadata`] and the others of tables, or [`Error::Io`] if
    /// a folder cannot be listed.
    pub fn open(root: &Path, options: &DataOptions) -> Result<Self, Error> {
        super::check_size(options.size)?;
        if !root.exists() {
            return Err(Error::MissingFolder {
                path: root.to_owned(),
            });
        }
        let is_table = root.extension().is_some_and(|ending| ending == "jsonl");
        let table = match root.is_file() && is_table {
            true => root.to_owned(),
            false => root.join(metadata::FILE),
        };
        if table.is_file() {
            return Self::from_table(&table, options);
        }
        if !root.is_dir() {
            return Err(Error::MissingFolder {
                path: root.to_owned(),
            });
        }
        if let Some(columns) = options.columns.as_ref().filter(|names| !names.is_empty()) {
            return Err(Error::NoMetadata {
                names: metadata::listed(columns.keys().map(String::as_str)),
                path: root.to_owned(),
            });
        }
        let mut loose = Found::default();
        let mut classes: Vec<(String, Vec<String>)> = Vec::new();
        let mut others = 0;
        for (name, path) in entries(root)? {
            if path.is_dir() {
                let mut found = Found::default();
                walk(&path, &name, &mut found)?;
                others += found.others;
                if !found.images.is_empty() {
                    classes.push((name, found.images));
                }
            } else {
                loose.take(name);
            }
        }
        let mut files: Vec<File> = Vec::new();
        if classes.is_empty() {
            files.extend(loose.images.into_iter().map(|name| File::alone(name, None)));
        } else {
            if !loose.images.is_empty() {
                tracing::warn!(
                    folder = %root.display(),
                    images = loose.images.len(),
                    first = loose.images[0],
                    "images beside the class folders are left out"
                );
            }
            for (class, (_, names)) in classes.iter().enumerate() {
                files.extend(
                    names
                        .iter()
                        .map(|name| File::alone(name.clone(), Some(class as u32))),
                );
            }
        }
        if files.is_empty() {
            return Err(Error::EmptyFolder {
                path: root.to_owned(),
                others: others + loose.others,
                extensions: extensions().join(", "),
            });
        }
        let classes = classes.into_iter().map(|(name, _)| name).collect();
        Self::of(root, None, files, classes, Vec::new(), options)
    }

    /// The images of a table.
    fn from_table(table: &Path, options: &DataOptions) -> Result<Self, Error> {
        let found = metadata::read(table, options.columns.as_ref())?;
        let file = |row: metadata::Row| File {
            name: row.name,
            class: row.class,
            caption: row.caption,
            columns: row.columns,
        };
        let files = found.rows.into_iter().map(file).collect();
        let root = table.parent().unwrap_or(Path::new(""));
        let (classes, columns) = (found.classes, found.columns);
        Self::of(root, Some(table), files, classes, columns, options)
    }

    fn of(
        root: &Path,
        table: Option<&Path>,
        mut files: Vec<File>,
        classes: Vec<String>,
        columns: Vec<(String, ColumnKind)>,
        options: &DataOptions,
    ) -> Result<Self, Error> {
        if let Some(count) = options.count {
            files = chosen(files, count, options.seed)?;
        }
        for file in &mut files {
            if file.caption.is_none() {
                file.caption = caption_beside(&root.join(&file.name))?;
            }
            if file.caption.is_none() {
                file.caption.clone_from(&options.caption);
            }
        }
        let buckets =
            (options.buckets).map(|multiple| Buckets::new(root, &files, options.size, multiple));
        let pixel: usize = 3 + columns
            .iter()
            .map(|(_, kind)| kind.pixel_bytes())
            .sum::<usize>();
        let kept = files
            .len()
            .min(KEPT / (pixel * options.size * options.size));
        Ok(Self {
            root: root.to_owned(),
            table: table.map(Path::to_owned),
            decoded: (0..kept).map(|_| OnceLock::new()).collect(),
            files,
            classes,
            columns,
            size: options.size,
            buckets,
            flip: options.flip,
            fingerprint: OnceLock::new(),
        })
    }

    /// The size at which a file's image comes.
    fn size_of(&self, index: usize) -> Size {
        (self.buckets.as_ref())
            .and_then(|buckets| buckets.sizes.get(*buckets.of.get(index)?))
            .copied()
            .unwrap_or(Size::square(self.size))
    }

    /// The cropped bytes of an image, followed by those of its columns.
    fn cropped(&self, file: &File, size: Size) -> Result<Decoded, Flaw> {
        // A decoder that panics on a damaged file must cost that file, not the run.
        let decode = |name: &str| {
            std::panic::catch_unwind(|| self.decode(name))
                .unwrap_or_else(|_| Err("its decoder panicked".to_owned()))
        };
        let whole = decode(&file.name).map_err(|reason| Flaw {
            column: None,
            reason,
        })?;
        let shape = Size {
            height: whole.height() as usize,
            width: whole.width() as usize,
        };
        let cropped = crop::center_crop(&opaque(whole), size);
        let origin = Origin {
            size: shape,
            crop: cropped.corner,
        };
        let mut bytes = cropped.image.into_raw();
        for ((column, kind), name) in self.columns.iter().zip(&file.columns) {
            let cropped = decode(name).and_then(|picture| kind.cropped(picture, size));
            bytes.extend(cropped.map_err(|reason| Flaw {
                column: Some((column.clone(), name.clone())),
                reason,
            })?);
        }
        Ok(Decoded { bytes, origin })
    }

    /// Item `index`, from memory where it is kept.
    fn decoded(&self, index: usize) -> Result<Cow<'_, Decoded>, Flaw> {
        let (file, size) = (&self.files[index], self.size_of(index));
        match self.decoded.get(index) {
            Some(slot) => match slot.get() {
                Some(decoded) => Ok(Cow::Borrowed(decoded)),
                // Another thread may be first, with the same bytes.
                None => {
                    let decoded = self.cropped(file, size)?;
                    Ok(Cow::Borrowed(slot.get_or_init(|| decoded)))
                }
            },
            None => self.cropped(file, size).map(Cow::Owned),
        }
    }

    /// The shorter side of the first picture that can be read, in pixels.
    ///
    /// # Errors
    /// [`Error::AllUnreadable`].
    pub fn first_size(&self) -> Result<usize, Error> {
        let mut first = None;
        for file in &self.files {
            match image::image_dimensions(self.root.join(&file.name)) {
                Ok((width, height)) => return Ok(width.min(height) as usize),
                Err(error) => first.get_or_insert(format!("{}: {error}", file.name)),
            };
        }
        Err(Error::AllUnreadable {
            dataset: self.describe(),
            count: self.files.len(),
            first: first.unwrap_or_default(),
        })
    }

    fn decode(&self, name: &str) -> Result<DynamicImage, String> {
        let reader = ImageReader::open(self.root.join(name))
            .and_then(ImageReader::with_guessed_format)
            .map_err(|e| e.to_string())?;
        let mut decoder = reader.into_decoder().map_err(|e| e.to_string())?;
        let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
        let mut picture = DynamicImage::from_decoder(decoder).map_err(|e| e.to_string())?;
        picture.apply_orientation(orientation);
        if picture.width() == 0 || picture.height() == 0 {
            return Err("the image has no pixels".to_owned());
        }
        Ok(picture)
    }
}

/// A seeded choice of `count` files, in the order of their paths.
fn chosen(files: Vec<File>, count: usize, seed: u64) -> Result<Vec<File>, Error> {
    if count == 0 || count > files.len() {
        return Err(Error::OutOfRange {
            setting: "count",
            value: format!("{count} of {} images", files.len()),
            expected: "at least 1 and at most the images there are",
        });
    }
    let mut order: Vec<usize> = (0..files.len()).collect();
    super::loader::shuffle(&mut order, &mut Stream::new(seed, "folder/choice"));
    let mut keep = vec![false; files.len()];
    for index in &order[..count] {
        keep[*index] = true;
    }
    Ok(files
        .into_iter()
        .zip(keep)
        .filter_map(|(file, keep)| keep.then_some(file))
        .collect())
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Item, Error> {
        let file = &self.files[index];
        let decoded = self.decoded(index).map_err(|flaw| Error::Unreadable {
            name: file.name.clone(),
            reason: flaw.to_string(),
        })?;
        let size = self.size_of(index);
        let plane = size.area();
        let (image, mut rest) = decoded.bytes.split_at(3 * plane);
        let mut columns = BTreeMap::new();
        for (name, kind) in &self.columns {
            let (own, others) = rest.split_at(kind.pixel_bytes() * plane);
            columns.insert(name.clone(), kind.column(own));
            rest = others;
        }
        Ok(Item {
            image: transform::planes(image, 3),
            size,
            origin: Some(decoded.origin),
            class: file.class,
            caption: file.caption.clone(),
            name: file.name.clone(),
            maps: BTreeMap::new(),
            columns,
        })
    }

    fn classes(&self) -> &[String] {
        &self.classes
    }

    fn describe(&self) -> String {
        let classes = match self.classes.len() {
            0 => "no classes".to_owned(),
            1 => "1 class".to_owned(),
            count => format!("{count} classes"),
        };
        let images = if self.files.len() == 1 {
            "image"
        } else {
            "images"
        };
        let columns = match self.columns.is_empty() {
            true => String::new(),
            false => format!(
                ", each with {}",
                metadata::listed(self.columns.iter().map(|(name, _)| name.as_str()))
            ),
        };
        format!(
            "{} {images} ({classes}) in {}{columns}",
            self.files.len(),
            self.root.display()
        )
    }

    /// A hash of every file's name, length, first and last 4 KiB, columns among them, and of the table where there is one: enough to notice an edited image without reading a large dataset whole.
    fn fingerprint(&self) -> String {
        let compute = || {
            let mut hash = Sha256::new();
            for file in &self.files {
                for name in std::iter::once(&file.name).chain(&file.columns) {
                    hash.update(name.as_bytes());
                    hash.update([0]);
                    match ends(&self.root.join(name)) {
                        Ok((length, bytes)) => {
                            hash.update(length.to_le_bytes());
                            hash.update(&bytes);
                        }
                        Err(_) => hash.update(b"unreadable"),
                    }
                }
            }
            for caption in self.files.iter().filter_map(|file| file.caption.as_ref()) {
                hash.update(caption);
                hash.update([0]);
            }
            // Labels, captions and the columns' names, which no picture tells.
            if let Some(table) = &self.table {
                hash.update(std::fs::read(table).unwrap_or_default());
                hash.update(format!("{:?}", self.columns));
            }
            let digest = hash.finalize();
            let hex: String = digest
                .iter()
                .take(16)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            let buckets = (self.buckets.as_ref())
                .map(|buckets| format!(":buckets{}", buckets.multiple))
                .unwrap_or_default();
            format!("folder:{hex}:size{}{buckets}", self.size)
        };
        self.fingerprint.get_or_init(compute).clone()
    }

    fn size(&self) -> usize {
        self.size
    }

    fn buckets(&self) -> Option<&[usize]> {
        self.buckets.as_ref().map(|buckets| &*buckets.of)
    }

    fn uncaptioned(&self) -> Option<(usize, &str)> {
        let mut without = (self.files.iter()).filter(|file| file.caption.is_none());
        let first = without.next()?;
        Some((1 + without.count(), &first.name))
    }

    fn flips(&self) -> bool {
        self.flip
    }

    /// Reads the first [`CHECKED`] items where depth or normals lie beside the images, so that one which holds none is told at once.
    fn check(&self) -> Result<(), Error> {
        if !self.columns.iter().any(|(_, kind)| kind.is_measured()) {
            return Ok(());
        }
        let count = self.files.len().min(CHECKED);
        let flaw = (0..count).into_par_iter().find_map_first(|index| {
            let flaw = self.decoded(index).err()?;
            let (column, file) = flaw.column?;
            let kind = self.columns.iter().find(|(name, _)| *name == column)?.1;
            kind.is_measured().then(|| Error::Column {
                image: self.files[index].name.clone(),
                column,
                file,
                reason: flaw.reason,
            })
        });
        flaw.map_or(Ok(()), Err)
    }

    fn columns(&self) -> Vec<String> {
        self.columns.iter().map(|(name, _)| name.clone()).collect()
    }
}

impl Buckets {
    /// Puts each file into the bucket nearest to its shape; what cannot be read is told when it is its turn.
    fn new(root: &Path, files: &[File], side: usize, multiple: usize) -> Self {
        let sizes = bucket::sizes(side, multiple);
        let of = files.par_iter().map(|file| {
            let shape = metadata::header(root.join(&file.name));
            let shape = shape.map_or(Size::square(side), |((width, height), _)| Size {
                height: height as usize,
                width: width as usize,
            });
            bucket::nearest(&sizes, shape)
        });
        Self {
            multiple,
            of: of.collect(),
            sizes,
        }
    }
}

/// The text in the file of an image's name that ends in `.txt`, if there is one.
fn caption_beside(image: &Path) -> Result<Option<String>, Error> {
    let file = image.with_extension("txt");
    match std::fs::read(&file) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).trim().to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(file)(error)),
    }
}

/// A file's length, and its first and last 4 KiB.
fn ends(path: &Path) -> std::io::Result<(u64, Vec<u8>)> {
    use std::io::{Seek, SeekFrom};
    const PART: u64 = 4096;
    let mut file = std::fs::File::open(path)?;
    let length = file.metadata()?.len();
    let mut bytes = Vec::new();
    file.by_ref().take(PART).read_to_end(&mut bytes)?;
    file.seek(SeekFrom::Start(length.saturating_sub(PART)))?;
    file.take(PART).read_to_end(&mut bytes)?;
    Ok((length, bytes))
}
