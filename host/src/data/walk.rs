//! What lies in a folder: image files by their endings, in the order of their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use image::ImageFormat;

use super::Error;

/// What a walk found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) images: Vec<String>,
    pub(super) others: usize,
}

impl Found {
    pub(super) fn take(&mut self, name: String) {
        let extension = Path::new(&name).extension().unwrap_or_default();
        if ImageFormat::from_extension(extension).is_some_and(|format| format.reading_enabled()) {
            self.images.push(name);
        } else {
            self.others += 1;
        }
    }
}

/// Files and folders that are not hidden, sorted by name.
pub(super) fn entries(folder: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
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

pub(super) fn walk(folder: &Path, prefix: &str, found: &mut Found) -> Result<(), Error> {
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

pub(super) fn extensions() -> Vec<&'static str> {
    let readable = ImageFormat::all().filter(ImageFormat::reading_enabled);
    readable
        .flat_map(|format| format.extensions_str().iter().copied())
        .collect()
}
