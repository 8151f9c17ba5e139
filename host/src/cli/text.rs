//! What commands print: listings as text or JSON, tables, colours.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use super::When;

/// The result of a command that lists something, in both its forms; only one is printed.
#[derive(Debug)]
pub(super) struct Listing {
    /// For people.
    pub(super) text: String,
    /// For programs: printed instead where `--json` was given.
    pub(super) json: Option<serde_json::Value>,
    /// The exit code that goes with it.
    pub(super) code: u8,
}

impl Listing {
    /// `json` is printed if `wanted`, else `text`.
    pub(super) fn new(
        wanted: bool,
        text: impl FnOnce() -> String,
        json: impl FnOnce() -> serde_json::Value,
    ) -> Self {
        if wanted {
            Self {
                text: String::new(),
                json: Some(json()),
                code: 0,
            }
        } else {
            Self {
                text: text(),
                json: None,
                code: 0,
            }
        }
    }

    /// Only text.
    pub(super) fn text(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            json: None,
            code: 0,
        }
    }

    /// The same with an exit code.
    pub(super) fn ending(self, code: u8) -> Self {
        Self { code, ..self }
    }

    /// Writes to standard output. A reader that has gone away (`| head`) ends the printing, not the program.
    pub(super) fn print(&self) {
        let text = match &self.json {
            Some(json) => format!("{json:#}"),
            None => self.text.trim_end().to_owned(),
        };
        if !text.is_empty() {
            let _ = writeln!(std::io::stdout().lock(), "{text}");
        }
    }
}

/// Lines of cells under each other: columns as wide as their widest cell, two spaces between.
pub(super) fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:width$}  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The same lines, two spaces further in.
pub(super) fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

/// A number in groups of three: `5,512,368`.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Colours for standard error, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Palette {
    /// Whether to use colours.
    pub(super) colours: bool,
}

impl Palette {
    /// Colours if wanted; for `auto`, if standard error is a terminal and `NO_COLOR` is not set to anything.
    pub(super) fn stderr(when: When) -> Self {
        let colours = match when {
            When::Always => true,
            When::Never => false,
            When::Auto => {
                let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
                std::io::stderr().is_terminal() && !no_color
            }
        };
        Self { colours }
    }

    /// For `error:`.
    pub(super) fn red(&self, text: &str) -> String {
        self.paint("1;31", text)
    }

    /// For `help:`.
    pub(super) fn cyan(&self, text: &str) -> String {
        self.paint("1;36", text)
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colours {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// The colour choice for clap's own messages, which are printed before the arguments are parsed.
pub(super) fn clap_color(arguments: &[OsString]) -> clap::ColorChoice {
    let mut words = arguments.iter().map(|word| word.to_string_lossy());
    while let Some(word) = words.next() {
        let value = match word.strip_prefix("--color") {
            Some("") => words.next().unwrap_or_default().into_owned(),
            Some(rest) => rest.trim_start_matches('=').to_owned(),
            None => continue,
        };
        return match value.as_str() {
            "always" => clap::ColorChoice::Always,
            "never" => clap::ColorChoice::Never,
            _ => clap::ColorChoice::Auto,
        };
    }
    clap::ColorChoice::Auto
}
