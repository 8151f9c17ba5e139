//! `metrics.jsonl`: one JSON line a step, so that a run can be followed with `tail -f`, read by any tool, and plotted
//! again later. The file holds every step exactly once, also after a kill and a resume.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};

use super::Error;
use crate::fs::Error as FileError;

/// What one step measured. A number that is not finite (or was not measured: NaN) is written as `null` and read as NaN.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepMetrics {
    /// Optimizer steps done, counting this one: the first line has 1.
    pub step: u64,
    /// Mean loss over the step's samples, weights and extra terms included.
    pub loss: f64,
    /// Learning rate of this step.
    pub lr: f64,
    /// Norm of all gradients together, before clipping.
    pub grad_norm: f64,
    /// Wall time of the step in milliseconds.
    pub step_ms: f64,
    /// Training samples a second.
    pub samples_per_s: f64,
    /// Anything else by name: `plugin/<plugin>/<metric>` for what plugins log, `time/<phase>` for timings.
    pub named: BTreeMap<String, f64>,
}

impl StepMetrics {
    /// Every number of the step by name, without the step itself; the names are the keys in the file.
    pub fn values(&self) -> impl Iterator<Item = (&str, f64)> {
        let fixed = [
            ("loss", self.loss),
            ("lr", self.lr),
            ("grad_norm", self.grad_norm),
            ("step_ms", self.step_ms),
            ("samples_per_s", self.samples_per_s),
        ];
        fixed.into_iter().chain(
            self.named
                .iter()
                .map(|(name, value)| (name.as_str(), *value)),
        )
    }

    /// Reads one line of the file.
    ///
    /// # Errors
    /// A sentence saying why the line is not a step.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut all: BTreeMap<String, Option<f64>> =
            serde_json::from_str(line).map_err(|e| e.to_string())?;
        let step = all.remove("step").flatten().ok_or("no step")?;
        if step < 0.0 || step.fract() != 0.0 {
            return Err(format!("step {step} is not a whole number"));
        }
        let mut take = |name| all.remove(name).flatten().unwrap_or(f64::NAN);
        Ok(Self {
            step: step as u64,
            loss: take("loss"),
            lr: take("lr"),
            grad_norm: take("grad_norm"),
            step_ms: take("step_ms"),
            samples_per_s: take("samples_per_s"),
            named: all
                .into_iter()
                .map(|(name, value)| (name, value.unwrap_or(f64::NAN)))
                .collect(),
        })
    }
}

impl Serialize for StepMetrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("step", &self.step)?;
        for (name, value) in self.values() {
            map.serialize_entry(name, &value.is_finite().then_some(value))?;
        }
        map.end()
    }
}

/// The open file. Every line goes to the system in one write, so a killed process loses at most the last line.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
}

impl MetricsLog {
    /// Opens the file to write what comes after `steps_done` steps (0 for a new run). Lines of later steps, which a
    /// killed run wrote after its last checkpoint, and a torn last line are cut off.
    ///
    /// # Errors
    /// The file cannot be opened, or a line before the last is not a step.
    pub fn open(path: &Path, steps_done: u64) -> Result<Self, Error> {
        let io_error = |source| FileError::io("open", path, source);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(io_error)?;
        let text = std::fs::read(path).map_err(io_error)?;
        let keep = bytes_up_to(path, &text, steps_done)?;
        file.set_len(keep as u64).map_err(io_error)?;
        file.seek(SeekFrom::End(0)).map_err(io_error)?;
        Ok(Self {
            path: path.to_path_buf(),
            file,
        })
    }

    /// Appends one step.
    ///
    /// # Errors
    /// The line cannot be written, for instance because the disk is full.
    pub fn append(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        let mut line = serde_json::to_vec(metrics)
            .map_err(|e| FileError::io("write", &self.path, std::io::Error::other(e)))?;
        line.push(b'\n');
        self.file
            .write_all(&line)
            .map_err(|e| FileError::io("write", &self.path, e))?;
        Ok(())
    }

    /// Forces all lines to disk; called with every checkpoint, so that the file reaches as far as the checkpoint does.
    ///
    /// # Errors
    /// The system reports that it could not.
    pub fn sync(&self) -> Result<(), Error> {
        Ok(self
            .file
            .sync_data()
            .map_err(|e| FileError::io("write", &self.path, e))?)
    }
}

/// All steps of a metrics file in order; a torn last line is left out, a missing file is an empty run.
///
/// # Errors
/// The file cannot be read, or a line before the last is not a step.
pub fn read(path: &Path) -> Result<Vec<StepMetrics>, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(FileError::io("read", path, error).into()),
    };
    lines(path, &text)
        .map(|line| line.map(|(_, step)| step))
        .collect()
}

/// How many bytes of `text` hold the steps up to and including `last`.
fn bytes_up_to(path: &Path, text: &[u8], last: u64) -> Result<usize, Error> {
    let mut keep = 0;
    for line in lines(path, text) {
        let (end, metrics) = line?;
        if metrics.step > last {
            break;
        }
        keep = end;
    }
    Ok(keep)
}

/// Each complete line as (offset of its end, its step). Ends silently before a last line that has no newline or does
/// not parse: that is what a kill or a power cut leaves.
fn lines<'a>(
    path: &'a Path,
    text: &'a [u8],
) -> impl Iterator<Item = Result<(usize, StepMetrics), Error>> + 'a {
    let mut offset = 0;
    let mut number = 0;
    std::iter::from_fn(move || {
        let rest = &text[offset..];
        let length = rest.iter().position(|&byte| byte == b'\n')? + 1;
        number += 1;
        offset += length;
        let parsed = std::str::from_utf8(&rest[..length - 1])
            .map_err(|e| e.to_string())
            .and_then(StepMetrics::parse);
        match parsed {
            Ok(metrics) => Some(Ok((offset, metrics))),
            Err(_) if offset == text.len() => None,
            Err(reason) => Some(Err(Error::MetricsLine {
                path: path.to_path_buf(),
                line: number,
                reason,
            })),
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn step(step: u64) -> StepMetrics {
        let named = [("plugin/diff_tuning/loss_memory".to_owned(), 0.25)].into();
        StepMetrics {
            step,
            loss: 1.0 / step as f64,
            lr: 1e-4,
            grad_norm: 0.5,
            step_ms: 410.5,
            samples_per_s: 78.0,
            named,
        }
    }

    fn write_steps(path: &Path, steps_done: u64, steps: std::ops::RangeInclusive<u64>) {
        let mut log = MetricsLog::open(path, steps_done).unwrap();
        for number in steps {
            log.append(&step(number)).unwrap();
        }
    }

    #[track_caller]
    fn check(path: &Path, expected: std::ops::RangeInclusive<u64>) {
        let expected: Vec<_> = expected.map(step).collect();
        assert_eq!(read(path).unwrap(), expected);
    }

    #[test]
    fn a_line_has_plain_keys_in_a_fixed_order() {
        assert_eq!(
            serde_json::to_string(&step(1)).unwrap(),
            "{\"step\":1,\"loss\":1.0,\"lr\":0.0001,\"grad_norm\":0.5,\"step_ms\":410.5,\"samples_per_s\":78.0,\
             \"plugin/diff_tuning/loss_memory\":0.25}"
        );
    }

    #[test]
    fn resume_cuts_steps_after_the_checkpoint_so_each_step_is_there_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        write_steps(&path, 0, 1..=7);
        write_steps(&path, 5, 6..=9);
        check(&path, 1..=9);
    }

    #[test]
    fn a_torn_last_line_is_cut_whether_or_not_it_ends_in_a_newline() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        for torn in [
            "{\"step\":6,\"lo",
            "{\"step\":6,\"lo\n",
            "\0\0\0\0\n",
            "{\"step\":6,\"loss\":0.5}",
        ] {
            write_steps(&path, 0, 1..=5);
            OpenOptions::new()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(torn.as_bytes())
                .unwrap();
            check(&path, 1..=5);
            write_steps(&path, 5, 6..=6);
            check(&path, 1..=6);
        }
    }

    #[test]
    fn damage_before_the_last_line_is_named_rather_than_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        std::fs::write(&path, "{\"step\":1}\nnonsense\n{\"step\":3}\n").unwrap();
        let error = MetricsLog::open(&path, 3).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl line 2"), "{error}");
    }

    #[test]
    fn numbers_that_are_not_finite_become_null_and_come_back_as_nan() {
        let mut bad = step(3);
        bad.loss = f64::NAN;
        bad.grad_norm = f64::INFINITY;
        bad.named.insert("plugin/x/y".into(), f64::NEG_INFINITY);
        let line = serde_json::to_string(&bad).unwrap();
        assert!(
            line.contains("\"loss\":null") && line.contains("\"plugin/x/y\":null"),
            "{line}"
        );
        let back = StepMetrics::parse(&line).unwrap();
        assert!(back.loss.is_nan() && back.grad_norm.is_nan() && back.named["plugin/x/y"].is_nan());
        assert_eq!(back.lr, bad.lr);
    }

    #[test]
    fn a_new_run_empties_an_old_file_and_a_missing_file_reads_as_no_steps() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        assert!(read(&path).unwrap().is_empty());
        write_steps(&path, 0, 1..=3);
        MetricsLog::open(&path, 0).unwrap();
        assert!(read(&path).unwrap().is_empty());
    }
}
