//! How a command fails: one sentence, a way out where there is one, and an exit code.

use std::process::ExitCode;

use super::text::Palette;
use crate::cancel::INTERRUPTED;
use crate::plugin::failure::PluginError;
use crate::plugin::{lock, stack};
use crate::{Error, backbone, config, data, eval, pretrained, sample, train};

/// The system refused.
const SYSTEM: u8 = 1;
/// Wrong input; clap's code for wrong usage, too.
const INPUT: u8 = 2;
/// A plugin failed while it ran.
const PLUGIN: u8 = 3;
/// Training failed.
const TRAINING: u8 = 4;

/// A command's failure, ready to be told.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) help: Option<String>,
    pub(super) code: u8,
}

impl Failure {
    /// Wrong input.
    pub(super) fn input(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            help: None,
            code: INPUT,
        }
    }

    /// The system refused.
    pub(super) fn system(message: impl Into<String>) -> Self {
        Self {
            code: SYSTEM,
            ..Self::input(message)
        }
    }

    /// Tells it on standard error and gives the exit code.
    pub(super) fn report(&self, palette: &Palette) -> ExitCode {
        eprintln!("{} {}", palette.red("error:"), self.message);
        if let Some(help) = &self.help {
            eprintln!("{} {help}", palette.cyan("help:"));
        }
        ExitCode::from(self.code)
    }
}

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        Self {
            message: error.to_string(),
            help: help(&error),
            code: code(&error),
        }
    }
}

/// The way out, where the sentence itself does not say it.
fn help(error: &Error) -> Option<String> {
    match error {
        Error::Config(error) | Error::Train(train::Error::Config(error)) => error.help(),
        _ => None,
    }
}

fn code(error: &Error) -> u8 {
    match error {
        Error::Config(config::Error::Write(_)) | Error::Lock(lock::Error::Unwritable(_)) => SYSTEM,
        Error::Plugin(error) => plugin_code(error),
        Error::Train(error) => train_code(error),
        Error::Eval(eval::Error::Data(error)) => data_code(error),
        Error::Eval(eval::Error::Interrupted) => INTERRUPTED as u8,
        Error::Eval(eval::Error::Diverged { .. }) => TRAINING,
        Error::Eval(eval::Error::Disk(_) | eval::Error::Report(_)) => SYSTEM,
        Error::Sample(sample::Error::Interrupted) => INTERRUPTED as u8,
        Error::Data(error) => data_code(error),
        Error::Backbone(error) => backbone_code(error),
        Error::Disk(_) | Error::Report(_) => SYSTEM,
        _ => INPUT,
    }
}

fn train_code(error: &train::Error) -> u8 {
    match error {
        train::Error::NonFinite { .. } | train::Error::Tensor(_) => TRAINING,
        train::Error::Unwritable { .. } | train::Error::Disk(_) | train::Error::Report(_) => SYSTEM,
        train::Error::Plugin(error) | train::Error::Stack(stack::Error::Plugin(error)) => {
            plugin_code(error)
        }
        train::Error::Stack(_) => PLUGIN,
        train::Error::Sample(sample::Error::Interrupted) => INTERRUPTED as u8,
        train::Error::Data(error) => data_code(error),
        train::Error::Backbone(error) => backbone_code(error),
        train::Error::Pretrained(pretrained::Error::Backbone(error)) => backbone_code(error),
        _ => INPUT,
    }
}

/// A plugin that stopped because it was asked to has not failed.
fn plugin_code(error: &PluginError) -> u8 {
    if error.is_failure() {
        PLUGIN
    } else {
        INTERRUPTED as u8
    }
}

fn data_code(error: &data::Error) -> u8 {
    match error {
        data::Error::Io { .. } => SYSTEM,
        _ => INPUT,
    }
}

fn backbone_code(error: &backbone::Error) -> u8 {
    match error {
        backbone::Error::Io { source, .. } if source.kind() != std::io::ErrorKind::NotFound => {
            SYSTEM
        }
        _ => INPUT,
    }
}

/// Prints what clap has to say: help and version to standard output, wrong usage to standard error.
pub(super) fn usage(error: &clap::Error) -> ExitCode {
    // Nowhere to tell that there is nowhere to tell it.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(INPUT))
}
