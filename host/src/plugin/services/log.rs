//! Log lines of plugins, passed on to the host's `tracing` with `plugin` and `slot` fields.
//!
//! A line carries the plugin's id; which of its hooks runs is known to the thread, because hooks run on the thread that calls
//! them. Lines from a plugin's own threads come without a slot.

use std::cell::{Cell, RefCell};

use abi_stable::std_types::RStr;
use plugin_api::abi::{LogLevel, LogRecord};

use crate::plugin::slots::Slot;

thread_local! {
    static SPEAKING: RefCell<Vec<(String, Option<Slot>)>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, this thread's log lines from plugins belong to that plugin and slot.
pub(in crate::plugin) struct Speaking(());

impl Speaking {
    pub(in crate::plugin) fn new(plugin: &str, slot: Option<Slot>) -> Self {
        SPEAKING.with_borrow_mut(|speaking| speaking.push((plugin.to_owned(), slot)));
        Speaking(())
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        SPEAKING.with_borrow_mut(|speaking| speaking.pop());
    }
}

thread_local! {
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work` unless this thread is already inside of a log function, as happens when a plugin is linked into the host's own
/// binary and shares its `tracing`. Panics of a subscriber stop here too: they must not unwind into the plugin.
fn once<T>(otherwise: T, work: impl FnOnce() -> T) -> T {
    if BUSY.replace(true) {
        return otherwise;
    }
    let outcome = plugin_api::panics::catch(|| Ok(work()));
    BUSY.set(false);
    outcome.unwrap_or(otherwise)
}

/// The target of every plugin line, so that `HOST_LOG=plugin=debug` and the like select them.
const TARGET: &str = "plugin";

pub(super) unsafe extern "C" fn log_enabled(
    level: LogLevel,
    _plugin: RStr<'_>,
    _target: RStr<'_>,
) -> bool {
    once(false, || match level {
        LogLevel::ERROR => tracing::enabled!(target: TARGET, tracing::Level::ERROR),
        LogLevel::WARN => tracing::enabled!(target: TARGET, tracing::Level::WARN),
        LogLevel::INFO => tracing::enabled!(target: TARGET, tracing::Level::INFO),
        LogLevel::DEBUG => tracing::enabled!(target: TARGET, tracing::Level::DEBUG),
        _ => tracing::enabled!(target: TARGET, tracing::Level::TRACE),
    })
}

pub(super) unsafe extern "C" fn log(record: *const LogRecord<'_>) {
    // SAFETY: the caller lends a valid record for this call, by the table's contract.
    let record = unsafe { &*record };
    once((), || write(record));
}

fn write(record: &LogRecord<'_>) {
    let speaking = SPEAKING.with_borrow(|speaking| speaking.last().cloned());
    let (plugin, slot) = match &speaking {
        Some((plugin, slot)) => (plugin.as_str(), slot.map_or("", Slot::name)),
        None => (record.plugin.as_str(), ""),
    };
    let message = record.message.as_str();
    let space = if record.fields.is_empty() { "" } else { " " };
    let fields = record.fields.as_str();
    macro_rules! line {
        ($level:ident) => {
            tracing::event!(target: TARGET, tracing::Level::$level, plugin, slot, "{message}{space}{fields}")
        };
    }
    match record.level {
        LogLevel::ERROR => line!(ERROR),
        LogLevel::WARN => line!(WARN),
        LogLevel::INFO => line!(INFO),
        LogLevel::DEBUG => line!(DEBUG),
        _ => line!(TRACE),
    }
}
