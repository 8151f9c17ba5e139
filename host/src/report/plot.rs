//! Line plots of a run's numbers as small SVGs: the raw values faint, their smoothed course on top, readable on light
//! and dark pages alike, with the viewer's own fonts.

mod axis;

use plotters::prelude::*;

use self::axis::Axis;
use super::{Error, StepMetrics};

/// More points than this across a plot cannot be seen; longer runs are thinned to their extremes.
const MAX_COLUMNS: usize = 480;
/// The library places everything on whole pixels; drawing larger and letting the page shrink it keeps curves smooth.
const SCALE: u32 = 4;
/// The smoothed line's window, as a part of the run.
const SMOOTHING: f64 = 0.02;

/// The colours on a light page. [`STYLE`] swaps each for its dark twin, which is why no two may be equal.
const INK: RGBColor = RGBColor(0x1f, 0x29, 0x37);
const MUTED: RGBColor = RGBColor(0x6b, 0x72, 0x80);
const GRID: RGBColor = RGBColor(0xe5, 0xe7, 0xeb);
const RAW: RGBColor = RGBColor(0xb9, 0xcd, 0xf6);
const LINE: RGBColor = RGBColor(0x25, 0x63, 0xeb);

/// The style sheet that makes a plot follow the page's colours; an HTML page needs it once.
pub const STYLE: &str = "@media (prefers-color-scheme: dark) {\
.plot [fill=\"#1F2937\"] { fill: #e7e9ee } .plot [fill=\"#6B7280\"] { fill: #9aa3b2 }\
.plot [stroke=\"#E5E7EB\"] { stroke: #2c313c } \
.plot [stroke=\"#B9CDF6\"] { stroke: #3a5288 } .plot [stroke=\"#2563EB\"] { stroke: #7fa9ff }\
.plot [fill=\"#2563EB\"] { fill: #7fa9ff } }";

/// One quantity over the steps of a run.
#[derive(Debug, Clone)]
pub struct Plot<'a> {
    /// What is plotted, as in "Loss".
    pub title: &'a str,
    /// Unit of the values, empty if they have none.
    pub unit: &'a str,
    /// (step, value) in order of steps; values that are not finite leave a gap.
    pub points: Vec<(u64, f64)>,
    /// Whether the values are measured, so that a smoothed line is drawn over them, on a logarithmic scale if they span
    /// decades. What is set rather than measured, such as a learning rate, is drawn as it is.
    pub noisy: bool,
    /// Width and height in CSS pixels.
    pub size: (u32, u32),
}

/// The values of one metric over the steps that have it.
pub fn series(steps: &[StepMetrics], name: &str) -> Vec<(u64, f64)> {
    let value = |step: &StepMetrics| {
        step.values()
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value)
    };
    steps
        .iter()
        .filter_map(|step| Some((step.step, value(step)?)))
        .collect()
}

impl Plot<'_> {
    /// Draws the plot as an `<svg>` element to be put into a page that has [`STYLE`].
    ///
    /// # Errors
    /// The drawing library's own, none of which a valid plot is known to cause.
    pub fn svg(&self) -> Result<String, Error> {
        let mut svg = String::new();
        self.draw(&mut svg).map_err(|e| Error::Plot {
            title: self.title.to_owned(),
            reason: e.to_string(),
        })?;
        Ok(self.make_scalable(&svg))
    }

    /// Draws the plot as a file of its own, for documents that show it as an image.
    ///
    /// # Errors
    /// As [`Self::svg`].
    pub fn svg_file(&self) -> Result<String, Error> {
        let svg = self.svg()?;
        Ok(svg.replacen("</title>", &format!("</title><style>{STYLE}</style>"), 1))
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let (width, height) = (self.size.0 * SCALE, self.size.1 * SCALE);
        let root = SVGBackend::with_string(svg, (width, height)).into_drawing_area();
        root.draw_text(&self.heading(), &bold(13).color(&INK), at(12, 8))?;

        let smooth = if self.noisy {
            smoothed(&self.points)
        } else {
            self.points.clone()
        };
        let Some(y) = Axis::of_values(&self.points, &smooth, self.noisy) else {
            let text = if self.points.is_empty() {
                "not recorded"
            } else {
                "no finite values"
            };
            root.draw_text(
                text,
                &font(12).color(&MUTED),
                at(12, self.size.1 as i32 / 2),
            )?;
            root.present()?;
            return Ok(());
        };
        let x = Axis::of_steps(&self.points);
        let mut chart = ChartBuilder::on(&root)
            .margin_top(34 * SCALE)
            .margin_right(24 * SCALE)
            .margin_bottom(6 * SCALE)
            .x_label_area_size(22 * SCALE)
            .y_label_area_size(54 * SCALE)
            .build_cartesian_2d(x.clone(), y.clone())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID.stroke_width(SCALE))
            .axis_style(GRID.stroke_width(SCALE))
            .x_label_style(font(11).color(&MUTED))
            .y_label_style(font(11).color(&MUTED))
            .x_labels(x.ticks.len())
            .y_labels(y.ticks.len())
            .draw()?;

        let place = |&(step, value): &(u64, f64)| (step as f64, y.place(value));
        if self.noisy {
            for run in finite_runs(&thinned(&self.points)) {
                chart.draw_series(LineSeries::new(
                    run.iter().map(place),
                    RAW.stroke_width(SCALE),
                ))?;
            }
        }
        for run in finite_runs(&thinned(&smooth)) {
            match run.as_slice() {
                [alone] => {
                    chart.draw_series([Circle::new(place(alone), 3 * SCALE, LINE.filled())])?;
                }
                run => {
                    chart.draw_series(LineSeries::new(
                        run.iter().map(place),
                        LINE.stroke_width(2 * SCALE),
                    ))?;
                }
            }
        }
        root.present()?;
        Ok(())
    }

    fn heading(&self) -> String {
        if self.unit.is_empty() {
            self.title.to_owned()
        } else {
            format!("{}, {}", self.title, self.unit)
        }
    }

    /// What someone who cannot see the plot should know.
    fn description(&self) -> String {
        let mut finite = self.points.iter().filter(|(_, value)| value.is_finite());
        let heading = self.heading();
        match (finite.next(), finite.next_back()) {
            (Some(first), Some(last)) => {
                format!(
                    "{heading}: {:.4} at step {}, {:.4} at step {}",
                    first.1, first.0, last.1, last.0
                )
            }
            (Some(only), None) => format!("{heading}: {:.4} at step {}", only.1, only.0),
            _ => format!("{heading}: no values"),
        }
    }

    /// The library writes a fixed size and no name; a page wants it to fill its column and to say what it is.
    fn make_scalable(&self, svg: &str) -> String {
        let body = svg
            .split_once("<svg")
            .and_then(|(_, rest)| rest.split_once('>'))
            .map_or(svg, |(_, body)| body);
        let (width, height) = (self.size.0 * SCALE, self.size.1 * SCALE);
        let name = escape(&self.description());
        format!(
            "<svg class=\"plot\" role=\"img\" viewBox=\"0 0 {width} {height}\" xmlns=\"http://www.w3.org/2000/svg\">\
             <title>{name}</title>{}",
            body.trim_start()
        )
    }
}

/// A place in CSS pixels.
fn at(x: i32, y: i32) -> (i32, i32) {
    (x * SCALE as i32, y * SCALE as i32)
}

/// Text of a size in CSS pixels. The library takes a font's line height for its size and writes the em size, 1.24
/// times smaller.
fn font(pixels: u32) -> TextStyle<'static> {
    ("system-ui, sans-serif", 1.24 * f64::from(pixels * SCALE)).into()
}

fn bold(pixels: u32) -> TextStyle<'static> {
    (
        "system-ui, sans-serif",
        1.24 * f64::from(pixels * SCALE),
        FontStyle::Bold,
    )
        .into()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// The mean under a Gaussian window of about [`SMOOTHING`] of the run, gaps left out of the mean.
fn smoothed(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    let columns = averaged(points, MAX_COLUMNS);
    let sigma = (columns.len() as f64 * SMOOTHING).max(1.0);
    let reach = (3.0 * sigma).ceil() as usize;
    (0..columns.len())
        .map(|centre| {
            let (mut sum, mut weight) = (0.0, 0.0);
            let first = centre.saturating_sub(reach);
            let window = &columns[first..(centre + reach + 1).min(columns.len())];
            for (index, (_, value)) in window
                .iter()
                .enumerate()
                .filter(|(_, (_, value))| value.is_finite())
            {
                let distance = ((first + index) as f64 - centre as f64) / sigma;
                let share = (-0.5 * distance * distance).exp();
                sum += share * value;
                weight += share;
            }
            let value = if columns[centre].1.is_finite() {
                sum / weight
            } else {
                f64::NAN
            };
            (columns[centre].0, value)
        })
        .collect()
}

/// At most `columns` points, each the mean of the finite values it stands for.
fn averaged(points: &[(u64, f64)], columns: usize) -> Vec<(u64, f64)> {
    let chunk = points.len().div_ceil(columns).max(1);
    points
        .chunks(chunk)
        .map(|part| {
            let finite: Vec<f64> = part
                .iter()
                .map(|point| point.1)
                .filter(|value| value.is_finite())
                .collect();
            (
                part[part.len() / 2].0,
                finite.iter().sum::<f64>() / finite.len() as f64,
            )
        })
        .collect()
}

/// Keeps each column's lowest and highest point, so that spikes survive.
fn thinned(points: &[(u64, f64)]) -> Vec<(u64, f64)> {
    if points.len() <= 2 * MAX_COLUMNS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(2 * MAX_COLUMNS);
    for part in points.chunks(points.len().div_ceil(MAX_COLUMNS)) {
        let by_value = |a: &&(u64, f64), b: &&(u64, f64)| a.1.total_cmp(&b.1);
        let finite = || part.iter().filter(|point| point.1.is_finite());
        let mut ends: Vec<_> = finite()
            .min_by(by_value)
            .into_iter()
            .chain(finite().max_by(by_value))
            .copied()
            .collect();
        ends.sort_by_key(|point| point.0);
        ends.dedup();
        if ends.is_empty() {
            ends.push((part[0].0, f64::NAN));
        }
        kept.extend(ends);
    }
    kept
}

fn finite_runs(points: &[(u64, f64)]) -> Vec<Vec<(u64, f64)>> {
    points
        .split(|point| !point.1.is_finite())
        .filter(|run| !run.is_empty())
        .map(<[(u64, f64)]>::to_vec)
        .collect()
}

#[cfg(test)]
mod tests;
