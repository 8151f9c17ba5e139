//! How near the run's images come to a reference: the numbers of `host eval`.

use maud::{Markup, html};

use super::{Run, format};
use crate::report::evaluation::{Evaluation, Images};

pub(super) fn section(run: &Run<'_>) -> Markup {
    let Some(Evaluation {
        generated,
        reference,
        scores,
    }) = &run.evaluation
    else {
        return html! {};
    };
    let share = |share: f64| format!("{share:.3}");
    let mut numbers = vec![
        (
            "Frechet distance",
            format::number(scores.frechet),
            format!(
                "{} by means, {} by spreads",
                format::number(scores.frechet_mean),
                format::number(scores.frechet_covariance)
            ),
        ),
        (
            "Kernel distance × 1000",
            format::number(1e3 * scores.kernel.mean),
            format!("± {} over subsets", format::number(1e3 * scores.kernel.std)),
        ),
        (
            "Precision",
            share(scores.precision),
            "images that lie among real ones".to_owned(),
        ),
        (
            "Recall",
            share(scores.recall),
            "real ones that are covered".to_owned(),
        ),
    ];
    numbers.extend(scores.agreement.map(|agreement| {
        let detail = "whose nearest real image is of the class".to_owned();
        ("Class agreement", share(agreement), detail)
    }));
    html! {
        p.lead {
            (described(generated)) " against " (described(reference)) ", by the features of the " (scores.network.name)
            " (" (scores.network.source) ", " (scores.network.dimensions) " numbers an image)."
        }
        dl.numbers {
            @for (name, value, detail) in numbers {
                div { dt { (name) } dd { (value) small { (detail) } } }
            }
        }
        @if !scores.notes.is_empty() {
            ul.notes { @for note in &scores.notes { li { (note) } } }
        }
        @if !scores.classes.is_empty() {
            h3 { "Class by class" }
            div.scroll {
                table {
                    thead { tr {
                        th scope="col" { "Class" }
                        @for name in ["Images", "Reference", "Kernel distance × 1000", "Precision", "Recall", "Agreement"] {
                            th.right scope="col" { (name) }
                        }
                    } }
                    tbody {
                        @for class in &scores.classes {
                            tr {
                                td { (class.name) }
                                td.right { (format::thousands(class.generated)) }
                                td.right { (format::thousands(class.reference)) }
                                td.right { (format::number(1e3 * class.kernel.mean)) " ± " (format::number(1e3 * class.kernel.std)) }
                                td.right { (share(class.precision)) }
                                td.right { (share(class.recall)) }
                                td.right { (class.agreement.map(share).unwrap_or_default()) }
                            }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn described(images: &Images) -> String {
    let after = images
        .step
        .map(|step| format!(" after {} steps", format::thousands(step)))
        .unwrap_or_default();
    let how = images.sample.as_ref().map(|sample| {
        format!(
            " ({}, {} steps, guidance {}, seed {})",
            sample.sampler, sample.steps, sample.guidance, sample.seed
        )
    });
    format!("{}{after}{}", images.description, how.unwrap_or_default())
}
