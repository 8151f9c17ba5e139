//! The classes of a table of images, and which of them each line is of.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Error;
use super::metadata::{Line, Place};

/// The classes of a table: its labels, or else the subfolders where the images lie in several.
pub(super) struct Labels {
    pub(super) classes: Vec<String>,
    from: LabelsFrom,
}

enum LabelsFrom {
    Nothing,
    Numbers,
    Names,
    Folders,
}

impl Labels {
    pub(super) fn of(at: &Place<'_>, lines: &[Line]) -> Result<Self, Error> {
        let labelled = lines.iter().filter(|line| line.label.is_some()).count();
        if labelled == 0 {
            let folders = distinct(lines.iter().map(|line| folder_of(&line.image)));
            // One folder for all is a place for images, not a class.
            return Ok(
                if folders.len() > 1 && !folders.iter().any(String::is_empty) {
                    Self {
                        classes: folders,
                        from: LabelsFrom::Folders,
                    }
                } else {
                    Self {
                        classes: Vec::new(),
                        from: LabelsFrom::Nothing,
                    }
                },
            );
        }
        let mut highest = None;
        for line in lines {
            let number = line.label.as_ref().and_then(Value::as_u64);
            let same = match &line.label {
                None => {
                    return Err(at.wrong(
                        line.number,
                        "there is no `label`, which other lines have; label every line or none",
                    ));
                }
                Some(Value::String(_)) => highest.is_none(),
                Some(_) => number.is_some_and(|number| number < 1_000_000),
            };
            if !same || (number.is_none() != lines[0].label.as_ref().is_some_and(Value::is_string))
            {
                return Err(at.wrong(
                    line.number,
                    "a `label` is a name or a whole number of 0 or more, and of one kind in all lines",
                ));
            }
            highest = highest.max(number);
        }
        Ok(match highest {
            Some(highest) => Self {
                classes: named_by_folders(highest, lines),
                from: LabelsFrom::Numbers,
            },
            None => Self {
                classes: distinct(
                    lines
                        .iter()
                        .filter_map(|line| line.label.as_ref()?.as_str()),
                ),
                from: LabelsFrom::Names,
            },
        })
    }

    pub(super) fn class(&self, line: &Line) -> Option<u32> {
        let named = |name: &str| {
            let place = self.classes.iter().position(|class| class == name)?;
            Some(place as u32)
        };
        match self.from {
            LabelsFrom::Nothing => None,
            LabelsFrom::Numbers => line.label.as_ref()?.as_u64().map(|number| number as u32),
            LabelsFrom::Names => named(line.label.as_ref()?.as_str()?),
            LabelsFrom::Folders => named(folder_of(&line.image)),
        }
    }
}

/// Names of classes given as numbers up to `highest`: of each the folder in which all its images and no others lie, as in exported scenes, else the number.
fn named_by_folders(highest: u64, lines: &[Line]) -> Vec<String> {
    let (mut folders, mut classes) = (BTreeMap::new(), BTreeMap::new());
    for line in lines {
        if let Some(class) = line.label.as_ref().and_then(Value::as_u64) {
            let folder = folder_of(&line.image);
            folders
                .entry(class)
                .or_insert_with(BTreeSet::new)
                .insert(folder);
            classes
                .entry(folder)
                .or_insert_with(BTreeSet::new)
                .insert(class);
        }
    }
    let own = |class: &u64| -> Option<&str> {
        let folder = *folders.get(class)?.iter().next()?;
        let alone = folders[class].len() == 1 && classes[folder].len() == 1;
        (alone && !folder.is_empty()).then_some(folder)
    };
    (0..=highest)
        .map(|class| own(&class).map_or_else(|| class.to_string(), str::to_owned))
        .collect()
}

/// The first folder of a path; empty for a file that lies in none.
fn folder_of(path: &str) -> &str {
    path.trim_start_matches("./")
        .split_once('/')
        .map_or("", |(folder, _)| folder)
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let names: BTreeSet<&str> = names.collect();
    names.into_iter().map(str::to_owned).collect()
}
