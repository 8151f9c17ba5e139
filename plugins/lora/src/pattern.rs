//! A glob or a regular expression over the paths of layers.

use globset::{GlobBuilder, GlobMatcher};
use plugin_api::{LayerInfo, LayerKind, Result, bail};
use regex::Regex;

/// What a regular expression begins with, to tell it from a glob.
const EXPRESSION: &str = "re:";

/// Which paths a text means.
pub(crate) enum Pattern {
    /// `*` stays within one part between dots.
    Glob(GlobMatcher),
    /// For the whole path.
    Expression(Regex),
}

impl Pattern {
    /// Reads `text`, which the user wrote in `setting`.
    ///
    /// # Errors
    /// Neither a glob nor `re:` and a regular expression.
    pub(crate) fn new(setting: &str, text: &str) -> Result<Self> {
        if let Some(expression) = text.strip_prefix(EXPRESSION) {
            return match Regex::new(&format!("^(?:{expression})$")) {
                Ok(regex) => Ok(Self::Expression(regex)),
                Err(error) => {
                    let reason = error.to_string();
                    let last = reason.lines().last().unwrap_or_default();
                    let reason = last.trim_start_matches("error: ");
                    bail!("`{setting}` has `{text}`, which is no regular expression: {reason}")
                }
            };
        }
        let glob = GlobBuilder::new(&slashed(text))
            .literal_separator(true)
            .build();
        match glob {
            Ok(glob) => Ok(Self::Glob(glob.compile_matcher())),
            Err(error) => bail!(
                "`{setting}` has `{text}`, which is no glob: {}",
                error.kind()
            ),
        }
    }

    pub(crate) fn matches(&self, path: &str) -> bool {
        match self {
            Self::Glob(glob) => glob.is_match(slashed(path)),
            Self::Expression(expression) => expression.is_match(path),
        }
    }
}

/// Dotted paths as file paths, the form in which globs tell `*` from `**`.
fn slashed(path: &str) -> String {
    path.replace('.', "/")
}

/// The paths most like a pattern that matched none, for the end of a sentence.
pub(crate) fn near<'a>(text: &str, layers: impl Iterator<Item = &'a LayerInfo>) -> String {
    const SHOWN: usize = 3;
    let text = text.strip_prefix(EXPRESSION).unwrap_or(text);
    // What begins with `**.` or `.*` is about the ends of paths, so it is compared with these.
    let rest = ["**.", r".*\.", ".*"]
        .iter()
        .find_map(|start| text.strip_prefix(start));
    let wanted = rest.unwrap_or(text);
    let parts = wanted.split('.').count();
    let compared = |path: &str| -> String {
        let all: Vec<&str> = path.split('.').collect();
        match rest {
            None => path.to_owned(),
            Some(_) => all[all.len().saturating_sub(parts)..].join("."),
        }
    };
    let mut likely: Vec<(f64, String, &str)> = Vec::new();
    for layer in layers.filter(|layer| layer.kind != LayerKind::EMBEDDING) {
        let end = compared(&layer.path);
        // Each end once: the same layer of every block says nothing more.
        if likely.iter().all(|(_, known, _)| *known != end) {
            likely.push((strsim::jaro_winkler(wanted, &end), end, &layer.path));
        }
    }
    likely.sort_by(|a, b| b.0.total_cmp(&a.0));
    let paths: Vec<String> = likely
        .iter()
        .take(SHOWN)
        .map(|(_, _, path)| format!("`{path}`"))
        .collect();
    match paths.is_empty() {
        true => String::new(),
        false => format!("; near: {}", paths.join(", ")),
    }
}
