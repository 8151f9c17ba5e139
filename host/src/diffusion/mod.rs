//! Noise schedules and the diffusion process.
