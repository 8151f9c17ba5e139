//! What the commands that take long share: watching for Ctrl-C, and saying how to go on after it.

use std::path::Path;

use super::failure::Failure;
use super::text::Listing;
use crate::cancel::{Cancel, INTERRUPTED};

/// A request to stop that follows Ctrl-C from here on.
pub(super) fn watch() -> Result<Cancel, Failure> {
    Cancel::on_signal()
        .map_err(|error| Failure::system(format!("cannot watch for Ctrl-C: {error}")))
}

/// How an interrupted `host COMMAND` ends, whose folder is `out`.
pub(super) fn interrupted(command: &str, checkpoint: Option<&Path>, out: &Path) -> Listing {
    let text = match checkpoint {
        Some(checkpoint) => format!(
            "interrupted; saved in {}, continue with `host {command} --resume --out {}`",
            checkpoint.display(),
            out.display()
        ),
        None => "interrupted before the first step; there is nothing to continue".to_owned(),
    };
    Listing::text(text).ending(INTERRUPTED as u8)
}
