//! Forwards `tracing` events of a plugin to the host. `tracing`'s globals exist once a library, so without this a plugin's log lines
//! would go nowhere.

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering},
};

use abi_stable::std_types::{RStr, RString};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::Interest,
};

use crate::abi::{HostServicesRef, LogLevel, LogRecord};

/// Makes the host the subscriber of this library. Where there is one already (a plugin linked into its host, a test) it stays.
pub(super) fn install(plugin: &'static str, services: HostServicesRef) {
    // An error means there is a subscriber already, which is just what is wanted.
    let _ = tracing::subscriber::set_global_default(Forward {
        plugin,
        services,
        spans: AtomicU64::new(1),
    });
}

struct Forward {
    plugin: &'static str,
    services: HostServicesRef,
    spans: AtomicU64,
}

fn level(level: &Level) -> LogLevel {
    match *level {
        Level::ERROR => LogLevel::ERROR,
        Level::WARN => LogLevel::WARN,
        Level::INFO => LogLevel::INFO,
        Level::DEBUG => LogLevel::DEBUG,
        Level::TRACE => LogLevel::TRACE,
    }
}

impl Subscriber for Forward {
    fn register_callsite(&self, _metadata: &'static Metadata<'static>) -> Interest {
        // The host's filter may change while it runs, so no answer may be remembered.
        Interest::sometimes()
    }

    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        if metadata.is_span() {
            return false;
        }
        let (plugin, target) = (
            RStr::from_str(self.plugin),
            RStr::from_str(metadata.target()),
        );
        // SAFETY: the table is the host's, valid for the process, and the strings outlive the call.
        unsafe { self.services.log_enabled()(level(metadata.level()), plugin, target) }
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        // Spans are not forwarded; every span still needs an id of its own, which may not be 0.
        Id::from_u64(self.spans.fetch_add(1, Ordering::Relaxed).max(1))
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut text = Text::default();
        event.record(&mut text);
        let metadata = event.metadata();
        let record = LogRecord {
            level: level(metadata.level()),
            plugin: RStr::from_str(self.plugin),
            target: RStr::from_str(metadata.target()),
            message: RString::from(text.message),
            fields: RString::from(text.fields),
            file: RStr::from_str(metadata.file().unwrap_or("")),
            line: metadata.line().unwrap_or(0),
        };
        // SAFETY: the table is the host's, valid for the process, and the record outlives the call.
        unsafe { self.services.log()(&raw const record) }
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

/// An event's fields as text.
#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, "{value:?}")
        } else {
            let space = if self.fields.is_empty() { "" } else { " " };
            write!(self.fields, "{space}{}={value:?}", field.name())
        };
    }
}
