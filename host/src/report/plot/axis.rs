//! Ranges and ticks of a plot's axes: round numbers, few of them, and a logarithmic scale where the values span
//! decades.

use std::ops::Range;

use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, Ranged, ValueFormatter};

/// Values that span more than this factor are drawn on a logarithmic scale.
const LOG_FROM: f64 = 30.0;
/// The share of values at either end that may lie outside the plot, so that one spike does not flatten the rest.
const OUTLIERS: f64 = 0.01;

/// One axis in plot coordinates: the logarithm of the value on a logarithmic scale, the value itself otherwise.
#[derive(Debug, Clone)]
pub(super) struct Axis {
    low: f64,
    high: f64,
    log: bool,
    /// Distance of the ticks, in values; 0 on a logarithmic scale.
    step: f64,
    /// Where the ticks are, in plot coordinates.
    pub(super) ticks: Vec<f64>,
}

impl Axis {
    /// The axis for steps.
    pub(super) fn of_steps(points: &[(u64, f64)]) -> Self {
        let low = points.first().map_or(0, |point| point.0) as f64;
        let high = points.last().map_or(1, |point| point.0) as f64;
        Self::linear(low, high.max(low + 1.0), 6, 1.0)
    }

    /// The axis for values: all of the smoothed ones and all but the outliers of the raw ones fit on it. `None` if
    /// nothing is finite.
    pub(super) fn of_values(
        raw: &[(u64, f64)],
        smooth: &[(u64, f64)],
        may_be_log: bool,
    ) -> Option<Self> {
        let mut sorted: Vec<f64> = raw
            .iter()
            .map(|point| point.1)
            .filter(|value| value.is_finite())
            .collect();
        sorted.sort_by(f64::total_cmp);
        let cut = (sorted.len() as f64 * OUTLIERS) as usize;
        let seen = smooth
            .iter()
            .map(|point| point.1)
            .filter(|value| value.is_finite());
        let (low, high) = seen.fold(
            (*sorted.get(cut)?, sorted[sorted.len() - 1 - cut]),
            |(low, high), value| (low.min(value), high.max(value)),
        );
        if may_be_log && low > 0.0 && high / low > LOG_FROM {
            return Some(Self::logarithmic(low, high));
        }
        let low = if (0.0..0.4 * high).contains(&low) {
            0.0
        } else {
            low
        };
        let margin = if high > low {
            0.05 * (high - low)
        } else {
            (0.1 * high.abs()).max(f64::MIN_POSITIVE * 1e10)
        };
        let from = if low == 0.0 { 0.0 } else { low - margin };
        Some(Self::linear(from, high + margin, 5, 0.0))
    }

    fn linear(low: f64, high: f64, about: usize, least_step: f64) -> Self {
        let step = round_step((high - low) / about as f64).max(least_step);
        let first = (low / step).ceil() as i64;
        let last = (high / step).floor() as i64;
        Self {
            low,
            high,
            log: false,
            step,
            ticks: (first..=last).map(|tick| tick as f64 * step).collect(),
        }
    }

    fn logarithmic(low: f64, high: f64) -> Self {
        let (low, high) = (low.log10() - 0.05, high.log10() + 0.05);
        // Up to three decades have room for 1, 2 and 5.
        let within: &[f64] = if high - low <= 3.0 {
            &[1.0, 2.0, 5.0]
        } else {
            &[1.0]
        };
        let every = ((high - low) / 7.0).ceil() as i32;
        let ticks = (low.floor() as i32..=high.ceil() as i32)
            .filter(|decade| decade.rem_euclid(every) == 0)
            .flat_map(|decade| {
                within
                    .iter()
                    .map(move |digit| f64::from(decade) + digit.log10())
            })
            .filter(|tick| (low..=high).contains(tick))
            .collect();
        Self {
            low,
            high,
            log: true,
            step: 0.0,
            ticks,
        }
    }

    /// Where a value goes, kept inside the plot.
    pub(super) fn place(&self, value: f64) -> f64 {
        let place = if self.log {
            value.max(f64::MIN_POSITIVE).log10()
        } else {
            value
        };
        place.clamp(self.low, self.high)
    }

    /// The text at a tick.
    pub(super) fn label(&self, place: f64) -> String {
        let (value, step) = if self.log {
            let value = 10f64.powf(place);
            (value, 10f64.powf(place.floor()))
        } else {
            (place, self.step)
        };
        let largest = if self.log {
            value
        } else {
            self.low.abs().max(self.high.abs())
        };
        if value.abs() < step * 1e-6 {
            "0".to_owned()
        } else if !(1e-3..1e6).contains(&largest) {
            // `2.50e-4` says no more than `2.5e-4`.
            let text = format!("{value:.2e}");
            let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
            format!(
                "{}e{exponent}",
                digits.trim_end_matches('0').trim_end_matches('.')
            )
        } else {
            let decimals = (-step.log10()).ceil().clamp(0.0, 6.0) as usize;
            grouped(&format!("{value:.decimals$}"))
        }
    }
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (start, end): (i32, i32)) -> i32 {
        let part = (value - self.low) / (self.high - self.low);
        start + (part * f64::from(end - start)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.low..self.high
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        self.label(*value)
    }
}

/// About `wanted`: 1, 2 or 5 times a power of ten.
fn round_step(wanted: f64) -> f64 {
    let power = 10f64.powf(wanted.log10().floor());
    let digit = [1.0, 2.0, 5.0]
        .into_iter()
        .find(|digit| digit * power >= 0.75 * wanted)
        .unwrap_or(10.0);
    digit * power
}

/// `12,000`: commas between thousands of a plain decimal number.
fn grouped(number: &str) -> String {
    let whole = number.find('.').unwrap_or(number.len());
    let mut text = number.to_owned();
    let start = usize::from(number.starts_with('-'));
    let mut at = whole;
    while at > start + 3 {
        at -= 3;
        text.insert(at, ',');
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[track_caller]
    fn check(values: &[f64], labels: &[&str]) {
        let points: Vec<_> = values
            .iter()
            .enumerate()
            .map(|(step, value)| (step as u64, *value))
            .collect();
        let axis = Axis::of_values(&points, &points, true).unwrap();
        assert_eq!(
            axis.ticks
                .iter()
                .map(|tick| axis.label(*tick))
                .collect::<Vec<_>>(),
            labels
        );
    }

    #[test]
    fn ticks_are_few_and_round() {
        check(&[0.01, 0.09], &["0", "0.02", "0.04", "0.06", "0.08"]);
        check(&[400.0, 420.0], &["400", "405", "410", "415", "420"]);
        check(&[0.0, 1e-4], &["0", "2e-5", "4e-5", "6e-5", "8e-5", "1e-4"]);
        check(&[-2.0, 2.0], &["-2", "-1", "0", "1", "2"]);
        check(
            &[12_000.0, 39_000.0],
            &["0", "10,000", "20,000", "30,000", "40,000"],
        );
    }

    #[test]
    fn decades_get_a_logarithmic_scale() {
        check(
            &[0.01, 1.0],
            &["0.01", "0.02", "0.05", "0.1", "0.2", "0.5", "1"],
        );
        check(
            &[1e-6, 1.0],
            &["1e-6", "1e-5", "1e-4", "0.001", "0.01", "0.1", "1"],
        );
    }

    #[test]
    fn constants_and_single_steps_have_a_range() {
        for value in [0.0, 1e-4, -3.0] {
            let points = [(7, value)];
            let axis = Axis::of_values(&points, &points, true).unwrap();
            assert!(
                axis.low < axis.high && axis.range().contains(&axis.place(value)),
                "{axis:?}"
            );
            assert!(!Axis::of_steps(&points).ticks.is_empty());
        }
    }

    #[test]
    fn one_spike_does_not_flatten_the_rest() {
        let mut points: Vec<_> = (0..1000).map(|step| (step, 0.1)).collect();
        points[500].1 = 1e6;
        let smooth: Vec<_> = (0..1000).map(|step| (step, 0.1)).collect();
        let axis = Axis::of_values(&points, &smooth, true).unwrap();
        assert!(axis.high < 1.0);
        assert_eq!(axis.place(1e6), axis.high);
    }
}
