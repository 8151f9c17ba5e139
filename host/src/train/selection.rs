//! Which backbone parameters train: a named selection or globs over parameter names, joined with what plugins ask for.

use std::collections::BTreeSet;

use globset::{GlobBuilder, GlobMatcher};

use super::Error;

/// The selection that has learned scales beside its parameters.
pub(super) const DIFFIT: &str = "diffit";

/// The globs behind a selection's name; anything else is a glob itself. `*` stays within one part between dots, `**` does not.
///
/// - `all`: every parameter.
/// - `none`: no parameter.
/// - `bias`: BitFit (Ben Zaken et al. 2022): every bias.
/// - `diffit`: DiffFit (Xie et al. 2023): every bias, the norms and the class embedding; beside them train the [learned scales](super::scales).
fn globs(selection: &str) -> Vec<&str> {
    match selection {
        "all" => vec!["**"],
        "none" => vec![],
        "bias" => vec!["**.bias"],
        DIFFIT => vec!["**.bias", "**.*norm*.weight", "**.class_embedder.**"],
        glob => vec![glob],
    }
}

/// The names that a union of selections picks, in the order of `names`.
///
/// # Errors
/// A glob that cannot be read or matches no parameter; a named selection may match none of its globs but not all.
pub(super) fn select<'a>(selections: &[String], names: &[&'a str]) -> Result<Vec<&'a str>, Error> {
    let mut chosen: BTreeSet<&str> = BTreeSet::new();
    for selection in selections {
        let mut matched = false;
        for glob in globs(selection) {
            let matcher = matcher(glob, names)?;
            let found = names.iter().filter(|name| matcher.is_match(slashed(name)));
            chosen.extend(found.inspect(|_| matched = true));
        }
        if !matched && selection != "none" {
            return Err(no_match(selection, names));
        }
    }
    Ok(names
        .iter()
        .copied()
        .filter(|name| chosen.contains(name))
        .collect())
}

/// Dotted names as paths, the form in which globs tell `*` from `**`.
fn slashed(name: &str) -> String {
    name.replace('.', "/")
}

fn matcher(glob: &str, names: &[&str]) -> Result<GlobMatcher, Error> {
    GlobBuilder::new(&slashed(glob))
        .literal_separator(true)
        .build()
        .map(|glob| glob.compile_matcher())
        .map_err(|_| no_match(glob, names))
}

fn no_match(pattern: &str, names: &[&str]) -> Error {
    let near = names
        .iter()
        .map(|name| (strsim::jaro_winkler(pattern, name), *name))
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .filter(|(likeness, _)| *likeness > 0.6)
        .map(|(_, name)| format!(", near: `{name}`"))
        .unwrap_or_default();
    Error::NoSuchParameter {
        pattern: pattern.to_owned(),
        near,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [&str; 7] = [
        "pos_embed.proj.weight",
        "pos_embed.proj.bias",
        "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.weight",
        "transformer_blocks.0.norm1.linear.weight",
        "transformer_blocks.0.norm1.linear.bias",
        "transformer_blocks.0.attn1.to_q.weight",
        "transformer_blocks.0.attn1.to_q.bias",
    ];

    fn check(selections: &[&str], expected: &[usize]) {
        let selections: Vec<String> = selections.iter().map(|s| (*s).to_owned()).collect();
        let expected: Vec<&str> = expected.iter().map(|&i| NAMES[i]).collect();
        assert_eq!(select(&selections, &NAMES).expect("matches"), expected);
    }

    #[test]
    fn named_selections_and_globs_join_in_the_backbones_order() {
        check(&["all"], &[0, 1, 2, 3, 4, 5, 6]);
        check(&["none"], &[]);
        check(&["bias"], &[1, 4, 6]);
        check(&["diffit"], &[1, 2, 4, 6]);
        check(&["**.attn1.**", "pos_embed.*.bias"], &[1, 5, 6]);
        check(&["bias", "**.to_q.bias"], &[1, 4, 6]);
        check(
            &["pos_embed.*.*", "transformer_blocks.*.attn1.*.weight"],
            &[0, 1, 5],
        );
    }

    #[test]
    fn a_glob_without_a_match_is_an_error_that_names_a_near_parameter() {
        let error = select(
            &["transformer_blocks.0.attn.to_q.weight".to_owned()],
            &NAMES,
        )
        .expect_err("no match");
        assert!(
            error
                .to_string()
                .contains("near: `transformer_blocks.0.attn1.to_q.weight`"),
            "{error}"
        );
    }
}
