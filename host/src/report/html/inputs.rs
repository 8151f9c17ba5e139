//! What went in: backbone, data, trainable parameters; and what it takes to run it again: command, configuration,
//! machine, checkpoints.

use maud::{Markup, html};

use super::{Run, format};

/// More names than this are counted rather than listed.
const LISTED: usize = 12;

type Rows = Vec<(String, String)>;

pub(super) fn section(run: &Run<'_>) -> Markup {
    let (model, data) = (&run.report.model, &run.report.data);
    let mut model_rows = rows([
        ("from", &model.source),
        ("architecture", &model.architecture),
    ]);
    if model.parameters > 0 {
        model_rows.push(("parameters".into(), format::thousands(model.parameters)));
    }
    model_rows.extend(model.facts.clone());

    let mut data_rows = rows([("from", &data.source), ("content", &data.description)]);
    if data.items > 0 {
        data_rows.push(("images".into(), format::thousands(data.items)));
    }
    if !data.classes.is_empty() {
        data_rows.push((
            format!("{} classes", data.classes.len()),
            listed(&data.classes),
        ));
    }
    if !data.skipped.is_empty() {
        data_rows.push((
            format!("{} skipped", data.skipped.len()),
            listed(&data.skipped),
        ));
    }
    data_rows.extend(rows([("fingerprint", &data.fingerprint)]));

    if model_rows.is_empty() && data_rows.is_empty() && run.report.trainable.is_empty() {
        return html! {};
    }
    html! {
        div.columns {
            @if !model_rows.is_empty() { div { h3 { "Backbone" } (facts(&model_rows)) } }
            @if !data_rows.is_empty() { div { h3 { "Data" } (facts(&data_rows)) } }
        }
        @if !run.report.trainable.is_empty() { h3 { "Trained parameters" } (trainable(run)) }
    }
}

fn trainable(run: &Run<'_>) -> Markup {
    let all: u64 = run
        .report
        .trainable
        .iter()
        .map(|group| group.parameters)
        .sum();
    let tensors: u64 = run.report.trainable.iter().map(|group| group.tensors).sum();
    html! {
        details open[run.report.trainable.len() <= LISTED] {
            summary { (format::thousands(all)) " numbers in " (format::thousands(tensors)) " tensors" }
            div.scroll {
                table {
                    thead { tr { th scope="col" { "Parameters" } th scope="col" { "Brought by" } th.right scope="col" { "Tensors" } th.right scope="col" { "Numbers" } } }
                    tbody {
                        @for group in &run.report.trainable {
                            tr {
                                td { code { (group.name) } }
                                td { (group.owner) }
                                td.right { (format::thousands(group.tensors)) }
                                td.right { (format::thousands(group.parameters)) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn reproduce(run: &Run<'_>) -> Markup {
    let report = &run.report;
    let environment = &report.environment;
    let mut machine = rows([
        ("host", &environment.host_version),
        ("system", &environment.platform),
        ("processor", &environment.cpu),
        ("instructions", &environment.cpu_features.join(" ")),
        ("device", &environment.device),
    ]);
    if environment.cpus > 0 {
        machine.push((
            "threads".into(),
            format!("{} of {} processors", environment.threads, environment.cpus),
        ));
    }
    if environment.memory_bytes > 0 {
        machine.push(("memory".into(), format::bytes(environment.memory_bytes)));
    }
    machine.push(("seed".into(), report.seed.to_string()));
    html! {
        @if !report.command.is_empty() { pre.command { code { (report.command) } } }
        @if !run.config.is_empty() {
            details { summary { "Resolved configuration (" code { "run.toml" } ")" } pre { code { (toml(&run.config)) } } }
        }
        div.columns {
            div { h3 { "Machine" } (facts(&machine)) }
            @if !report.checkpoints.is_empty() { div { h3 { "Checkpoints" } (checkpoints(run)) } }
        }
    }
}

fn checkpoints(run: &Run<'_>) -> Markup {
    html! {
        table {
            thead { tr { th.right scope="col" { "Step" } th scope="col" { "Folder" } th.right scope="col" { "Size" } } }
            tbody {
                @for checkpoint in &run.report.checkpoints {
                    tr {
                        td.right { (format::thousands(checkpoint.step)) }
                        td { code { (checkpoint.path.display()) } }
                        td.right { (format::bytes(checkpoint.bytes)) }
                    }
                }
            }
        }
    }
}

/// The pairs whose value is not empty.
fn rows<const N: usize>(pairs: [(&str, &String); N]) -> Rows {
    pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect()
}

fn facts(rows: &Rows) -> Markup {
    html! {
        dl.facts { @for (name, value) in rows { dt { (name) } dd { (value) } } }
    }
}

fn listed(names: &[String]) -> String {
    let shown = names[..names.len().min(LISTED)].join(", ");
    if names.len() > LISTED {
        format!("{shown} and {} more", names.len() - LISTED)
    } else {
        shown
    }
}

/// Tables bold, keys coloured, comments faint.
fn toml(text: &str) -> Markup {
    html! {
        @for line in text.lines() {
            @let trimmed = line.trim_start();
            @if trimmed.starts_with('#') { span.muted { (line) } }
            @else if trimmed.starts_with('[') { b { (line) } }
            @else if let Some((key, value)) = line.split_once('=') { span.key { (key) } "=" (value) }
            @else { (line) }
            "\n"
        }
    }
}
