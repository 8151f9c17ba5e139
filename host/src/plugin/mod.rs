//! Loading, checking and composing plugins.
