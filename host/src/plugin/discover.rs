//! From a plugin's name to its file: which places are searched, in which order, and what a miss says.
//!
//! The working directory is never searched: a file dropped there must not become code that a later `host run` executes.

use std::env::consts::{DLL_EXTENSION, DLL_PREFIX, DLL_SUFFIX};
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The environment variable with further plugin directories, separated as in `PATH`.
pub const PATH_VARIABLE: &str = "HOST_PLUGIN_PATH";

/// Why a place is searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The user gave the file's path.
    Path,
    /// A `--plugin-dir`.
    PluginDir,
    /// An entry of `HOST_PLUGIN_PATH`.
    Environment,
    /// The user's data directory.
    UserData,
    /// Beside the running program.
    BesideProgram,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Origin::Path => "given path",
            Origin::PluginDir => "--plugin-dir",
            Origin::Environment => PATH_VARIABLE,
            Origin::UserData => "user data directory",
            Origin::BesideProgram => "beside the program",
        })
    }
}

/// One directory to search.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The directory.
    pub directory: PathBuf,
    /// Why it is searched.
    pub origin: Origin,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.directory.display(), self.origin)
    }
}

/// A plugin file that was found; nothing of it has been read yet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The name its file name stands for, e.g. `diff_tuning`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Why it was looked for there.
    pub origin: Origin,
    /// Other files of the same name, in places searched later: these are not used.
    pub shadowed: Vec<PathBuf>,
}

/// Why there is no file for a name.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No place has a file of that name.
    #[error("no plugin `{name}` ({file} is in none of the places searched: {}){}",
        list(.searched), did_you_mean(.near))]
    NotFound {
        /// The name asked for.
        name: String,
        /// The file name it stands for.
        file: String,
        /// Every place searched, in order.
        searched: Vec<Place>,
        /// Plugins that are there and have similar names.
        near: Vec<String>,
    },
    /// The user gave a path and there is no file.
    #[error("no plugin file {}: {source}", .path.display())]
    NoFile {
        /// The path given.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

fn list(places: &[Place]) -> String {
    if places.is_empty() {
        return "nowhere".to_owned();
    }
    let texts: Vec<String> = places.iter().map(Place::to_string).collect();
    texts.join(", ")
}

fn did_you_mean(near: &[String]) -> String {
    match near {
        [] => String::new(),
        near => {
            let quoted: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
            format!("; did you mean {}?", quoted.join(" or "))
        }
    }
}

/// The ordered places to look for plugins.
#[derive(Clone, Debug)]
pub struct Search {
    places: Vec<Place>,
}

impl Search {
    /// The places of this process: the given directories, `HOST_PLUGIN_PATH`, the user's data directory, beside the program.
    pub fn new(plugin_dirs: &[PathBuf]) -> Self {
        let mut places: Vec<Place> = Vec::new();
        let mut add = |directory: PathBuf, origin| places.push(Place { directory, origin });
        for directory in plugin_dirs {
            add(directory.clone(), Origin::PluginDir);
        }
        if let Some(list) = std::env::var_os(PATH_VARIABLE) {
            // An empty entry would mean the working directory.
            for directory in std::env::split_paths(&list).filter(|d| !d.as_os_str().is_empty()) {
                add(directory, Origin::Environment);
            }
        }
        if let Some(directories) = crate::user::folders() {
            add(directories.data_dir().join("plugins"), Origin::UserData);
        }
        for directory in std::env::current_exe()
            .ok()
            .map(|program| beside(&program))
            .unwrap_or_default()
        {
            add(directory, Origin::BesideProgram);
        }
        Self { places }
    }

    /// Exactly these places, in this order.
    pub fn in_places(places: Vec<Place>) -> Self {
        Self { places }
    }

    /// The places, in the order they are searched.
    pub fn places(&self) -> &[Place] {
        &self.places
    }

    /// The file of a plugin: a name (`diff_tuning`, `diff-tuning`), or a path, which is anything with a separator or with the
    /// extension of a shared library.
    ///
    /// # Errors
    /// No such file; for a name the error lists every place searched and near names.
    pub fn find(&self, name: &str) -> Result<Found, Error> {
        if is_path(name) {
            return find_path(Path::new(name));
        }
        let file = file_name(name);
        let mut files = self
            .places
            .iter()
            .map(|place| (place, place.directory.join(&file)))
            .filter(|(_, path)| path.is_file());
        let Some((place, path)) = files.next() else {
            return Err(Error::NotFound {
                name: name.to_owned(),
                near: self.near(name),
                file,
                searched: self.places.clone(),
            });
        };
        let shadowed = files
            .map(|(_, other)| other)
            .filter(|other| !same_file(&path, other))
            .collect();
        Ok(Found {
            name: plain_name(name),
            path,
            origin: place.origin,
            shadowed,
        })
    }

    /// Every shared library in the places, sorted by name, each name once with what it shadows. Some may not be plugins.
    pub fn all(&self) -> Vec<Found> {
        let mut all: Vec<Found> = Vec::new();
        for place in &self.places {
            for path in libraries(&place.directory) {
                let Some(name) = name_of(&path) else { continue };
                match all.iter_mut().find(|found| found.name == name) {
                    Some(first) if same_file(&first.path, &path) => {}
                    Some(first) => first.shadowed.push(path),
                    None => all.push(Found {
                        name,
                        path,
                        origin: place.origin,
                        shadowed: Vec::new(),
                    }),
                }
            }
        }
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    fn near(&self, name: &str) -> Vec<String> {
        let name = plain_name(name);
        let candidates = self.all().into_iter().map(|found| found.name);
        near_names(&name, candidates)
    }
}

/// Up to three of `candidates` that a person may have meant by `name`, the nearest first.
pub fn near_names(name: &str, candidates: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut scored: Vec<(f64, String)> = candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(name, &candidate), candidate))
        .filter(|(score, _)| *score >= 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

/// The file name of a plugin's name on this system: `diff-tuning` is `libdiff_tuning.so`, `libdiff_tuning.dylib` or
/// `diff_tuning.dll`.
pub fn file_name(name: &str) -> String {
    format!("{DLL_PREFIX}{}{DLL_SUFFIX}", plain_name(name))
}

/// The plugin name a file name stands for, or `None` when it is not a shared library's.
pub fn name_of(path: &Path) -> Option<String> {
    let file = path.file_name()?.to_str()?;
    let name = file.strip_suffix(DLL_SUFFIX)?;
    let name = name.strip_prefix(DLL_PREFIX).unwrap_or(name);
    Some(plain_name(name)).filter(|name| !name.is_empty())
}

/// `NAME`, `NAME:OTHER` or `NAME as OTHER`, as the command line takes it; for a name, the path of a file.
pub fn parse_choice(text: &str) -> (&str, Option<&str>) {
    let colon = || {
        let parts = text.rsplit_once(':');
        // The colon of `C:\plugins\lora.dll` belongs to the path.
        parts.filter(|(name, alias)| !name.is_empty() && !alias.contains(['/', '\\']))
    };
    match text.split_once(" as ").or_else(colon) {
        Some((name, alias)) => (name.trim(), Some(alias.trim())),
        None => (text.trim(), None),
    }
}

/// Crate names use `-` and `_` alike; file names only `_`.
fn plain_name(name: &str) -> String {
    name.replace('-', "_")
}

fn is_path(name: &str) -> bool {
    name.contains(std::path::is_separator)
        || Path::new(name)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case(DLL_EXTENSION))
}

fn find_path(path: &Path) -> Result<Found, Error> {
    let path = path.canonicalize().map_err(|source| Error::NoFile {
        path: path.to_owned(),
        source,
    })?;
    let stem = || {
        path.file_stem()
            .map(|stem| stem.to_string_lossy().into_owned())
    };
    Ok(Found {
        name: name_of(&path).or_else(stem).unwrap_or_default(),
        path,
        origin: Origin::Path,
        shadowed: Vec::new(),
    })
}

/// The directories beside a program. Test and example programs lie one folder below what cargo builds.
fn beside(program: &Path) -> Vec<PathBuf> {
    let Some(directory) = program.parent() else {
        return Vec::new();
    };
    let mut directories = vec![directory.to_owned(), directory.join("plugins")];
    let in_cargo_folder = directory
        .file_name()
        .is_some_and(|name| name == "deps" || name == "examples");
    if let (true, Some(parent)) = (in_cargo_folder, directory.parent()) {
        directories.extend([parent.to_owned(), parent.join("plugins")]);
    }
    directories
}

fn libraries(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let named = path.file_name().and_then(|name| name.to_str());
            named.is_some_and(|name| name.starts_with(DLL_PREFIX) && name.ends_with(DLL_SUFFIX))
                && path.is_file()
        })
        .collect();
    paths.sort();
    paths
}

/// Whether two paths are one file, also by hard links (cargo links what it builds into two folders).
fn same_file(a: &Path, b: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        if let (Ok(a), Ok(b)) = (fs::metadata(a), fs::metadata(b)) {
            return (a.dev(), a.ino()) == (b.dev(), b.ino());
        }
    }
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn folders(files: &[&[&str]]) -> (tempfile::TempDir, Search) {
        let root = tempfile::tempdir().unwrap();
        let mut places = Vec::new();
        for (index, files) in files.iter().enumerate() {
            let directory = root.path().join(index.to_string());
            fs::create_dir(&directory).unwrap();
            for file in *files {
                fs::write(directory.join(file_name(file)), format!("{index}")).unwrap();
            }
            places.push(Place {
                directory,
                origin: Origin::PluginDir,
            });
        }
        (root, Search::in_places(places))
    }

    #[test]
    fn dashes_and_underscores_name_the_same_file() {
        assert_eq!(file_name("diff-tuning"), file_name("diff_tuning"));
        if cfg!(target_os = "linux") {
            assert_eq!(file_name("diff-tuning"), "libdiff_tuning.so");
        }
        assert_eq!(name_of(Path::new(&file_name("lora"))), Some("lora".into()));
        assert_eq!(name_of(Path::new("lora.txt")), None);
    }

    #[test]
    fn the_first_place_wins_and_the_rest_is_reported() {
        let (root, search) = folders(&[&[], &["lora"], &["lora", "x"]]);
        let found = search.find("lora").unwrap();
        assert_eq!(found.path, root.path().join("1").join(file_name("lora")));
        assert_eq!(
            found.shadowed,
            [root.path().join("2").join(file_name("lora"))]
        );
        assert!(search.find("x").unwrap().shadowed.is_empty());
    }

    #[cfg(unix)]
    #[test]
    fn a_hard_link_shadows_nothing() {
        let (root, search) = folders(&[&["lora"], &[]]);
        let file = file_name("lora");
        fs::hard_link(
            root.path().join("0").join(&file),
            root.path().join("1").join(&file),
        )
        .unwrap();
        assert!(search.find("lora").unwrap().shadowed.is_empty());
        assert!(search.all()[0].shadowed.is_empty());
    }

    #[test]
    fn a_miss_lists_every_place_and_near_names() {
        let (root, search) = folders(&[&["diff_tuning", "lora"], &[]]);
        let error = search.find("dif-tunning").unwrap_err().to_string();
        for part in [
            "no plugin `dif-tunning`",
            &file_name("dif_tunning"),
            &root.path().join("0").display().to_string(),
            &root.path().join("1").display().to_string(),
            "(--plugin-dir)",
            "did you mean `diff_tuning`?",
        ] {
            assert!(error.contains(part), "{part} is not in: {error}");
        }
        let error = search.find("zebra").unwrap_err().to_string();
        assert!(!error.contains("did you mean"), "{error}");
    }

    #[test]
    fn a_path_is_taken_as_it_is() {
        let (root, search) = folders(&[&["lora"], &["odd"]]);
        let path = root.path().join("1").join(file_name("odd"));
        let found = search.find(path.to_str().unwrap()).unwrap();
        assert_eq!((found.name.as_str(), found.origin), ("odd", Origin::Path));
        let missing = root.path().join("nowhere").join("x");
        let error = search.find(missing.to_str().unwrap()).unwrap_err();
        assert!(matches!(error, Error::NoFile { .. }), "{error}");
    }

    #[test]
    fn the_working_directory_is_not_searched() {
        let here = std::env::current_dir().unwrap();
        let searched = Search::new(&[]);
        assert!(
            searched
                .places()
                .iter()
                .all(|place| place.directory != here)
        );
        assert!(
            searched
                .places()
                .iter()
                .all(|place| place.directory.is_absolute())
        );
    }

    #[test]
    fn test_programs_find_what_cargo_built() {
        let directories = beside(Path::new("/t/debug/deps/name-0123"));
        let expected = [
            "/t/debug/deps",
            "/t/debug/deps/plugins",
            "/t/debug",
            "/t/debug/plugins",
        ];
        assert_eq!(directories, expected.map(PathBuf::from));
        assert_eq!(
            beside(Path::new("/opt/host")),
            ["/opt", "/opt/plugins"].map(PathBuf::from)
        );
    }

    #[test]
    fn every_library_is_listed_once() {
        let (_root, search) = folders(&[&["lora", "a"], &["lora"]]);
        let all = search.all();
        let names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
        assert_eq!(names, ["a", "lora"]);
        assert_eq!(all[1].shadowed.len(), 1);
    }

    #[test]
    fn a_choice_may_carry_another_name() {
        assert_eq!(parse_choice("lora as style"), ("lora", Some("style")));
        assert_eq!(parse_choice("lora"), ("lora", None));
    }
}
