//! Progress on the terminal: bars with loss, step time and time left where someone watches, one plain line now and
//! then where output goes to a file. Log lines go through the same place, so that they do not tear a bar.

use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line appears when no one watches.
const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// Weight of the newest step in the loss and step time shown: about the last twenty steps.
const SMOOTHING: f64 = 0.1;

/// Where progress goes; cheap to clone, shared by everything in the host that has something to show.
#[derive(Clone)]
pub struct Progress(Arc<Output>);

enum Output {
    Bars(MultiProgress),
    Plain {
        sink: Mutex<Box<dyn Write + Send>>,
        interval: Duration,
    },
    Hidden,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &*self.0 {
            Output::Bars(_) => "Progress(bars)",
            Output::Plain { .. } => "Progress(plain)",
            Output::Hidden => "Progress(hidden)",
        })
    }
}

impl Progress {
    /// Bars when standard error is a terminal that can draw them, plain lines otherwise.
    pub fn stderr() -> Self {
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        if io::stderr().is_terminal() && !dumb {
            let target = ProgressDrawTarget::stderr_with_hz(8);
            Self(Arc::new(Output::Bars(MultiProgress::with_draw_target(
                target,
            ))))
        } else {
            Self::plain(io::stderr(), PLAIN_INTERVAL)
        }
    }

    /// Plain lines into `sink`, at most one each `interval` for every task, besides its first and last.
    pub fn plain(sink: impl Write + Send + 'static, interval: Duration) -> Self {
        Self(Arc::new(Output::Plain {
            sink: Mutex::new(Box::new(sink)),
            interval,
        }))
    }

    /// Shows nothing: for tests and `--quiet`.
    pub fn hidden() -> Self {
        Self(Arc::new(Output::Hidden))
    }

    /// A training run of `steps` steps, of which `done` were done before (by the run that is being resumed).
    pub fn train(&self, done: u64, steps: u64) -> Task {
        self.start("train", "step", done, steps)
    }

    /// Anything else that is counted: `label` says what ("memory bank"), `unit` in what ("image").
    pub fn count(&self, label: &str, unit: &str, total: u64) -> Task {
        self.start(label, unit, 0, total)
    }

    /// Prints a line above the bars.
    pub fn message(&self, text: &str) {
        match &*self.0 {
            Output::Bars(multi) => multi.suspend(|| write_quietly(&mut io::stderr(), text)),
            Output::Plain { sink, .. } => write_quietly(
                &mut *sink.lock().unwrap_or_else(PoisonError::into_inner),
                text,
            ),
            Output::Hidden => {}
        }
    }

    fn start(&self, label: &str, unit: &str, done: u64, total: u64) -> Task {
        let bar = match &*self.0 {
            Output::Bars(multi) => {
                let bar = multi.add(
                    ProgressBar::new(total)
                        .with_style(style())
                        .with_position(done),
                );
                bar.set_prefix(label.to_owned());
                // Redraws the elapsed time during a long step.
                bar.enable_steady_tick(Duration::from_millis(500));
                Some(bar)
            }
            _ => None,
        };
        let task = Task {
            progress: self.clone(),
            bar,
            label: label.to_owned(),
            unit: unit.to_owned(),
            before: done,
            done,
            total,
            loss: None,
            unit_ms: None,
            note: String::new(),
            started: Instant::now(),
            last_change: Instant::now(),
            last_line: Instant::now(),
        };
        task.plain_line(&format!(
            "{}: {} of {} {}s",
            task.label, done, total, task.unit
        ));
        task
    }
}

/// Lets `tracing_subscriber::fmt().with_writer(progress.clone())` print log lines above the bars.
impl<'a> tracing_subscriber::fmt::MakeWriter<'a> for Progress {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine {
            progress: self.clone(),
            text: Vec::new(),
        }
    }
}

/// Collects one log event and prints it when dropped.
#[derive(Debug)]
pub struct LogLine {
    progress: Progress,
    text: Vec<u8>,
}

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LogLine {
    fn drop(&mut self) {
        let text = String::from_utf8_lossy(&self.text);
        let text = text.trim_end_matches('\n');
        match &*self.progress.0 {
            _ if text.is_empty() => {}
            // Someone who hides progress still wants warnings.
            Output::Hidden => write_quietly(&mut io::stderr(), text),
            _ => self.progress.message(text),
        }
    }
}

/// Something under way. Dropping it without [`Task::finish`] takes its bar away and prints nothing more.
#[derive(Debug)]
pub struct Task {
    progress: Progress,
    bar: Option<ProgressBar>,
    label: String,
    unit: String,
    /// What was done before this task began: by the run that is being resumed.
    before: u64,
    done: u64,
    total: u64,
    /// Smoothed over recent steps, as is `unit_ms`.
    loss: Option<f64>,
    unit_ms: Option<f64>,
    note: String,
    started: Instant,
    last_change: Instant,
    last_line: Instant,
}

impl Task {
    /// A training step is done: `step` steps in all, with this loss, in this many milliseconds.
    pub fn tick(&mut self, step: u64, loss: f64, step_ms: f64) {
        self.done = step;
        self.loss = Some(smooth(self.loss, loss));
        self.unit_ms = Some(smooth(self.unit_ms, step_ms));
        self.show();
    }

    /// `done` of the units are done; the time they take is measured from call to call.
    pub fn set(&mut self, done: u64) {
        let elapsed = self.last_change.elapsed().as_secs_f64() * 1e3;
        self.last_change = Instant::now();
        if done > self.done {
            self.unit_ms = Some(smooth(self.unit_ms, elapsed / (done - self.done) as f64));
        }
        self.done = done;
        self.show();
    }

    /// One more unit is done.
    pub fn advance(&mut self) {
        self.set(self.done + 1);
    }

    /// Shows a word or two after the numbers ("saving checkpoint"); an empty text removes it.
    pub fn note(&mut self, text: &str) {
        self.note = text.to_owned();
        self.show();
    }

    /// Prints a line above the bars.
    pub fn message(&self, text: &str) {
        self.progress.message(text);
    }

    /// Takes the bar away and leaves one line that says what was done and how long it took.
    pub fn finish(self) {
        let elapsed = human_duration(self.started.elapsed());
        let loss = self
            .loss
            .map(|loss| format!(", loss {}", short(loss)))
            .unwrap_or_default();
        // The time is this session's, so what earlier ones did is told apart.
        let newly = match self.before {
            0 => String::new(),
            before => format!(", the last {}", self.done.saturating_sub(before)),
        };
        let line = format!(
            "{}: {} {}s{newly} in {elapsed}{loss}",
            self.label, self.done, self.unit
        );
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.message(&line);
    }

    fn show(&mut self) {
        if let Some(bar) = &self.bar {
            bar.set_message(self.numbers());
            bar.set_position(self.done);
        } else if let Output::Plain { interval, .. } = &*self.progress.0 {
            if self.last_line.elapsed() < *interval {
                return;
            }
            self.last_line = Instant::now();
            let numbers = self.numbers();
            self.plain_line(&format!(
                "{}: {} {}/{}  {numbers}",
                self.label, self.unit, self.done, self.total
            ));
        }
    }

    fn plain_line(&self, line: &str) {
        if self.bar.is_none() {
            self.progress.message(line.trim_end());
        }
    }

    /// `loss 0.0213  412 ms/step  1m 20s left  saving checkpoint`
    fn numbers(&self) -> String {
        let mut parts = Vec::new();
        if let Some(loss) = self.loss {
            parts.push(format!("loss {}", short(loss)));
        }
        if let Some(ms) = self.unit_ms {
            parts.push(if ms < 1e3 {
                format!("{ms:.0} ms/{}", self.unit)
            } else {
                format!("{:.1} s/{}", ms / 1e3, self.unit)
            });
            let left = self.total.saturating_sub(self.done) as f64 * ms / 1e3;
            if left.is_finite() {
                parts.push(format!(
                    "{} left",
                    human_duration(Duration::from_secs_f64(left.clamp(0.0, 1e10)))
                ));
            }
        }
        if !self.note.is_empty() {
            parts.push(self.note.clone());
        }
        parts.join("  ")
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Everything up to the time left fits 80 columns, also for runs of tens of thousands of steps.
fn style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:>11} {bar:16.cyan/dim} {pos}/{len}  {wide_msg}")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("━╸─")
}

fn smooth(old: Option<f64>, new: f64) -> f64 {
    match old {
        Some(old) if old.is_finite() => old + SMOOTHING * (new - old),
        _ => new,
    }
}

/// Four digits that matter: `0.02134`, `12.35`, `1.2e-5`.
fn short(value: f64) -> String {
    let magnitude = value.abs();
    if magnitude != 0.0 && !(1e-4..1e5).contains(&magnitude) {
        return format!("{value:.2e}");
    }
    let decimals = (3 - magnitude.max(1e-4).log10().floor() as i32).clamp(0, 5) as usize;
    format!("{value:.decimals$}")
}

/// `8s`, `3m 05s`, `2h 40m`; under ten seconds with one decimal.
pub fn human_duration(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    match seconds {
        0..10 => format!("{:.1}s", time.as_secs_f64()),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        _ => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A closed terminal or a full disk behind standard error must not stop a training run.
fn write_quietly(sink: &mut (impl Write + ?Sized), text: &str) {
    let _ = writeln!(sink, "{text}").and_then(|()| sink.flush());
}

#[cfg(test)]
mod tests;
