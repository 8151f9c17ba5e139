//! From what the user asked for to what will run: files found and checked, settings resolved, plugins composed. Nothing of a
//! plugin is executed and no weight is read, so `host plan` ends here.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::compose::{self, Choice, Composition};
use super::discover::{self, Found, Search};
use super::preflight::{self, Checked};
use super::settings;

/// One plugin as the command line and the run file ask for it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Its name or its file's path.
    pub name: String,
    /// Another name for this use of it.
    pub alias: Option<String>,
    /// Slots it offers and this run leaves out.
    pub without: Vec<String>,
    /// The settings given; text is read as the schema's type.
    pub settings: Map<String, Value>,
}

impl Request {
    /// A plugin by `NAME`, `NAME:OTHER` or `NAME as OTHER`, with default settings.
    pub fn new(text: &str) -> Self {
        let (name, alias) = discover::parse_choice(text);
        Self {
            name: name.to_owned(),
            alias: alias.map(str::to_owned),
            ..Self::default()
        }
    }
}

/// One plugin, ready to be loaded.
#[derive(Clone, Debug)]
pub struct Plugin {
    /// Its name in this run.
    pub name: String,
    /// Where its file was found.
    pub found: Found,
    /// The file, checked.
    pub checked: Checked,
    /// Every setting, given or default.
    pub settings: Map<String, Value>,
}

/// What will run.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The plugins, in calling order (that of `composition.plugins`).
    pub plugins: Vec<Plugin>,
    /// Who acts at which slot.
    pub composition: Composition,
    /// What a user should know though nothing is wrong: shadowed copies, file names that differ from the id.
    pub notes: Vec<String>,
}

/// Why what was asked for cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A plugin's file was not found.
    #[error(transparent)]
    Discover(#[from] discover::Error),
    /// A plugin's file is not one.
    #[error(transparent)]
    Preflight(#[from] preflight::Error),
    /// A setting is refused.
    #[error(transparent)]
    Settings(#[from] settings::Error),
    /// The plugins do not compose.
    #[error(transparent)]
    Compose(#[from] compose::Error),
    /// Two files claim to be the same plugin.
    #[error("{} and {} both say they are the plugin `{id}`: keep one of them", .first.display(), .second.display())]
    DuplicateId {
        /// The id of both.
        id: String,
        /// The file chosen first.
        first: PathBuf,
        /// The other file.
        second: PathBuf,
    },
}

/// Finds, checks and composes the plugins asked for, in the order they were asked for.
///
/// # Errors
/// The first thing that stands in the way, in one sentence.
pub fn resolve(search: &Search, requests: &[Request]) -> Result<Resolved, Error> {
    let mut notes = Vec::new();
    let mut files: Vec<(Found, Checked)> = Vec::new();
    for request in requests {
        let found = search.find(&request.name)?;
        let checked = preflight::check(&found.path)?;
        notes.extend(notes_on(&found, &checked));
        files.push((found, checked));
    }
    refuse_duplicates(&files)?;
    let choices: Vec<Choice> = requests
        .iter()
        .zip(&files)
        .map(|(request, (_, checked))| Choice {
            manifest: checked.manifest.clone(),
            alias: request.alias.clone(),
            without: request.without.clone(),
        })
        .collect();
    let composition = compose::compose(&choices)?;
    let plugins = composition
        .plugins
        .iter()
        .map(|member| {
            let (found, checked) = &files[member.chosen];
            let given = &requests[member.chosen].settings;
            Ok(Plugin {
                name: member.name.clone(),
                settings: settings::resolve(&member.name, &checked.manifest.settings, given)?,
                found: found.clone(),
                checked: checked.clone(),
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    notes.sort();
    notes.dedup();
    Ok(Resolved {
        plugins,
        composition,
        notes,
    })
}

fn refuse_duplicates(files: &[(Found, Checked)]) -> Result<(), Error> {
    for (index, (_, second)) in files.iter().enumerate() {
        // Equal bytes at two paths are one plugin.
        let other = files[..index].iter().find(|(_, first)| {
            first.manifest.id == second.manifest.id && first.sha256 != second.sha256
        });
        if let Some((_, first)) = other {
            return Err(Error::DuplicateId {
                id: second.manifest.id.clone(),
                first: first.path.clone(),
                second: second.path.clone(),
            });
        }
    }
    Ok(())
}

fn notes_on(found: &Found, checked: &Checked) -> Vec<String> {
    let mut notes: Vec<String> = found
        .shadowed
        .iter()
        .map(|other| {
            format!(
                "{} is shadowed by {}",
                other.display(),
                found.path.display()
            )
        })
        .collect();
    if found.name != checked.manifest.id.replace('-', "_") {
        notes.push(format!(
            "{} calls itself `{}`, not `{}` as its file name says",
            found.path.display(),
            checked.manifest.id,
            found.name
        ));
    }
    notes
}
