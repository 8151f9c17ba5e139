//! Everything a run needs to go on bit for bit, in `checkpoints/step-N/`.
//!
//! A checkpoint appears whole or not at all: it is written beside its place and renamed into it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::data::LoaderState;
use crate::fs;
use crate::plugin::stack::PluginState;
use crate::random::StreamState;
use crate::report::Profile;

use super::Error;

const PARAMETERS: &str = "parameters.safetensors";
const OPTIMIZER: &str = "optimizer.safetensors";
const EMA: &str = "ema.safetensors";
const STATE: &str = "state.json";
/// Apart from the state, because clocks differ where all else is equal.
const PROFILE: &str = "profile.json";
/// The ending of the file of a plugin's own state.
const PLUGIN_STATE: &str = "plugin";

/// The layout of [`State`]; a checkpoint of another layout is refused.
const FORMAT: u32 = 1;

/// The small part of a checkpoint, as JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// The layout of this struct.
    pub format: u32,
    /// The host that wrote it.
    pub host_version: String,
    /// Optimizer steps done.
    pub step: u64,
    /// Where the data order stands.
    pub loader: LoaderState,
    /// Where every random stream stands.
    pub streams: BTreeMap<String, StreamState>,
}

/// A whole checkpoint.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Positions.
    pub state: State,
    /// What plugins keep between steps.
    pub plugins: Vec<PluginState>,
    /// The parameters by name, f32.
    pub parameters: BTreeMap<String, Tensor>,
    /// The optimizer's moments and step counts, as [`AdamW::state`](crate::ops::optim::AdamW::state) names them.
    pub moments: BTreeMap<String, Tensor>,
    /// The averaged parameters by name; empty without EMA.
    pub ema: BTreeMap<String, Tensor>,
    /// Where the time of all steps so far went; empty in a checkpoint that does not say.
    pub profile: Profile,
    /// Not saved: whether what does not fit the run is left out, with a warning, instead of refused.
    pub lenient: bool,
}

impl State {
    /// The state of a run at a step, in today's layout.
    pub fn new(step: u64, loader: LoaderState) -> Self {
        Self {
            format: FORMAT,
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            step,
            loader,
            streams: BTreeMap::new(),
        }
    }
}

/// The folder of the checkpoint of `step` in a run folder.
pub fn folder(run: &Path, step: u64) -> PathBuf {
    run.join("checkpoints").join(format!("step-{step}"))
}

impl Checkpoint {
    /// Writes the checkpoint into its run folder and gives its own folder.
    ///
    /// # Errors
    /// Anything the disk refuses; checkpoints saved before stay as they are.
    pub fn save(&self, run: &Path) -> Result<PathBuf, Error> {
        let place = folder(run, self.state.step);
        fs::publish_dir(&place, |dir| {
            write_tensors(&dir.join(PARAMETERS), &self.parameters)?;
            write_tensors(&dir.join(OPTIMIZER), &self.moments)?;
            if !self.ema.is_empty() {
                write_tensors(&dir.join(EMA), &self.ema)?;
            }
            for plugin in &self.plugins {
                fs::write_atomic(
                    &dir.join(format!("{}.{PLUGIN_STATE}", plugin.header.name)),
                    &plugin.to_file(),
                )?;
            }
            write_json(&dir.join(PROFILE), &self.profile)?;
            write_json(&dir.join(STATE), &self.state)
        })?;
        Ok(place)
    }

    /// Reads the checkpoint in a folder.
    ///
    /// # Errors
    /// A file that is missing, damaged, or of another layout.
    pub fn load(dir: &Path, device: &Device) -> Result<Self, Error> {
        let state = read_state(dir)?;
        let ema = dir.join(EMA);
        Ok(Self {
            state,
            plugins: read_plugins(dir)?,
            parameters: read_tensors(&dir.join(PARAMETERS), device)?,
            moments: read_tensors(&dir.join(OPTIMIZER), device)?,
            ema: if ema.exists() {
                read_tensors(&ema, device)?
            } else {
                BTreeMap::new()
            },
            profile: read_profile(&dir.join(PROFILE))?,
            lenient: false,
        })
    }
}

/// The trained values alone, averaged if asked and kept, for sampling.
///
/// # Errors
/// As [`Checkpoint::load`].
pub fn load_values(
    dir: &Path,
    averaged: bool,
    device: &Device,
) -> Result<BTreeMap<String, Tensor>, Error> {
    let ema = dir.join(EMA);
    let path = if averaged && ema.exists() {
        ema
    } else {
        dir.join(PARAMETERS)
    };
    read_tensors(&path, device)
}

/// The small part alone.
///
/// # Errors
/// As [`Checkpoint::load`].
pub fn read_state(dir: &Path) -> Result<State, Error> {
    let path = dir.join(STATE);
    let unreadable = |reason: String| Error::Unreadable {
        path: path.clone(),
        reason,
    };
    let text = std::fs::read_to_string(&path).map_err(|error| unreadable(error.to_string()))?;
    let state: State =
        serde_json::from_str(&text).map_err(|error| unreadable(error.to_string()))?;
    if state.format != FORMAT {
        return Err(unreadable(format!(
            "it has checkpoint format {}, this host reads format {FORMAT}; use host {}",
            state.format, state.host_version
        )));
    }
    Ok(state)
}

/// The steps of a run's checkpoints, ascending.
pub fn steps(run: &Path) -> Vec<u64> {
    let Ok(entries) = std::fs::read_dir(run.join("checkpoints")) else {
        return Vec::new();
    };
    let mut steps: Vec<u64> = entries
        .flatten()
        .filter(|entry| entry.path().join(STATE).is_file())
        .filter_map(|entry| {
            entry
                .file_name()
                .to_str()?
                .strip_prefix("step-")?
                .parse()
                .ok()
        })
        .collect();
    steps.sort_unstable();
    steps
}

/// Removes all but the newest `keep` checkpoints; 0 keeps all. One that cannot be removed stays and is logged.
pub fn prune(run: &Path, keep: usize) {
    let steps = steps(run);
    if keep == 0 || steps.len() <= keep {
        return;
    }
    for &step in &steps[..steps.len() - keep] {
        let place = folder(run, step);
        if let Err(error) = std::fs::remove_dir_all(&place) {
            tracing::warn!(
                "cannot remove the old checkpoint `{}`: {error}",
                place.display()
            );
        }
    }
}

fn read_plugins(dir: &Path) -> Result<Vec<PluginState>, Error> {
    let io = |error| fs::Error::io("read", dir, error);
    let mut states = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == PLUGIN_STATE)
        {
            let bytes =
                std::fs::read(&path).map_err(|error| fs::Error::io("read", &path, error))?;
            states.push(PluginState::from_file(&bytes)?);
        }
    }
    Ok(states)
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<(), Error> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| Error::Unwritable {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })?;
    Ok(fs::write_atomic(path, &text)?)
}

fn read_profile(path: &Path) -> Result<Profile, Error> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Profile::default()),
        Err(error) => return Err(fs::Error::io("read", path, error).into()),
    };
    serde_json::from_slice(&text).map_err(|error| Error::Unreadable {
        path: path.to_path_buf(),
        reason: error.to_string(),
    })
}

fn write_tensors(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
    let unwritable = |reason: String| Error::Unwritable {
        path: path.to_path_buf(),
        reason,
    };
    let bytes = safetensors::serialize(tensors.iter(), None)
        .map_err(|error| unwritable(error.to_string()))?;
    Ok(fs::write_atomic(path, &bytes)?)
}

fn read_tensors(path: &Path, device: &Device) -> Result<BTreeMap<String, Tensor>, Error> {
    let tensors =
        candle_core::safetensors::load(path, device).map_err(|error| Error::Unreadable {
            path: path.to_path_buf(),
            reason: error.to_string(),
        })?;
    Ok(tensors.into_iter().collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::random::Streams;

    fn checkpoint(step: u64) -> Checkpoint {
        let device = Device::Cpu;
        let mut streams = Streams::new(3);
        let value = streams.get("noise").normal((2, 3), &device).unwrap();
        let named = |name: &str| BTreeMap::from([(name.to_owned(), value.clone())]);
        let mut state = State::new(step, LoaderState::default());
        state.streams = streams.state();
        Checkpoint {
            state,
            plugins: Vec::new(),
            parameters: named("w"),
            moments: named("w.exp_avg"),
            ema: named("w"),
            profile: Profile {
                steps: step,
                ..Profile::default()
            },
            lenient: false,
        }
    }

    #[test]
    fn what_is_saved_is_read_back_bit_for_bit() {
        let run = tempfile::tempdir().unwrap();
        let saved = checkpoint(7);
        let place = saved.save(run.path()).unwrap();
        let read = Checkpoint::load(&place, &Device::Cpu).unwrap();
        let bits = |tensor: &Tensor| {
            tensor
                .flatten_all()
                .unwrap()
                .to_vec1::<f32>()
                .unwrap()
                .iter()
                .map(|v| v.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&saved.parameters["w"]), bits(&read.parameters["w"]));
        assert_eq!(saved.state.streams, read.state.streams);
        assert_eq!(read.state.step, 7);
        assert_eq!(read.profile, saved.profile);

        // A checkpoint without one is whole: nothing but the report misses it.
        std::fs::remove_file(place.join(PROFILE)).unwrap();
        let without = Checkpoint::load(&place, &Device::Cpu).unwrap();
        assert_eq!(without.profile, Profile::default());
    }

    #[test]
    fn only_whole_checkpoints_count_and_the_newest_stay() {
        let run = tempfile::tempdir().unwrap();
        for step in [10, 2, 30] {
            checkpoint(step).save(run.path()).unwrap();
        }
        std::fs::create_dir(folder(run.path(), 40)).unwrap();
        assert_eq!(steps(run.path()), [2, 10, 30]);
        prune(run.path(), 2);
        assert_eq!(steps(run.path()), [10, 30]);
    }

    #[test]
    fn a_damaged_checkpoint_names_the_file() {
        let run = tempfile::tempdir().unwrap();
        let place = checkpoint(1).save(run.path()).unwrap();
        std::fs::write(place.join(PARAMETERS), b"not tensors").unwrap();
        let error = Checkpoint::load(&place, &Device::Cpu).unwrap_err();
        assert!(error.to_string().contains(PARAMETERS), "{error}");
    }
}
