//! The curves of the run, and where its time went.

use std::collections::BTreeSet;
use std::time::Duration;

use maud::{Markup, PreEscaped, html};

use super::{Run, format, split_bar};
use crate::report::plot::{Plot, series};
use crate::report::profile::Section;
use crate::report::progress::human_duration;
use crate::report::{Error, StepMetrics};

const WIDE: (u32, u32) = (1140, 320);
/// Small plots stand two or three in a row, drawn for that width so that their text has one size everywhere.
const HALF: (u32, u32) = (540, 240);
const THIRD: (u32, u32) = (380, 210);

pub(super) fn section(run: &Run<'_>) -> Result<Markup, Error> {
    if run.steps.is_empty() {
        return Ok(html! {});
    }
    let mut small = vec![
        ("lr", "Learning rate", "", false),
        ("grad_norm", "Gradient norm before clipping", "", true),
        ("step_ms", "Step time", "ms", true),
    ];
    let others = names(&run.steps, |name| {
        !name.starts_with("plugin/") && !name.starts_with("time/")
    });
    small.extend(others.into_iter().map(|name| (name, name, "", true)));
    Ok(html! {
        (draw(&run.steps, "loss", "Loss", "", true, WIDE)?)
        (small_plots(run, &small)?)
        p.muted { "Steps from left to right. The faint line is every step, the strong one its smoothed course." }
    })
}

/// The plots of a plugin's own metrics, with names shortened to what the plugin called them.
pub(super) fn plugin_plots(run: &Run<'_>, plugin: &str) -> Result<Markup, Error> {
    let prefix = format!("plugin/{plugin}/");
    let plots: Vec<_> = names(&run.steps, |name| name.starts_with(&prefix))
        .into_iter()
        .map(|name| (name, &name[prefix.len()..], "", true))
        .collect();
    small_plots(run, &plots)
}

/// Plots given as (metric, title, unit, noisy), in rows that come out even where they can.
fn small_plots(run: &Run<'_>, plots: &[(&str, &str, &str, bool)]) -> Result<Markup, Error> {
    let (class, size) = if !plots.len().is_multiple_of(3) && plots.len() <= 4 {
        ("plots half", HALF)
    } else {
        ("plots third", THIRD)
    };
    let drawn = plots
        .iter()
        .map(|(name, title, unit, noisy)| draw(&run.steps, name, title, unit, *noisy, size))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        @if !drawn.is_empty() { div class=(class) { @for plot in &drawn { (plot) } } }
    })
}

fn draw(
    steps: &[StepMetrics],
    name: &str,
    title: &str,
    unit: &str,
    noisy: bool,
    size: (u32, u32),
) -> Result<Markup, Error> {
    let svg = Plot {
        title,
        unit,
        points: series(steps, name),
        noisy,
        size,
    }
    .svg()?;
    Ok(html! { figure.chart { (PreEscaped(svg)) } })
}

fn names(steps: &[StepMetrics], wanted: impl Fn(&str) -> bool) -> BTreeSet<&str> {
    steps
        .iter()
        .flat_map(|step| step.named.keys())
        .map(String::as_str)
        .filter(|name| wanted(name))
        .collect()
}

pub(super) fn time(run: &Run<'_>) -> Markup {
    let report = &run.report;
    if report.wall.0.is_empty() && report.profile.steps == 0 {
        return html! {};
    }
    let laps: Vec<_> = report
        .wall
        .0
        .iter()
        .map(|lap| {
            (
                lap.name.clone(),
                lap.seconds,
                human_duration(Duration::from_secs_f64(lap.seconds.max(0.0))),
            )
        })
        .collect();
    let profile = &report.profile;
    let parts: Vec<_> = profile
        .sections
        .iter()
        .map(|part| {
            (
                label(&part.section),
                part.total_ms(),
                format::milliseconds(profile.mean_ms(part)),
            )
        })
        .collect();
    html! {
        @if !laps.is_empty() { h3 { "The run" } (split_bar(&laps)) }
        @if profile.steps > 0 {
            h3 { "One step, " (format::milliseconds(profile.total_ms() / profile.steps as f64)) " on average" }
            (split_bar(&parts))
            p.muted { "What a hook takes is counted as the hook's, not as that of the phase it runs in." }
            @if !profile.boundary.is_zero() {
                p {
                    "The boundary: calls into plugins took " (format::milliseconds(profile.boundary_ms())) " a step, "
                    (format::percent(profile.boundary_ms() / (profile.total_ms() / profile.steps as f64)))
                    " of it, beside the host's own work for them: messages, handles and the plugins' code. The hooks above include it."
                }
            }
        }
    }
}

fn label(section: &Section) -> String {
    match section {
        Section::Phase(phase) => phase.name().to_owned(),
        Section::Hook { plugin, slot } => format!("{plugin}: {slot}"),
        Section::Other => "rest".to_owned(),
    }
}
