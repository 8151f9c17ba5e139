//! Diff-Tuning.
