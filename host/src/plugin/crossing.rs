//! What the boundary costs: the time of a call into a plugin, less that of the work the host does for it inside (operations on tensors, services).
//! What is left is the messages, the handles, and the plugin's own code; so it is an upper bound of the cost of crossing.

use std::cell::Cell;
use std::time::{Duration, Instant};

thread_local! {
    /// The host's work inside the hook that runs on this thread.
    static WORK: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Does the host's work for a plugin, which is no part of the crossing.
pub(super) fn work<T>(work: impl FnOnce() -> T) -> T {
    let before = WORK.get();
    let start = Instant::now();
    let result = work();
    // A hook that ran inside has put `before` back; its time is this work's.
    WORK.set(before + start.elapsed());
    result
}

/// One call into a plugin; says on drop what it cost beside the host's work.
pub(super) struct Crossing<F: FnMut(Duration)> {
    start: Instant,
    outer: Duration,
    charge: F,
}

impl<F: FnMut(Duration)> Crossing<F> {
    pub(super) fn start(charge: F) -> Self {
        Self {
            start: Instant::now(),
            outer: WORK.replace(Duration::ZERO),
            charge,
        }
    }
}

impl<F: FnMut(Duration)> Drop for Crossing<F> {
    fn drop(&mut self) {
        let work = WORK.replace(self.outer);
        (self.charge)(self.start.elapsed().saturating_sub(work));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread::sleep;

    const LONG: Duration = Duration::from_millis(40);

    #[test]
    fn the_hosts_work_is_no_part_of_a_crossing_however_deep_it_nests() {
        let (mut inner, mut outer) = (Duration::ZERO, Duration::ZERO);
        {
            let _outer = Crossing::start(|time| outer = time);
            sleep(LONG);
            work(|| {
                sleep(LONG);
                let _inner = Crossing::start(|time| inner = time);
                work(|| sleep(LONG));
            });
        }
        assert!(inner < LONG / 2, "{inner:?}");
        assert!((LONG..LONG * 2).contains(&outer), "{outer:?}");
    }
}
