//! The pictures: before and after with the same seeds, the data they should have come to resemble, and the way between.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{Markup, html};

use super::Run;
use crate::report::png_size;
use crate::report::summary::{Role, SampleGrid};

/// Images with sides up to this are enlarged with hard edges; blurring them would hide what the model drew.
const SMALL_TILE: u32 = 96;

pub(super) fn section(run: &Run<'_>) -> Markup {
    let with = |role| {
        run.report
            .samples
            .iter()
            .filter(move |grid| grid.role == role)
    };
    let story: Vec<_> = with(Role::Before)
        .chain(with(Role::After))
        .chain(with(Role::Target))
        .collect();
    let progress: Vec<_> = with(Role::Progress).collect();
    let other: Vec<_> = with(Role::Other).collect();
    if story.is_empty() && progress.is_empty() && other.is_empty() {
        return html! {};
    }
    html! {
        @if with(Role::Before).next().is_some() && with(Role::After).next().is_some() {
            p.lead { "The same seeds before and after training, place by place." }
        }
        (row(run, &story, "grids"))
        @if !progress.is_empty() {
            h3 { "On the way" }
            (row(run, &progress, "grids small"))
        }
        @if !other.is_empty() {
            h3 { "More samples" }
            (row(run, &other, "grids"))
        }
    }
}

/// Grids side by side, as many as fit.
pub(super) fn row(run: &Run<'_>, grids: &[&SampleGrid], class: &str) -> Markup {
    html! {
        @if !grids.is_empty() {
            div class=(class) { @for grid in grids { (figure(run, grid)) } }
        }
    }
}

fn figure(run: &Run<'_>, grid: &SampleGrid) -> Markup {
    let png = std::fs::read(run.dir.join(&grid.file)).ok();
    let image = png.as_ref().and_then(|png| Some((png_size(png)?, png)));
    let pixelated = (1..=SMALL_TILE).contains(&grid.tile);
    html! {
        figure {
            h4 { (grid.title) }
            @match image {
                Some(((width, height), png)) => {
                    img src={ "data:image/png;base64," (STANDARD.encode(png)) } alt=(alt(grid)) width=(width) height=(height)
                        class=[pixelated.then_some("pixelated")];
                }
                None => p.missing { (grid.file.display()) " is missing or not a PNG." }
            }
            @if !grid.caption.is_empty() { figcaption { (grid.caption) } }
        }
    }
}

fn alt(grid: &SampleGrid) -> String {
    let kind = match grid.role {
        Role::Target => "Images of the data set",
        _ => "Generated images",
    };
    let step = grid
        .step
        .map(|step| format!(" at step {step}"))
        .unwrap_or_default();
    let caption = if grid.caption.is_empty() {
        String::new()
    } else {
        format!(". {}", grid.caption)
    };
    format!("{kind}{step}: {}{caption}", grid.title)
}
