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
    /// Milliseconds in all, without the sections nested inside.
    pub total_ms: f64,
}

/// A run's times so far; part of `report.json`, and what a resumed run goes on from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Profile {
    /// Steps measured.
    pub steps: u64,
    /// Every section that was entered: phases in step order, then hooks by plugin, then the rest.
    pub sections: Vec<SectionTime>,
}

impl Profile {
    /// Milliseconds of all sections together.
    pub fn total_ms(&self) -> f64 {
        self.sections.iter().map(|section| section.total_ms).sum()
    }

    /// Milliseconds a step that `section` took on average.
    pub fn mean_ms(&self, section: &SectionTime) -> f64 {
        section.total_ms / self.steps.max(1) as f64
    }

    /// The part of all time, in 0..=1, that `section` took.
    pub fn share(&self, section: &SectionTime) -> f64 {
        let total = self.total_ms();
        if total > 0.0 {
            section.total_ms / total
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
        hooks.map(|section| section.total_ms).sum()
    }
}

/// Accumulates the times. Shared by reference with whatever calls hooks; scopes nest by thread.
#[derive(Debug, Default)]
pub struct Profiler(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    steps: u64,
    total: BTreeMap<Section, (u64, Duration)>,
    /// Charged since the last finished step.
    step: BTreeMap<Section, Duration>,
}

thread_local! {
    /// Time already charged to scopes inside the current one, on this thread.
    static NESTED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

impl Profiler {
    /// Goes on from an earlier session's profile.
    pub fn resume(profile: &Profile) -> Self {
        let total = profile
            .sections
            .iter()
            .map(|s| {
                (
                    s.section.clone(),
                    (s.calls, Duration::from_secs_f64(s.total_ms.max(0.0) / 1e3)),
                )
            })
            .collect();
        Self(Mutex::new(State {
            steps: profile.steps,
            total,
            step: BTreeMap::new(),
        }))
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
    pub fn step(&self) -> Scope<'_> {
        self.scope(Section::Other)
    }

    /// Counts the step and returns its milliseconds by section name, for the step's metrics as `time/<name>`.
    pub fn finish_step(&self) -> BTreeMap<String, f64> {
        let mut state = self.lock();
        state.steps += 1;
        let step = std::mem::take(&mut state.step);
        step.into_iter()
            .map(|(section, time)| (section.name(), time.as_secs_f64() * 1e3))
            .collect()
    }

    /// The times so far.
    pub fn profile(&self) -> Profile {
        let state = self.lock();
        let sections = state
            .total
            .iter()
            .map(|(section, (calls, time))| SectionTime {
                section: section.clone(),
                calls: *calls,
                total_ms: time.as_secs_f64() * 1e3,
            });
        Profile {
            steps: state.steps,
            sections: sections.collect(),
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
        *state.step.entry(self.section.clone()).or_default() += own;
        let total = state.total.entry(self.section.clone()).or_default();
        total.0 += 1;
        total.1 += own;
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
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::thread::sleep;

    use super::*;

    fn find<'a>(profile: &'a Profile, name: &str) -> &'a SectionTime {
        profile
            .sections
            .iter()
            .find(|s| s.section.name() == name)
            .unwrap()
    }

    #[test]
    fn a_hook_inside_a_phase_is_not_charged_twice() {
        let profiler = Profiler::default();
        let start = Instant::now();
        {
            let _step = profiler.step();
            let _forward = profiler.phase(Phase::Forward);
            for _ in 0..2 {
                let _hook = profiler.hook("lora", "layer");
                sleep(Duration::from_millis(20));
            }
            sleep(Duration::from_millis(5));
        }
        let wall = start.elapsed().as_secs_f64() * 1e3;
        profiler.finish_step();
        let profile = profiler.profile();
        let (hook, forward) = (find(&profile, "lora.layer"), find(&profile, "forward"));
        assert!(hook.total_ms >= 40.0 && hook.calls == 2, "{hook:?}");
        assert!(
            (5.0..hook.total_ms).contains(&forward.total_ms),
            "{forward:?} against {hook:?}"
        );
        assert!(
            profile.total_ms() <= wall,
            "the parts are no more than the whole"
        );
        assert!(profile.total_ms() > 0.95 * wall);
        assert_eq!(profile.plugin_ms("lora"), hook.total_ms);
        let shares: f64 = profile.sections.iter().map(|s| profile.share(s)).sum();
        assert!((shares - 1.0).abs() < 1e-9);
    }

    #[test]
    fn each_step_reports_only_its_own_time() {
        let profiler = Profiler::default();
        for _ in 0..2 {
            {
                let _data = profiler.phase(Phase::Data);
                sleep(Duration::from_millis(4));
            }
            let step = profiler.finish_step();
            assert!(step["data"] >= 4.0);
            assert_eq!(step.len(), 1);
        }
        assert!(profiler.finish_step().is_empty());
        assert!(find(&profiler.profile(), "data").total_ms >= 8.0);
    }

    #[test]
    fn sections_come_in_step_order_and_survive_a_resume() {
        let profiler = Profiler::default();
        drop(profiler.step());
        drop(profiler.hook("diff_tuning", "batch"));
        drop(profiler.phase(Phase::Optimizer));
        drop(profiler.phase(Phase::Data));
        profiler.finish_step();
        let saved = serde_json::to_string(&profiler.profile()).unwrap();
        let resumed = Profiler::resume(&serde_json::from_str(&saved).unwrap());
        drop(resumed.phase(Phase::Data));
        resumed.finish_step();
        let profile = resumed.profile();
        let names: Vec<_> = profile.sections.iter().map(|s| s.section.name()).collect();
        assert_eq!(names, ["data", "optimizer", "diff_tuning.batch", "other"]);
        assert_eq!((profile.steps, find(&profile, "data").calls), (2, 2));
    }

    #[test]
    fn a_scope_is_charged_also_when_its_work_panics() {
        let profiler = Profiler::default();
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _outer = profiler.phase(Phase::Loss);
            let _hook = profiler.hook("bad", "loss_term");
            panic!("on purpose");
        }));
        assert!(caught.is_err());
        assert_eq!(profiler.profile().sections.len(), 2);
    }

    #[test]
    fn laps_add_up_by_name() {
        let mut watch = Stopwatch::default();
        watch.add("train", Duration::from_secs(2));
        watch.add("sample", Duration::from_secs(1));
        watch.add("train", Duration::from_secs(3));
        assert_eq!(watch.time("load", || 5), 5);
        assert_eq!(
            watch
                .0
                .iter()
                .map(|lap| lap.name.as_str())
                .collect::<Vec<_>>(),
            ["train", "sample", "load"]
        );
        assert_eq!(watch.0[0].seconds, 5.0);
        assert!((6.0..6.5).contains(&watch.total_seconds()));
    }
}
