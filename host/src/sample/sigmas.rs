//! Noise to signal ratios, "sigmas", for the samplers that step in them.

/// The exponent of Karras et al. 2022, equation 5.
const RHO: f64 = 7.0;

/// The ratio at a timestep between training timesteps.
pub(super) fn at(table: &[f64], timestep: f64) -> f64 {
    let timestep = timestep.clamp(0.0, (table.len() - 1) as f64);
    let below = timestep.floor() as usize;
    let above = (below + 1).min(table.len() - 1);
    table[below] + (table[above] - table[below]) * (timestep - below as f64)
}

/// `steps` ratios from `largest` down to `smallest`, dense where there is little noise.
pub(super) fn karras(largest: f64, smallest: f64, steps: usize) -> Vec<f64> {
    let (from, to) = (largest.powf(1.0 / RHO), smallest.powf(1.0 / RHO));
    super::spacing::linspace(1.0, steps)
        .into_iter()
        .map(|share| (from + share * (to - from)).powf(RHO))
        .collect()
}

/// The timestep, between training timesteps, at which the ratio is `ratio`; `table` rises.
///
/// The table's logarithms are in single precision as in diffusers, where a fraction is dropped later: a last bit can be a whole timestep.
pub(super) fn timestep_of(table: &[f64], ratio: f64) -> f64 {
    let logarithms: Vec<f64> = table
        .iter()
        .map(|&entry| f64::from((entry as f32).ln()))
        .collect();
    let wanted = ratio.max(1e-10).ln();
    let below = logarithms
        .partition_point(|&entry| entry <= wanted)
        .saturating_sub(1)
        .min(table.len().saturating_sub(2));
    let Some(&above) = logarithms.get(below + 1) else {
        return 0.0;
    };
    let low = logarithms[below];
    let share = (low - wanted) / (low - above);
    below as f64 + share.clamp(0.0, 1.0)
}
