//! `metadata.jsonl`: a table of images with further pictures, captions and labels, in the form of the imagefolder of Hugging Face's datasets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::metadata::Orientation;
use image::{ColorType, ImageDecoder, ImageFormat, ImageReader};
use serde_json::{Map, Value};

use super::column::{ColumnKind, check_name, is_hint};
use super::labels::Labels;
use super::{Error, instead};

/// The file's name in a folder.
pub(super) const FILE: &str = "metadata.jsonl";

/// Keys whose text is never taken for the name of a picture.
const TEXTS: [&str; 5] = ["text", "caption", "prompt", "label", "file_name"];

/// What a table says: one row an image, and the columns that every row has.
#[derive(Debug)]
pub(super) struct Metadata {
    pub(super) rows: Vec<Row>,
    /// Name in the batch, and what it holds.
    pub(super) columns: Vec<(String, ColumnKind)>,
    pub(super) classes: Vec<String>,
}

/// One line.
#[derive(Debug)]
pub(super) struct Row {
    /// The image, relative to the table's folder.
    pub(super) name: String,
    pub(super) class: Option<u32>,
    pub(super) caption: Option<String>,
    /// The pictures beside it, one for each of [`Metadata::columns`].
    pub(super) columns: Vec<String>,
}

/// A line as read.
pub(super) struct Line {
    pub(super) number: usize,
    pub(super) image: String,
    pictures: BTreeMap<String, String>,
    pub(super) label: Option<Value>,
    caption: Option<String>,
}

/// Reads a table and checks every line of it: that the files are there, that each line has the same pictures, that masks have the shape of their images, and
/// depth and normals their size.
///
/// `wanted` maps the names of the batch to the table's, of which the batch's own will do as well; without it every picture comes under the table's name.
///
/// # Errors
/// [`Error::Metadata`] with the line, [`Error::NoColumn`], [`Error::ColumnName`], or [`Error::Io`] for a file that cannot be read.
pub(super) fn read(
    file: &Path,
    wanted: Option<&BTreeMap<String, String>>,
) -> Result<Metadata, Error> {
    let text = std::fs::read_to_string(file).map_err(Error::io(file))?;
    let at = Place {
        file,
        folder: file.parent().unwrap_or(Path::new("")),
    };
    let lines = (1..)
        .zip(text.lines())
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(number, line)| at.line(number, line))
        .collect::<Result<Vec<Line>, Error>>()?;
    let Some(first) = lines.first() else {
        return Err(at.wrong(1, "the file has no lines; write one JSON object an image, such as {\"file_name\": \"01.png\", \"source\": \"edges/01.png\"}"));
    };
    let own = || {
        first
            .pictures
            .keys()
            .map(|name| (name.clone(), name.clone()))
            .collect()
    };
    let mut chosen: BTreeMap<String, String> = wanted.cloned().unwrap_or_else(own);
    for (name, source) in &mut chosen {
        check_name(name)?;
        // An exported table has the batch's own names already.
        if !first.pictures.contains_key(source) && first.pictures.contains_key(name) {
            source.clone_from(name);
        }
        if !first.pictures.contains_key(source) {
            return Err(Error::NoColumn {
                name: name.clone(),
                source_name: source.clone(),
                place: file.display().to_string(),
                instead: instead(
                    source,
                    first.pictures.keys().map(String::as_str),
                    &listed(first.pictures.keys().map(String::as_str)),
                ),
            });
        }
    }
    let columns: Vec<(String, ColumnKind)> = chosen
        .iter()
        .map(|(name, source)| (name.clone(), ColumnKind::of(name, source)))
        .collect();
    let labels = Labels::of(&at, &lines)?;
    let mut told = false;
    let mut rows = Vec::with_capacity(lines.len());
    for line in &lines {
        let mut pictures = Vec::with_capacity(columns.len());
        for (source, (name, kind)) in chosen.values().zip(&columns) {
            let Some(picture) = line.pictures.get(source) else {
                return Err(at.wrong(
                    line.number,
                    format_args!("there is no `{source}`, which line {} has; every line needs the same pictures", first.number),
                ));
            };
            at.exists(line.number, source, picture)?;
            at.fits(line, name, *kind, picture, &mut told)?;
            pictures.push(picture.clone());
        }
        if wanted.is_none()
            && let Some(other) = line
                .pictures
                .keys()
                .find(|name| !chosen.contains_key(*name))
        {
            return Err(at.wrong(
                line.number,
                format_args!(
                    "there is a picture `{other}`, which line {} does not have; every line needs the same pictures",
                    first.number
                ),
            ));
        }
        rows.push(Row {
            class: labels.class(line),
            name: line.image.clone(),
            caption: line.caption.clone(),
            columns: pictures,
        });
    }
    Ok(Metadata {
        rows,
        columns,
        classes: labels.classes,
    })
}

/// The table under hand, for messages.
pub(super) struct Place<'a> {
    file: &'a Path,
    folder: &'a Path,
}

impl Place<'_> {
    pub(super) fn wrong(&self, line: usize, reason: impl std::fmt::Display) -> Error {
        Error::Metadata {
            file: self.file.to_owned(),
            line,
            reason: reason.to_string(),
        }
    }

    fn line(&self, number: usize, text: &str) -> Result<Line, Error> {
        let mut keys: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| self.wrong(number, format_args!("this is no JSON object: {error}")))?;
        let Some(Value::String(image)) = keys.remove("file_name") else {
            return Err(self.wrong(
                number,
                "there is no `file_name`, the path of the image relative to this file",
            ));
        };
        self.exists(number, "file_name", &image)?;
        let mut pictures = BTreeMap::new();
        for (key, value) in &keys {
            let named = key.strip_suffix("_file_name");
            let picture = match value {
                Value::String(path) if named.is_some() || names_picture(key, path) => path,
                Value::Null => continue,
                _ if named.is_some() => {
                    return Err(self.wrong(
                        number,
                        format_args!("`{key}` is {value}, not the path of a picture"),
                    ));
                }
                _ => continue,
            };
            let name = named.unwrap_or(key);
            check_name(name).map_err(|error| self.wrong(number, error.to_string()))?;
            if pictures.insert(name.to_owned(), picture.clone()).is_some() {
                return Err(self.wrong(
                    number,
                    format_args!("`{name}` and `{name}_file_name` are both there; keep one"),
                ));
            }
        }
        let caption = ["text", "caption", "prompt"]
            .iter()
            .find_map(|key| keys.get(*key)?.as_str())
            .map(str::to_owned);
        Ok(Line {
            number,
            image,
            pictures,
            label: keys.remove("label").filter(|label| !label.is_null()),
            caption,
        })
    }

    fn exists(&self, line: usize, key: &str, path: &str) -> Result<(), Error> {
        if self.folder.join(path).is_file() {
            return Ok(());
        }
        Err(self.wrong(
            line,
            format_args!(
                "`{key}` names {path}, and there is no such file in {}; correct the path (it is relative to the table) or take the line out",
                self.folder.display()
            ),
        ))
    }

    /// Depth, normals and hints are of their image's pixels. A mask of another shape than its image would be cropped elsewhere. A picture of another shape may be meant
    /// (a reference is a picture of its own), so that is told once. What cannot be read is told by whoever needs it.
    fn fits(
        &self,
        line: &Line,
        name: &str,
        kind: ColumnKind,
        picture: &str,
        told: &mut bool,
    ) -> Result<(), Error> {
        let hint = is_hint(name);
        if !kind.is_measured() && !hint && kind != ColumnKind::Mask && *told {
            return Ok(());
        }
        let (Some((image, _)), Some((other, colours))) = (
            header(self.folder.join(&line.image)),
            header(self.folder.join(picture)),
        ) else {
            return Ok(());
        };
        if let Some(problem) = kind.wrong_colours(colours) {
            return Err(self.wrong(line.number, format_args!("`{name}`, {picture}: {problem}")));
        }
        let shapes = format!(
            "{}x{} and its image {}x{}",
            other.0, other.1, image.0, image.1
        );
        if (kind.is_measured() || hint) && image != other {
            return Err(self.wrong(
                line.number,
                format_args!(
                    "`{name}` is {shapes}; it needs the size of its image, pixel for pixel"
                ),
            ));
        }
        // Sides that were scaled to whole pixels differ by less than one.
        let (across, down) = (image.0 * other.1, image.1 * other.0);
        let slack = image.0.max(image.1).max(other.0).max(other.1);
        if across.abs_diff(down) <= slack {
            return Ok(());
        }
        if kind == ColumnKind::Mask {
            return Err(self.wrong(
                line.number,
                format_args!("`{name}` is {shapes}; a mask needs the shape of its image (another size is fine)"),
            ));
        }
        *told = true;
        tracing::warn!(
            "{}, line {}: `{name}` is {shapes}, so that each is cropped to its own middle",
            self.file.display(),
            line.number
        );
        Ok(())
    }
}

/// Whether the text under a key is the path of a picture.
fn names_picture(key: &str, text: &str) -> bool {
    let extension = Path::new(text).extension().unwrap_or_default();
    !TEXTS.contains(&key)
        && ImageFormat::from_extension(extension).is_some_and(|format| format.reading_enabled())
}

/// Width and height as shown, and what its pixels are, from the file's header.
pub(super) fn header(path: PathBuf) -> Option<((u64, u64), ColorType)> {
    let reader = ImageReader::open(path).ok()?.with_guessed_format().ok()?;
    let mut decoder = reader.into_decoder().ok()?;
    let (width, height) = decoder.dimensions();
    let (width, height) = (u64::from(width), u64::from(height));
    let turned = matches!(
        decoder.orientation().unwrap_or(Orientation::NoTransforms),
        Orientation::Rotate90
            | Orientation::Rotate270
            | Orientation::Rotate90FlipH
            | Orientation::Rotate270FlipH
    );
    let extent = match turned {
        true => (height, width),
        false => (width, height),
    };
    Some((extent, decoder.color_type()))
}

/// Names in a sentence.
pub(super) fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<&str> = names.collect();
    match names.is_empty() {
        true => "none".to_owned(),
        false => names.join(", "),
    }
}
