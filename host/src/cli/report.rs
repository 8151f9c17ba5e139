//! `host report`: a run's page, made anew from what its folder holds.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::failure::Failure;
use super::text::Listing;
use crate::report::summary::write_html;
use crate::train::folder::RUN_FILE;

/// Write a run's report.html anew from the other files of its folder
///
/// For a run that was killed, or goes on still; for a page that was lost; and for the looks of a newer host.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The folder of a run
    #[arg(long, value_name = "DIR")]
    run: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn run(arguments: &Arguments) -> Result<Listing, Failure> {
    let folder = &arguments.run;
    if !folder.join(RUN_FILE).is_file() {
        return Err(Failure::input(format!(
            "{} is no run folder: there is no {RUN_FILE} in it",
            folder.display()
        )));
    }
    let page = write_html(folder).map_err(crate::train::Error::from)?;
    Ok(Listing::new(
        arguments.json,
        || format!("wrote {}", page.display()),
        || json!({ "report": page }),
    ))
}
