//! Where the time goes by operation: forward and backward of every fast operation on this thread.

use std::cell::RefCell;
use std::time::{Duration, Instant};

/// The time of one kind of operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpTime {
    /// The operation, such as `linear`.
    pub name: &'static str,
    /// How often it ran forward.
    pub calls: u64,
    /// Time in forward passes.
    pub forward: Duration,
    /// Time in backward passes.
    pub backward: Duration,
}

thread_local! {
    /// The times so far; none while nobody asks for them.
    static TIMES: RefCell<Option<Vec<OpTime>>> = const { RefCell::new(None) };
}

/// Starts counting on this thread, from zero.
pub fn enable() {
    TIMES.set(Some(Vec::new()));
}

/// The times since [`enable`] or the last call, longest first; empty when nothing is counted.
pub fn take() -> Vec<OpTime> {
    let mut times =
        TIMES.with_borrow_mut(|times| times.as_mut().map(std::mem::take).unwrap_or_default());
    times.sort_by_key(|time| std::cmp::Reverse(time.forward + time.backward));
    times
}

/// Which way an operation runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Forward,
    Backward,
}

/// Runs `work` and adds its time to `name`.
pub(super) fn timed<T>(name: &'static str, direction: Direction, work: impl FnOnce() -> T) -> T {
    if TIMES.with_borrow(Option::is_none) {
        return work();
    }
    let start = Instant::now();
    let result = work();
    let spent = start.elapsed();
    TIMES.with_borrow_mut(|times| {
        let Some(times) = times else { return };
        let index = match times.iter().position(|time| time.name == name) {
            Some(index) => index,
            None => {
                times.push(OpTime {
                    name,
                    calls: 0,
                    forward: Duration::ZERO,
                    backward: Duration::ZERO,
                });
                times.len() - 1
            }
        };
        match direction {
            Direction::Forward => {
                times[index].calls += 1;
                times[index].forward += spent;
            }
            Direction::Backward => times[index].backward += spent,
        }
    });
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_by_name_once_asked_for() {
        assert_eq!(take(), []);
        timed("nobody asked", Direction::Forward, || ());
        enable();
        timed("short", Direction::Forward, || ());
        timed("long", Direction::Forward, || {
            std::thread::sleep(Duration::from_millis(2))
        });
        timed("long", Direction::Backward, || {
            std::thread::sleep(Duration::from_millis(2))
        });
        let times = take();
        assert_eq!(
            times
                .iter()
                .map(|time| (time.name, time.calls))
                .collect::<Vec<_>>(),
            [("long", 1), ("short", 1)]
        );
        assert!(times[0].forward.as_millis() >= 2 && times[0].backward.as_millis() >= 2);
        assert_eq!(take(), []);
    }
}
