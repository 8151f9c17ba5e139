//! How near a run's depth or normals come to the truth: the numbers of `host eval`.

use maud::{Markup, html};

use super::Run;
use super::evaluation::described;

pub(super) fn section(run: &Run<'_>) -> Markup {
    let Some(estimates) = &run.estimates else {
        return html! {};
    };
    html! {
        p.lead { (described(&estimates.generated)) " against the truth of " (estimates.truth) "." }
        dl.numbers {
            @for (name, value, detail) in estimates.numbers() {
                div { dt { (name) } dd { (value) small { (detail) } } }
            }
        }
        @if !estimates.notes.is_empty() {
            ul.notes { @for note in &estimates.notes { li { (note) } } }
        }
    }
}
