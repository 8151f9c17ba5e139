//! "Did you mean": the known name nearest to a mistyped one.

/// The candidate most like `typed`, if one is like enough to be what was meant.
pub fn nearest<I>(typed: &str, candidates: I) -> Option<String>
where
    I: IntoIterator,
    I::Item: AsRef<str>,
{
    let typed = typed.replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::jaro_winkler(&typed, candidate.as_ref()),
                candidate.as_ref().to_owned(),
            )
        })
        .filter(|(likeness, _)| *likeness > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

/// The end of a sentence about an unknown name: the nearest known one, or all of them.
pub(super) fn instead(typed: &str, known: &[String]) -> String {
    match nearest(typed, known) {
        Some(near) => format!(", did you mean `{near}`?"),
        None if known.is_empty() => String::new(),
        None => format!("; known: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn finds_what_was_meant_and_nothing_far_off() {
        let known = ["batch_size", "steps", "lr", "label_dropout"];
        assert_eq!(nearest("batchsize", known).as_deref(), Some("batch_size"));
        assert_eq!(nearest("batch-size", known).as_deref(), Some("batch_size"));
        assert_eq!(
            nearest("label_drop", known).as_deref(),
            Some("label_dropout")
        );
        assert_eq!(nearest("xyzzy", known), None);
    }
}
