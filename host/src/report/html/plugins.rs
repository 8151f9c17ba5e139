//! What each plugin was, took, was set to and did, and the step they make together.

use maud::{Markup, html};

use super::{Run, format, samples, training};
use crate::report::Error;
use crate::report::profile::Section;
use crate::report::summary::{PluginReport, SlotUse};

pub(super) fn section(run: &Run<'_>) -> Result<Markup, Error> {
    let report = &run.report;
    if report.plugins.is_empty() && report.plan.is_empty() {
        return Ok(html! {});
    }
    let plugins = report
        .plugins
        .iter()
        .map(|plugin| article(run, plugin))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(html! {
        @for plugin in &plugins { (plugin) }
        @if !report.plan.is_empty() { h3 { "The composed step" } (plan(run)) }
    })
}

fn article(run: &Run<'_>, plugin: &PluginReport) -> Result<Markup, Error> {
    let plots = training::plugin_plots(run, &plugin.name)?;
    let images: Vec<_> = plugin.images.iter().collect();
    Ok(html! {
        article {
            h3 { (plugin.name) " " span.muted { (plugin.version) } }
            @if !plugin.description.is_empty() { p { (plugin.description) } }
            p.tags {
                @for slot in &plugin.slots { span.tag { (slot) } }
            }
            ul {
                @for note in &plugin.notes { li { (note) } }
                li { (cost(run, plugin)) }
                @if plugin.parameters > 0 { li { "Brought " (format::thousands(plugin.parameters)) " trainable parameters." } }
            }
            @if !plugin.settings.is_empty() { (settings(plugin)) }
            (samples::row(run, &images, "grids"))
            (plots)
            @if !plugin.file.is_empty() { p.muted { "Loaded from " code { (plugin.file) } } }
        }
    })
}

fn cost(run: &Run<'_>, plugin: &PluginReport) -> String {
    let profile = &run.report.profile;
    let (ms, total) = (profile.plugin_ms(&plugin.name), profile.total_ms());
    if ms > 0.0 && total > 0.0 {
        let each = format::milliseconds(ms / profile.steps.max(1) as f64);
        format!(
            "Its hooks took {each} a step, {} of it.",
            format::percent(ms / total)
        )
    } else {
        "Its hooks took no measurable time of the steps.".to_owned()
    }
}

fn settings(plugin: &PluginReport) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { th scope="col" { "Setting" } th scope="col" { "Value" } th scope="col" { "From" } th scope="col" { "Meaning" } } }
                tbody {
                    @for setting in &plugin.settings {
                        tr {
                            td { code { (setting.key) } }
                            td { code { (setting.value) } }
                            td class=[(setting.origin == "default").then_some("muted")] { (setting.origin) }
                            td.muted { (setting.doc) }
                        }
                    }
                }
            }
        }
    }
}

fn plan(run: &Run<'_>) -> Markup {
    html! {
        div.scroll {
            table {
                thead { tr { th scope="col" { "Slot" } th scope="col" { "Filled by" } th scope="col" { "Shared as" } th.right scope="col" { "A step" } } }
                tbody {
                    @for slot in &run.report.plan {
                        tr class=[slot.plugins.is_empty().then_some("untaken")] {
                            td { code { (slot.slot) } }
                            td {
                                @if slot.plugins.is_empty() { (slot.default) }
                                @else { b { (slot.plugins.join(", ")) } }
                            }
                            td.muted { (slot.mode) }
                            td.right { (slot_time(run, slot)) }
                        }
                    }
                }
            }
        }
    }
}

fn slot_time(run: &Run<'_>, wanted: &SlotUse) -> String {
    let profile = &run.report.profile;
    let hooks = profile
        .sections
        .iter()
        .filter(|part| matches!(&part.section, Section::Hook { slot, .. } if *slot == wanted.slot));
    let ms: f64 = hooks.map(|part| profile.mean_ms(part)).sum();
    if ms > 0.0 {
        format::milliseconds(ms)
    } else {
        String::new()
    }
}
