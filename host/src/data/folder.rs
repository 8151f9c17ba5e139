//! A folder of image files: one subfolder a class, or flat.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbImage};
use sha2::{Digest, Sha256};

use super::{DataOptions, Dataset, Error, Item, crop, transform};
use crate::random::Stream;

/// Image files of a folder in the order of their paths.
///
/// - Where subfolders hold images, each such subfolder is a class (in sorted order; deeper folders belong to the class above them),
///   and images beside the class folders are left out, with a warning. Otherwise the images lie flat and have no class.
/// - Names that begin with `.` or `_` are ignored: `.DS_Store`, `__MACOSX`, and the `_maps` of an export.
/// - A file counts as an image by its extension, and is then decoded by its content: a PNG named `.jpg` works.
/// - Transparent pixels show white; 16-bit and grey images become 8-bit RGB; a camera's orientation mark is applied.
/// - Each image is resized and cropped as DiT's training data was.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    files: Vec<File>,
    classes: Vec<String>,
    size: usize,
    flip: bool,
    fingerprint: OnceLock<String>,
    /// The cropped RGB bytes of files met before, as many from the front as [`KEPT`] allows: a few large photographs would
    /// otherwise be decoded at every epoch, at many times the cost of a training step.
    decoded: Vec<OnceLock<Vec<u8>>>,
}

/// Memory for decoded images, in bytes.
const KEPT: usize = 512 << 20;

#[derive(Debug)]
struct File {
    /// Relative to the root, with `/` on every system.
    name: String,
    class: Option<u32>,
}

/// What a walk found.
#[derive(Default)]
struct Found {
    images: Vec<String>,
    others: usize,
}

impl Folder {
    /// Lists a folder; no image is read yet.
    ///
    /// # Errors
    /// [`Error::MissingFolder`], [`Error::EmptyFolder`], [`Error::OutOfRange`], or [`Error::Io`] if a folder cannot be listed.
    pub fn open(root: &Path, options: &DataOptions) -> Result<Self, Error> {
        super::check_size(options.size)?;
        if !root.is_dir() {
            return Err(Error::MissingFolder {
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
            files.extend(
                loose
                    .images
                    .into_iter()
                    .map(|name| File { name, class: None }),
            );
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
                files.extend(names.iter().map(|name| File {
                    name: name.clone(),
                    class: Some(class as u32),
                }));
            }
        }
        if files.is_empty() {
            return Err(Error::EmptyFolder {
                path: root.to_owned(),
                others: others + loose.others,
                extensions: extensions().join(", "),
            });
        }
        if let Some(count) = options.count {
            files = chosen(files, count, options.seed)?;
        }
        let kept = files.len().min(KEPT / (3 * options.size * options.size));
        Ok(Self {
            root: root.to_owned(),
            decoded: (0..kept).map(|_| OnceLock::new()).collect(),
            files,
            classes: classes.into_iter().map(|(name, _)| name).collect(),
            size: options.size,
            flip: options.flip,
            fingerprint: OnceLock::new(),
        })
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

    fn decode(&self, name: &str) -> Result<RgbImage, String> {
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
        Ok(opaque(picture))
    }
}

/// The picture over white, as 8-bit RGB.
fn opaque(picture: DynamicImage) -> RgbImage {
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

impl Found {
    fn take(&mut self, name: String) {
        let extension = Path::new(&name).extension().unwrap_or_default();
        if ImageFormat::from_extension(extension).is_some_and(|format| format.reading_enabled()) {
            self.images.push(name);
        } else {
            self.others += 1;
        }
    }
}

/// Files and folders that are not hidden, sorted by name.
fn entries(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
        let entry = entry.map_err(Error::io(folder))?;
        match entry.file_name().into_string() {
            Ok(name) if name.starts_with(['.', '_']) => {}
            Ok(name) => {
                all.insert(name, entry.path());
            }
            Err(name) => {
                tracing::warn!(name = %name.display(), "a file name that is not UTF-8 is left out")
            }
        }
    }
    Ok(all)
}

fn walk(folder: &Path, prefix: &str, found: &mut Found) -> Result<(), Error> {
    for (name, path) in entries(folder)? {
        let name = format!("{prefix}/{name}");
        // A link to a folder is not followed below a class: it could lead back here for ever.
        if path.is_dir() {
            if !path.is_symlink() {
                walk(&path, &name, found)?;
            }
        } else {
            found.take(name);
        }
    }
    Ok(())
}

fn extensions() -> Vec<&'static str> {
    let readable = ImageFormat::all().filter(ImageFormat::reading_enabled);
    readable
        .flat_map(|format| format.extensions_str().iter().copied())
        .collect()
}

impl Dataset for Folder {
    fn len(&self) -> usize {
        self.files.len()
    }

    fn get(&self, index: usize) -> Result<Item, Error> {
        let file = &self.files[index];
        let unreadable = |reason: String| Error::Unreadable {
            name: file.name.clone(),
            reason,
        };
        let slot = self.decoded.get(index);
        let image = if let Some(bytes) = slot.and_then(OnceLock::get) {
            transform::planes(bytes, 3)
        } else {
            // A decoder that panics on a damaged file must cost that file, not the run.
            let picture = std::panic::catch_unwind(|| self.decode(&file.name))
                .unwrap_or_else(|_| Err("its decoder panicked".to_owned()))
                .map_err(unreadable)?;
            let bytes = crop::center_crop(&picture, self.size).into_raw();
            let image = transform::planes(&bytes, 3);
            if let Some(slot) = slot {
                // Another thread may have been first, with the same bytes.
                let _ = slot.set(bytes);
            }
            image
        };
        Ok(Item {
            image,
            class: file.class,
            caption: None,
            name: file.name.clone(),
            maps: BTreeMap::new(),
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
        format!(
            "{} {images} ({classes}) in {}",
            self.files.len(),
            self.root.display()
        )
    }

    /// A hash of every file's name, length, first and last 4 KiB: enough to notice an edited image without reading a large dataset whole.
    fn fingerprint(&self) -> String {
        let compute = || {
            let mut hash = Sha256::new();
            for file in &self.files {
                hash.update(file.name.as_bytes());
                hash.update([0]);
                match ends(&self.root.join(&file.name)) {
                    Ok((length, bytes)) => {
                        hash.update(length.to_le_bytes());
                        hash.update(&bytes);
                    }
                    Err(_) => hash.update(b"unreadable"),
                }
            }
            let digest = hash.finalize();
            let hex: String = digest
                .iter()
                .take(16)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("folder:{hex}:size{}", self.size)
        };
        self.fingerprint.get_or_init(compute).clone()
    }

    fn size(&self) -> usize {
        self.size
    }

    fn flips(&self) -> bool {
        self.flip
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
