//! Plots follow the page's colours, scale, describe themselves, and stay small for long runs.

#![allow(clippy::unwrap_used)]

use super::*;

fn plot(points: Vec<(u64, f64)>) -> Plot<'static> {
    Plot {
        title: "Loss & <more>",
        unit: "",
        points,
        noisy: true,
        size: (640, 240),
    }
}

#[test]
fn every_colour_has_a_dark_twin() {
    let svg = plot((1..50).map(|step| (step, 1.0 / step as f64)).collect())
        .svg()
        .unwrap();
    for colour in svg.split('#').skip(1).map(|rest| &rest[..6]) {
        assert!(
            STYLE.contains(&format!("\"#{colour}\"")),
            "#{colour} has none"
        );
    }
}

#[test]
fn a_plot_scales_and_says_what_it_shows() {
    let svg = plot(vec![(1, 0.5), (2, f64::NAN), (3, 0.25)])
        .svg_file()
        .unwrap();
    assert!(
        svg.starts_with("<svg class=\"plot\" role=\"img\" viewBox=\"0 0 2560 960\""),
        "{svg}"
    );
    assert!(svg.contains(
        "<title>Loss &amp; &lt;more&gt;: 0.5000 at step 1, 0.2500 at step 3</title><style>"
    ));
    assert_eq!(svg.matches("<svg").count(), 1);
    assert!(svg.trim_end().ends_with("</svg>"));
    assert!(!svg.contains("NaN"));
}

#[test]
fn a_run_without_a_finite_value_still_has_a_plot() {
    assert!(
        plot(vec![(1, f64::NAN)])
            .svg()
            .unwrap()
            .contains("no finite values")
    );
    assert!(plot(vec![]).svg().unwrap().contains("not recorded"));
}

#[test]
fn thinning_keeps_spikes_and_bounds_the_size() {
    let mut points: Vec<_> = (0..24_000u64).map(|step| (step, 0.1)).collect();
    points[12_345].1 = 9.0;
    let thin = thinned(&points);
    assert!(thin.len() <= 2 * MAX_COLUMNS);
    assert!(thin.contains(&(12_345, 9.0)));
    assert!(plot(points).svg().unwrap().len() < 60_000);
}

#[test]
fn smoothing_keeps_a_constant_and_halves_no_gap() {
    let mut points: Vec<_> = (0..100u64).map(|step| (step, 2.0)).collect();
    points[50].1 = f64::INFINITY;
    for (step, value) in smoothed(&points) {
        if step == 50 {
            assert!(value.is_nan());
        } else {
            assert!((value - 2.0).abs() < 1e-12);
        }
    }
}

#[test]
fn a_series_has_only_the_steps_that_measured_it() {
    let mut steps: Vec<_> = (1..=3)
        .map(|step| StepMetrics {
            step,
            ..Default::default()
        })
        .collect();
    steps[1].named.insert("plugin/x/y".into(), 5.0);
    assert_eq!(series(&steps, "plugin/x/y"), [(2, 5.0)]);
    assert_eq!(series(&steps, "loss").len(), 3);
}
