//! From noise to images.
