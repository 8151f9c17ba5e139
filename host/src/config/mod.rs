//! The run file and how it resolves.
