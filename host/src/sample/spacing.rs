//! The timesteps that a sampler visits, to the last bit as numpy computes them for diffusers.

use crate::diffusion::Spacing;

/// Timesteps from the noisiest to the cleanest, whole numbers: `steps` of `timesteps` training timesteps, `offset` added to leading ones.
pub(super) fn whole(spacing: Spacing, steps: usize, timesteps: usize, offset: usize) -> Vec<i64> {
    match spacing {
        Spacing::Leading => {
            let stride = timesteps / steps;
            (0..steps)
                .rev()
                .map(|index| (index * stride + offset) as i64)
                .collect()
        }
        Spacing::Trailing => trailing(timesteps as f64, steps, timesteps),
        Spacing::Linspace => linspace((timesteps - 1) as f64, steps)
            .into_iter()
            .rev()
            .map(|at| at.round_ties_even() as i64)
            .collect(),
    }
}

/// Multiples of `timesteps / steps` down from `start`, less one.
///
/// Rounding errors make `numpy.arange`, and so diffusers, add one more at timestep -1 for some counts (61 steps of 1000, for one); that
/// one is left out here.
pub(super) fn trailing(start: f64, steps: usize, timesteps: usize) -> Vec<i64> {
    let stride = timesteps as f64 / steps as f64;
    // numpy derives the increment from its first two values.
    let increment = (start - stride) - start;
    let count = (start / stride).ceil() as usize;
    (0..count)
        .map(|index| (start + index as f64 * increment).round_ties_even() as i64 - 1)
        .filter(|&timestep| timestep >= 0)
        .collect()
}

/// `count` numbers from 0 to `end`, evenly spaced.
pub(super) fn linspace(end: f64, count: usize) -> Vec<f64> {
    let stride = end / (count.max(2) - 1) as f64;
    (0..count)
        .map(|index| {
            if index > 0 && index + 1 == count {
                end
            } else {
                index as f64 * stride
            }
        })
        .collect()
}
