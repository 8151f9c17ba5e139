//! TensorBoard event files, written directly: the format is small (length-framed, checksummed protocol buffers) and
//! settled, so scalars, images and text need no generated code. Field numbers are those of `tensorflow/core/util/event.proto`
//! and `tensorflow/core/framework/summary.proto`.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::Error;
use super::environment::host_name;
use super::metrics::StepMetrics;
use crate::fs::Error as FileError;

/// What the first event of every file says.
const FILE_VERSION: &str = "brain.Event:2";

/// One session's event file. A resumed run opens a new file beside the old ones; TensorBoard reads them in order.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Creates the session's file in `dir` (created if missing) to record what comes after `steps_done` steps. The file
    /// begins by telling TensorBoard to forget what earlier files recorded for later steps: a killed run goes back to
    /// its checkpoint.
    ///
    /// # Errors
    /// The folder or file cannot be written.
    pub fn create(dir: &Path, steps_done: u64) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|e| FileError::io("create", dir, e))?;
        let (path, file) = create_file(dir, since_epoch().as_secs(), &host_name())?;
        let mut writer = Self { path, file };
        writer.event(0, |event| {
            event.text(FIELD_FILE_VERSION, FILE_VERSION);
        })?;
        // Readers take a run's second and later session starts for restarts, and drop what they know of steps at or
        // after the one such an event carries. So the first session must have one too.
        writer.event(steps_done + 1, |event| {
            event.message(FIELD_SESSION_LOG, |log| {
                log.varint(1, SESSION_START);
            });
        })?;
        Ok(writer)
    }

    /// The file being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Records every finite number of a step. A name with a `/` is a tag as it is, so that TensorBoard groups it by its
    /// first part; the others go into the group `train`. Numbers that are not finite are left out: TensorBoard draws them as gaps anyway.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn step(&mut self, metrics: &StepMetrics) -> Result<(), Error> {
        self.event(metrics.step, |event| {
            event.message(FIELD_SUMMARY, |summary| {
                for (name, value) in metrics.values().filter(|(_, value)| value.is_finite()) {
                    let tag = if name.contains('/') {
                        name.to_owned()
                    } else {
                        format!("train/{name}")
                    };
                    summary.message(1, |entry| {
                        entry.text(1, &tag).float(2, value as f32);
                    });
                }
            });
        })
    }

    /// Records one number.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn scalar(&mut self, step: u64, tag: &str, value: f64) -> Result<(), Error> {
        self.value(step, tag, |entry| {
            entry.float(2, value as f32);
        })
    }

    /// Records a PNG image, such as a sample grid.
    ///
    /// # Errors
    /// `png` is not a PNG, or the file cannot be written.
    pub fn image(&mut self, step: u64, tag: &str, png: &[u8]) -> Result<(), Error> {
        let size = super::png_size(png).ok_or_else(|| Error::NotPng {
            tag: tag.to_owned(),
            length: png.len(),
        })?;
        self.value(step, tag, |entry| {
            entry.message(4, |image| {
                image
                    .varint(1, u64::from(size.1))
                    .varint(2, u64::from(size.0))
                    .varint(3, COLORSPACE_RGB)
                    .bytes(4, png);
            });
        })
    }

    /// Records a text in Markdown, such as the run's resolved configuration.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn text(&mut self, step: u64, tag: &str, markdown: &str) -> Result<(), Error> {
        self.value(step, tag, |entry| {
            entry
                .message(8, |tensor| {
                    // An empty shape message: one string, no dimensions.
                    tensor
                        .varint(1, TENSOR_STRING)
                        .message(2, |_| {})
                        .text(8, markdown);
                })
                .message(9, |metadata| {
                    metadata.message(1, |plugin| {
                        plugin.text(1, "text");
                    });
                });
        })
    }

    /// Forces the file to disk.
    ///
    /// # Errors
    /// The system reports that it could not.
    pub fn sync(&self) -> Result<(), Error> {
        Ok(self
            .file
            .sync_data()
            .map_err(|e| FileError::io("write", &self.path, e))?)
    }

    fn value(
        &mut self,
        step: u64,
        tag: &str,
        fill: impl FnOnce(&mut Message),
    ) -> Result<(), Error> {
        self.event(step, |event| {
            event.message(FIELD_SUMMARY, |summary| {
                summary.message(1, |entry| fill(entry.text(1, tag)));
            });
        })
    }

    fn event(&mut self, step: u64, fill: impl FnOnce(&mut Message)) -> Result<(), Error> {
        let mut event = Message::default();
        event.double(1, since_epoch().as_secs_f64()).varint(2, step);
        fill(&mut event);
        // One write a record, so a kill tears at most the last one, which readers skip.
        self.file
            .write_all(&record(&event.0))
            .map_err(|e| FileError::io("write", &self.path, e))?;
        Ok(())
    }
}

const FIELD_FILE_VERSION: u32 = 3;
const FIELD_SUMMARY: u32 = 5;
const FIELD_SESSION_LOG: u32 = 7;
const SESSION_START: u64 = 1;
const COLORSPACE_RGB: u64 = 3;
/// `DT_STRING` of `tensorflow/core/framework/types.proto`.
const TENSOR_STRING: u64 = 7;

fn since_epoch() -> Duration {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
}

/// Names sort by time, as readers expect; a second session within one second gets the next free number.
fn create_file(dir: &Path, seconds: u64, host: &str) -> Result<(PathBuf, File), Error> {
    for number in 0u32.. {
        let path = dir.join(format!("events.out.tfevents.{seconds:010}.{host}.{number}"));
        match OpenOptions::new().append(true).create_new(true).open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(FileError::io("create", path, error).into()),
        }
    }
    Err(FileError::io("create", dir, std::io::ErrorKind::AlreadyExists.into()).into())
}

/// Length, its checksum, the payload, its checksum.
fn record(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut framed = Vec::with_capacity(payload.len() + 16);
    framed.extend(length);
    framed.extend(masked_crc(&length).to_le_bytes());
    framed.extend(payload);
    framed.extend(masked_crc(payload).to_le_bytes());
    framed
}

/// The checksum of a checksum is a bad checksum, so the format turns and shifts it.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

/// A protocol buffer message under construction.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn raw_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn key(&mut self, field: u32, wire_type: u8) {
        self.raw_varint(u64::from(field << 3) | u64::from(wire_type));
    }

    fn varint(&mut self, field: u32, value: u64) -> &mut Self {
        self.key(field, 0);
        self.raw_varint(value);
        self
    }

    fn double(&mut self, field: u32, value: f64) -> &mut Self {
        self.key(field, 1);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn bytes(&mut self, field: u32, value: &[u8]) -> &mut Self {
        self.key(field, 2);
        self.raw_varint(value.len() as u64);
        self.0.extend(value);
        self
    }

    fn text(&mut self, field: u32, value: &str) -> &mut Self {
        self.bytes(field, value.as_bytes())
    }

    fn float(&mut self, field: u32, value: f32) -> &mut Self {
        self.key(field, 5);
        self.0.extend(value.to_le_bytes());
        self
    }

    fn message(&mut self, field: u32, fill: impl FnOnce(&mut Self)) -> &mut Self {
        let mut inner = Self::default();
        fill(&mut inner);
        self.bytes(field, &inner.0)
    }
}

#[cfg(test)]
mod tests;
