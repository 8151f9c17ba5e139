//! The command line: clap structs, one file a command, and what all commands share.
//!
//! A command parses into plain data, calls the module that does the work, and gives back what to print. Nothing here trains,
//! samples or reads weights itself.

mod arguments;
mod bench;
mod data;
mod doctor;
mod drawing;
mod eval;
mod export;
mod failure;
mod interruption;
mod logging;
mod model;
mod panics;
mod plan;
mod plugin;
mod prepare;
mod pretrain;
mod report;
mod run;
mod sample;
mod text;
mod threads;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use failure::Failure;
use text::{Listing, Palette};

/// Exit codes, as `host --help` explains them.
const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  the system refused: a disk that is full, a file that cannot be written
    2  wrong input: a flag, a run file, a data folder, a backbone, or plugins that do not fit together
    3  a plugin failed while it ran
    4  training failed: the loss is no longer a number
  101  a defect of the host itself
  130  interrupted; what was done so far is saved";

/// Fine-tunes pretrained diffusion models by plugins.
///
/// The host owns the frozen pretrained backbone and the training loop. Plugins are separate shared libraries; each takes part
/// at named places of the training step, several at once where that makes sense. Without any setting there is a small
/// pretrained backbone and rendered images inside the program: `host run --plugin diff_tuning`.
#[derive(Debug, Parser)]
#[command(name = "host", version, after_long_help = EXIT_CODES, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Everywhere")]
struct Global {
    /// Say more: -v for details, -vv for everything
    #[arg(long, short, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Say nothing but errors and results
    #[arg(long, short, global = true, conflicts_with = "verbose")]
    quiet: bool,
    /// When to use colours; `auto` looks at the terminal and at NO_COLOR
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    color: When,
}

/// When to use colours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum When {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Arguments),
    Plan(plan::Arguments),
    Sample(sample::Arguments),
    Export(export::Arguments),
    Eval(eval::Arguments),
    Report(report::Arguments),
    Pretrain(pretrain::Arguments),
    Bench(bench::Arguments),
    #[command(subcommand)]
    Plugin(plugin::Command),
    #[command(subcommand)]
    Model(model::Command),
    #[command(subcommand)]
    Data(data::Command),
    Doctor(doctor::Arguments),
}

/// The whole program: the process's arguments in, its exit code out.
pub fn run() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match parse(&arguments) {
        Ok(cli) => cli,
        Err(error) => return failure::usage(&error),
    };
    let palette = Palette::stderr(cli.global.color);
    let outcome = panics::contain(&palette, || {
        let progress = logging::start(&cli.global, &palette);
        let listing = dispatch(cli.command, &progress)?;
        listing.print();
        Ok(ExitCode::from(listing.code))
    });
    outcome.unwrap_or_else(|failure| failure.report(&palette))
}

fn parse(arguments: &[OsString]) -> Result<Cli, clap::Error> {
    let matches = Cli::command()
        .color(text::clap_color(arguments))
        .try_get_matches_from(arguments)?;
    Cli::from_arg_matches(&matches)
}

fn dispatch(command: Command, progress: &crate::report::Progress) -> Result<Listing, Failure> {
    match command {
        Command::Run(arguments) => run::run(&arguments, progress),
        Command::Plan(arguments) => plan::run(&arguments),
        Command::Sample(arguments) => sample::run(&arguments, progress),
        Command::Export(arguments) => export::run(&arguments, progress),
        Command::Eval(arguments) => eval::run(&arguments, progress),
        Command::Report(arguments) => report::run(&arguments),
        Command::Pretrain(arguments) => pretrain::run(&arguments, progress),
        Command::Bench(arguments) => bench::run(&arguments, progress),
        Command::Plugin(command) => plugin::run(&command),
        Command::Model(command) => model::run(&command, progress),
        Command::Data(command) => data::run(&command, progress),
        Command::Doctor(arguments) => doctor::run(&arguments),
    }
}

#[cfg(test)]
mod tests;
