//! Where a step's time goes: a scoped timer for each phase of the step and for each plugin's hooks, cheap enough to be
//! always on (two clock reads and a short lock, well under a microsecond).
//!
//! Times are *exclusive*: a hook that runs inside a phase (a layer adapter inside the forward pass) is charged for its
//! time and the phase is not, so all parts add up to the step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The host's own phases of a training step, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for the loader's next batch.
    Data,
    /// Composing the batch: what the host does around the batch hooks, noise and timesteps included.
    Batch,
    /// Encoding images and conditioning.
    Encode,
    /// The backbone's forward pass.
    Forward,
    /// The objective, its weights and extra terms.
    Loss,
    /// Gradients.
    Backward,
    /// Clipping, the optimizer and EMA.
    Optimizer,
}

impl Phase {
    /// The phase's name in metrics and reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Data => "data",
            Self::Batch => "batch",
            Self::Encode => "encode",
            Self::Forward => "forward",
            Self::Loss => "loss",
            Self::Backward => "backward",
            Self::Optimizer => "optimizer",
        }
    }
}

/// What a stretch of time is charged to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Section {
    /// A phase of the host's.
    Phase(Phase),
    /// A plugin's hook.
    Hook {
        /// The plugin's name.
        plugin: String,
        /// The slot's name.
        slot: String,
    },
    /// What is left of the step: the loop itself, logging, metrics.
    Other,
}

impl Section {
    /// The section's name in metrics: `forward`, `diff_tuning.batch`, `other`.
    pub fn name(&self) -> String {
        match self {
            Self::Phase(phase) => phase.name().to_owned(),
            Self::Hook { plugin, slot } => format!("{plugin}.{slot}"),
            Self::Other => "other".to_owned(),
        }
    }
}

/// The time charged to one section over a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SectionTime {
    /// What the time was spent on.
    pub section: Section,
    /// How many times it was entered.
    pub calls: u64,
    /// Time in all, without the sections nested inside.
    pub total: Duration,
}

impl SectionTime {
    /// Milliseconds in all.
    pub fn total_ms(&self) -> f64 {
        self.total.as_secs_f64() * 1e3
    }
}

/// A run's times so far; part of `report.json`, and what a resumed run goes on from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Steps measured.
    pub steps: u64,
    /// Every section that was entered: phases in step order, then hooks by plugin, then the rest.
    pub sections: Vec<SectionTime>,
    /// What calls into plugins took beside the host's work for them, in all: messages, handles, the plugins' own code. It is in the hooks' sections too.
    #[serde(default)]
    pub boundary: Duration,
}

impl Profile {
    /// Milliseconds of all sections together.
    pub fn total_ms(&self) -> f64 {
        self.sections.iter().map(|section| section.total_ms()).sum()
    }

    /// Milliseconds a step that calls into plugins took beside the host's work for them.
    pub fn boundary_ms(&self) -> f64 {
        self.boundary.as_secs_f64() * 1e3 / self.steps.max(1) as f64
    }

    /// Milliseconds a step that `section` took on average.
    pub fn mean_ms(&self, section: &SectionTime) -> f64 {
        section.total_ms() / self.steps.max(1) as f64
    }

    /// The part of all time, in 0..=1, that `section` took.
    pub fn share(&self, section: &SectionTime) -> f64 {
        let total = self.total_ms();
        if total > 0.0 {
            section.total_ms() / total
        } else {
            0.0
        }
    }

    /// Milliseconds that a plugin's hooks took, over all slots.
    pub fn plugin_ms(&self, name: &str) -> f64 {
        let hooks = self
            .sections
            .iter()
            .filter(|s| matches!(&s.section, Section::Hook { plugin, .. } if plugin == name));
        hooks.map(|section| section.total_ms()).sum()
    }
}

/// Accumulates the times. Shared by reference with whatever calls hooks; scopes nest by thread.
#[derive(Debug, Default)]
pub struct Profiler(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    steps: u64,
    total: BTreeMap<Section, (u64, Duration)>,
    /// Of the step that goes on: entries and time.
    step: BTreeMap<Section, (u64, Duration)>,
    /// Of all finished steps, and of the step that goes on.
    boundary: (Duration, Duration),
}

/// The times of one finished step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepTimes {
    /// Milliseconds by section name.
    pub parts: BTreeMap<String, f64>,
    /// Milliseconds that calls into plugins took beside the host's work for them; none without such calls. The hooks' parts include them.
    pub boundary: Option<f64>,
}

thread_local! {
    /// Time already charged to scopes inside the current one, on this thread.
    static NESTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Profiler {
    /// Adds an earlier session's profile, which a resumed run goes on from.
    pub fn resume(&self, profile: &Profile) {
        let mut state = self.lock();
        state.steps += profile.steps;
        state.boundary.0 += profile.boundary;
        for earlier in &profile.sections {
            let total = state.total.entry(earlier.section.clone()).or_default();
            total.0 += earlier.calls;
            total.1 += earlier.total;
        }
    }

    /// Charges the time until the guard drops to a phase.
    pub fn phase(&self, phase: Phase) -> Scope<'_> {
        self.scope(Section::Phase(phase))
    }

    /// Charges the time until the guard drops to a plugin's hook.
    pub fn hook(&self, plugin: &str, slot: &str) -> Scope<'_> {
        self.scope(Section::Hook {
            plugin: plugin.to_owned(),
            slot: slot.to_owned(),
        })
    }

    /// Encloses one step: what no inner scope claims is charged to [`Section::Other`]. End it with
    /// [`Self::finish_step`] after the guard has dropped.
    ///
    /// What hooks took since the last step (preparing, sampling) is no part of a step, and is forgotten.
    pub fn step(&self) -> Scope<'_> {
        let mut state = self.lock();
        state.step.clear();
        state.boundary.1 = Duration::ZERO;
        drop(state);
        self.scope(Section::Other)
    }

    /// Adds what a call into a plugin took beside the host's work for it.
    pub fn crossed(&self, time: Duration) {
        self.lock().boundary.1 += time;
    }

    /// Counts the step and returns its times, for the step's metrics as `time/<name>`.
    pub fn finish_step(&self) -> StepTimes {
        let mut state = self.lock();
        state.steps += 1;
        let step = std::mem::take(&mut state.step);
        let mut named = BTreeMap::new();
        for (section, (calls, time)) in step {
            named.insert(section.name(), time.as_secs_f64() * 1e3);
            let total = state.total.entry(section).or_default();
            total.0 += calls;
            total.1 += time;
        }
        let boundary = std::mem::take(&mut state.boundary.1);
        state.boundary.0 += boundary;
        StepTimes {
            parts: named,
            boundary: (!boundary.is_zero()).then_some(boundary.as_secs_f64() * 1e3),
        }
    }

    /// The times of all finished steps.
    pub fn profile(&self) -> Profile {
        let state = self.lock();
        let sections = state
            .total
            .iter()
            .map(|(section, (calls, time))| SectionTime {
                section: section.clone(),
                calls: *calls,
                total: *time,
            });
        Profile {
            steps: state.steps,
            sections: sections.collect(),
            boundary: state.boundary.0,
        }
    }

    fn scope(&self, section: Section) -> Scope<'_> {
        Scope {
            profiler: self,
            section,
            outer: NESTED.replace(Duration::ZERO),
            start: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the sums half-updated in a way that matters.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Charges its lifetime to a section; hold it in a variable (`let _time = ...`), as `_` alone drops it at once.
#[derive(Debug)]
#[must_use = "the time until this is dropped is what gets measured"]
pub struct Scope<'a> {
    profiler: &'a Profiler,
    section: Section,
    /// What was nested in the enclosing scope before this one began.
    outer: Duration,
    start: Instant,
}

impl Drop for Scope<'_> {
    fn drop(&mut self) {
        let elapsed = self.start.elapsed();
        let own = elapsed.saturating_sub(NESTED.replace(self.outer + elapsed));
        let mut state = self.profiler.lock();
        let charged = state.step.entry(self.section.clone()).or_default();
        charged.0 += 1;
        charged.1 += own;
    }
}

/// Wall time of a run's large phases (loading, memory bank, training, sampling), in order of first appearance.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stopwatch(pub Vec<Lap>);

/// One phase of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lap {
    /// What was done, as in "train".
    pub name: String,
    /// Seconds it took, over all sessions of the run.
    pub seconds: f64,
}

impl Stopwatch {
    /// Runs `work` and charges its time to `name`.
    pub fn time<T>(&mut self, name: &str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let value = work();
        self.add(name, start.elapsed());
        value
    }

    /// Charges `time` to `name`, adding to what is there.
    pub fn add(&mut self, name: &str, time: Duration) {
        match self.0.iter_mut().find(|lap| lap.name == name) {
            Some(lap) => lap.seconds += time.as_secs_f64(),
            None => self.0.push(Lap {
                name: name.to_owned(),
                seconds: time.as_secs_f64(),
            }),
        }
    }

    /// Seconds of all phases together.
    pub fn total_seconds(&self) -> f64 {
        self.0.iter().map(|lap| lap.seconds).sum()
    }
}

#[cfg(test)]
mod tests;
