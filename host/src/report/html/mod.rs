//! `report.html`: one file that tells what a run did, with its images inside, so that it can be sent to someone who
//! has nothing else. No script, no external font, light or dark as the reader's system is.

mod estimates;
mod evaluation;
mod format;
mod inputs;
mod plugins;
mod samples;
mod training;

use std::path::Path;
use std::time::Duration;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::progress::human_duration;
use super::summary::{Report, Status};
use super::{Error, Estimates, Evaluation, StepMetrics, metrics, plot};
use crate::fs::Error as FileError;

/// What the page is made from.
struct Run<'a> {
    dir: &'a Path,
    report: Report,
    steps: Vec<StepMetrics>,
    /// What `host eval` found, if it was asked.
    evaluation: Option<Evaluation>,
    /// What it found of depth or normals.
    estimates: Option<Estimates>,
    /// `run.toml`, empty if missing.
    config: String,
}

/// The page for a run folder.
///
/// # Errors
/// A file of the run folder cannot be read or is not what it should be. Missing images are named on the page instead.
pub(super) fn render(run_dir: &Path) -> Result<String, Error> {
    let config = run_dir.join("run.toml");
    let config = match std::fs::read_to_string(&config) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(FileError::io("read", config, error).into()),
    };
    let run = Run {
        dir: run_dir,
        report: Report::read(run_dir)?,
        steps: metrics::read(&run_dir.join("metrics.jsonl"))?,
        evaluation: Evaluation::read(run_dir)?,
        estimates: Estimates::read(run_dir)?,
        config,
    };
    Ok(page(&run)?.into_string())
}

fn page(run: &Run<'_>) -> Result<Markup, Error> {
    let sections = [
        ("samples", "Samples", samples::section(run)),
        ("estimates", "Estimates", estimates::section(run)),
        ("evaluation", "Evaluation", evaluation::section(run)),
        ("training", "Training", training::section(run)?),
        ("plugins", "Plugins", plugins::section(run)?),
        ("time", "Time", training::time(run)),
        ("inputs", "Inputs", inputs::section(run)),
        ("reproduce", "Reproduce", inputs::reproduce(run)),
    ];
    let sections: Vec<_> = sections
        .into_iter()
        .filter(|(_, _, content)| !content.0.is_empty())
        .collect();
    Ok(html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (run.report.title) }
                style { (PreEscaped(include_str!("style.css"))) (PreEscaped(plot::STYLE)) }
            }
            body {
                header {
                    (heading(run))
                    nav aria-label="Sections" {
                        @for (id, title, _) in &sections { a href={ "#" (id) } { (title) } }
                    }
                }
                main {
                    @for (id, title, content) in &sections {
                        section id=(id) aria-label=(title) { h2 { (title) } (content) }
                    }
                }
                footer { "Written by host " (run.report.environment.host_version) "." }
            }
        }
    })
}

fn heading(run: &Run<'_>) -> Markup {
    let report = &run.report;
    let (class, word) = match &report.status {
        Status::Running => ("running", "not finished"),
        Status::Finished => ("finished", "finished"),
        Status::Interrupted => ("interrupted", "interrupted"),
        Status::Failed(_) => ("failed", "failed"),
    };
    html! {
        h1 { (report.title) " " span class={ "status " (class) } { (word) } }
        @if report.started > 0 { p.muted { "Started " (format::date(report.started)) } }
        @if let Status::Failed(reason) = &report.status { p.failure role="alert" { (reason) } }
        dl.numbers {
            @for (name, value, detail) in headline(run) {
                div { dt { (name) } dd { (value) small { (detail) } } }
            }
        }
        @if !report.notes.is_empty() {
            ul.notes { @for note in &report.notes { li { (note) } } }
        }
    }
}

/// The few numbers that everyone looks for: (name, value, detail).
fn headline(run: &Run<'_>) -> Vec<(&'static str, String, String)> {
    let report = &run.report;
    let mut numbers = Vec::new();
    let planned = if report.steps_planned > report.steps_done {
        format!("of {}", format::thousands(report.steps_planned))
    } else {
        String::new()
    };
    numbers.push(("Steps", format::thousands(report.steps_done), planned));
    if let Some((first, last)) = first_and_last(&run.steps) {
        numbers.push((
            "Loss",
            format::number(last),
            format!("from {}", format::number(first)),
        ));
    }
    let trained: u64 = report.trainable.iter().map(|group| group.parameters).sum();
    if report.model.parameters > 0 {
        let of = format!("of {}", format::count(report.model.parameters));
        numbers.push(("Trained parameters", format::count(trained), of));
    }
    let step_ms: Vec<f64> = run
        .steps
        .iter()
        .map(|step| step.step_ms)
        .filter(|ms| ms.is_finite())
        .collect();
    if !step_ms.is_empty() {
        let mean = step_ms.iter().sum::<f64>() / step_ms.len() as f64;
        let rate = format!(
            "{} samples/s",
            format::number(report.batch_size as f64 * 1e3 / mean)
        );
        numbers.push(("Step time", format::milliseconds(mean), rate));
    }
    let seconds = report.wall.total_seconds();
    if seconds > 0.0 {
        let threads = report.environment.threads;
        let threads = format!("on {threads} thread{}", if threads == 1 { "" } else { "s" });
        numbers.push((
            "Wall time",
            human_duration(Duration::from_secs_f64(seconds)),
            threads,
        ));
    }
    numbers
}

/// Mean loss over the first and over the last twentieth of the run.
fn first_and_last(steps: &[StepMetrics]) -> Option<(f64, f64)> {
    let losses: Vec<f64> = steps
        .iter()
        .map(|step| step.loss)
        .filter(|loss| loss.is_finite())
        .collect();
    let count = losses.len().div_ceil(20);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    (count > 0).then(|| {
        (
            mean(&losses[..count]),
            mean(&losses[losses.len() - count..]),
        )
    })
}

/// A bar split into parts: (label, weight, text). The labels are in a legend, so the bar itself is decoration.
fn split_bar(parts: &[(String, f64, String)]) -> Markup {
    let total: f64 = parts.iter().map(|part| part.1).sum();
    html! {
        @if total > 0.0 {
            div.split aria-hidden="true" {
                @for (index, (label, weight, _)) in parts.iter().enumerate() {
                    span class={ "hue" (index % 9) } style={ "width:" (format!("{:.2}%", 100.0 * weight / total)) } title=(label) {}
                }
            }
            ul.legend {
                @for (index, (label, weight, text)) in parts.iter().enumerate() {
                    li { i class={ "hue" (index % 9) } aria-hidden="true" {} (label) " " b { (text) } " " span.muted { (format::percent(weight / total)) } }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
