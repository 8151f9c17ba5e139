//! What can go wrong with data, each variant carrying what is needed to put it right.

use std::path::PathBuf;

/// What can go wrong between a `--data` argument and a batch.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder does not exist, or is a file.
    #[error("no data folder at {}; give a folder of images (one subfolder a class, flat, or with a metadata.jsonl), or scenes:DOMAIN", path.display())]
    MissingFolder {
        /// What was given.
        path: PathBuf,
    },
    /// The folder exists but holds no file with an image's extension.
    #[error(
        "no images in {} ({others} other files seen); looked in it and in its subfolders, apart from names that begin with . or _, for files ending in {extensions}",
        path.display()
    )]
    EmptyFolder {
        /// The folder.
        path: PathBuf,
        /// How many files were seen that are no images.
        others: usize,
        /// The extensions looked for.
        extensions: String,
    },
    /// One file cannot be read or decoded. The loader skips it and keeps its name.
    #[error("cannot read {name}: {reason}")]
    Unreadable {
        /// The file, relative to its dataset.
        name: String,
        /// Why.
        reason: String,
    },
    /// A column that holds none of the measurements that it is named after.
    #[error(
        "the `{column}` of {image}, {file}: {reason}; mend it, or take its line out of the table"
    )]
    Column {
        /// The image, relative to the dataset.
        image: String,
        /// The column.
        column: String,
        /// Its file, relative to the dataset.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// Every item of the dataset is unreadable.
    #[error("none of the {count} items of {dataset} can be read; the first is {first}")]
    AllUnreadable {
        /// The dataset, described.
        dataset: String,
        /// How many items there are.
        count: usize,
        /// The first unreadable file with its reason.
        first: String,
    },
    /// The dataset has no items at all.
    #[error("{dataset} has no items")]
    NoItems {
        /// The dataset, described.
        dataset: String,
    },
    /// `scenes:` with a name that is no domain.
    #[error(
        "unknown scene domain `{name}`{}; domains: {known}; a content and a style may be joined, as in solids+neon",
        suggestion(near)
    )]
    UnknownDomain {
        /// What was given.
        name: String,
        /// The nearest domain's name, where one is near.
        near: Option<String>,
        /// All the names.
        known: String,
    },
    /// A table of images with a mistake in it.
    #[error("{}, line {line}: {reason}", file.display())]
    Metadata {
        /// The table.
        file: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// A column is to come from something that the data does not have.
    #[error(
        "data.columns wants `{name}` from `{source_name}`, which {place} does not have{instead}"
    )]
    NoColumn {
        /// The column's name in the batch.
        name: String,
        /// What it was to come from.
        source_name: String,
        /// The data.
        place: String,
        /// The nearest name that there is, and all that there are.
        instead: String,
    },
    /// A column named after a measurement is to come from something else.
    #[error(
        "data.columns wants `{name}` from `{source_name}`, but what is called so is measured {measure}; take it from `{measure}`, or call it otherwise"
    )]
    OtherMeasure {
        /// The column.
        name: String,
        /// What it must hold.
        measure: &'static str,
        /// What it was to come from.
        source_name: String,
    },
    /// Columns are asked of a folder that has no table.
    #[error(
        "data.columns asks for {names}, but {} has no metadata.jsonl that names pictures beside the images; write one, a line an image: {{\"file_name\": \"01.png\", \"source\": \"edges/01.png\"}}",
        path.display()
    )]
    NoMetadata {
        /// The columns asked for.
        names: String,
        /// The folder.
        path: PathBuf,
    },
    /// A name that cannot be a column's.
    #[error(
        "`{name}` cannot be the name of a column: use letters, digits, `_`, `-` and `.`, and none of {taken}"
    )]
    ColumnName {
        /// The name.
        name: String,
        /// Names that mean something else.
        taken: String,
    },
    /// A scene in a domain that shows other things is no counterpart of the image.
    #[error(
        "data.columns wants `{name}` from scenes of {other}, which show other things than those of {domain}; choose a domain that differs in style alone"
    )]
    OtherContent {
        /// The column.
        name: String,
        /// The domain asked for.
        other: String,
        /// The images' domain.
        domain: String,
    },
    /// A class that the run was not trained on.
    #[error("the run has no class `{name}`{}; it has: {known}", suggestion(near))]
    UnknownClass {
        /// The class.
        name: String,
        /// The nearest class that there is.
        near: Option<String>,
        /// All that there are.
        known: String,
    },
    /// More classes than the backbone knows.
    #[error(
        "{dataset} has {classes} classes ({names}), but the backbone has only {backbone}; use fewer class folders or another backbone"
    )]
    TooManyClasses {
        /// The dataset, described.
        dataset: String,
        /// The dataset's classes.
        classes: usize,
        /// Their names.
        names: String,
        /// The backbone's classes, without the null class.
        backbone: usize,
    },
    /// Images without captions, where the backbone is conditioned on text.
    #[error(
        "the backbone is conditioned on text, but {missing} of {dataset} have no caption, {first} for one; write NAME.txt beside NAME.png or `text` into the lines of metadata.jsonl, or give those without one data.caption"
    )]
    NoCaptions {
        /// The dataset, described.
        dataset: String,
        /// How many items have none.
        missing: usize,
        /// The first of them.
        first: String,
    },
    /// A setting is out of its range.
    #[error("{setting} is {value}, but must be {expected}")]
    OutOfRange {
        /// Which setting.
        setting: &'static str,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// The items of one batch do not have one size.
    #[error("{name} is {got} values where the batch has {expected} an item")]
    UnevenItems {
        /// The item that differs.
        name: String,
        /// Its number of values.
        got: usize,
        /// The number of values expected.
        expected: usize,
    },
    /// A saved position lies beyond the dataset's end.
    #[error(
        "the saved position {position} lies beyond the {len} items of {dataset}; the data has changed since the checkpoint"
    )]
    StaleState {
        /// The position in the checkpoint.
        position: usize,
        /// The dataset's length now.
        len: usize,
        /// The dataset, described.
        dataset: String,
    },
    /// A decode thread panicked or is gone.
    #[error("a data thread failed on {item}: {message}")]
    Worker {
        /// Which item it worked on.
        item: String,
        /// The panic's message.
        message: String,
    },
    /// A tensor cannot be shown as an image.
    #[error("cannot make an image of shape {shape:?}: expected {expected}")]
    NotAnImage {
        /// The tensor's shape.
        shape: Vec<usize>,
        /// The shape that is wanted.
        expected: &'static str,
    },
    /// The folder to write into already holds something.
    #[error("{} exists and is not empty; choose another folder or empty it", path.display())]
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// Reading or writing failed.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// An image could not be encoded.
    #[error("{}: {source}", path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The image crate's error.
        source: image::ImageError,
    },
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

fn suggestion(near: &Option<String>) -> String {
    near.as_ref()
        .map(|name| format!(", did you mean `{name}`?"))
        .unwrap_or_default()
}

impl Error {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    pub(crate) fn image(path: impl Into<PathBuf>) -> impl FnOnce(image::ImageError) -> Self {
        let path = path.into();
        move |source| Self::Image { path, source }
    }
}
