//! The two timestep distributions of Diff-Tuning: towards the noise for target samples, towards the data for memory samples.

/// Which end of the process has the mass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// `p(t)` proportional to `(t + 1)^s`: reconsolidation, mass at large `t`.
    Noise,
    /// `p(t)` proportional to `(T - t)^s`: retention, mass at small `t`.
    Data,
}

/// A distribution over the timesteps `0..T` that follows a power of the distance to one end (arXiv 2406.00773, section 3.3).
#[derive(Clone, Debug)]
pub struct PowerLaw {
    /// `P(t <= i)` for every timestep `i`; the last is 1.
    cumulative: Vec<f64>,
}

impl PowerLaw {
    /// The distribution over `timesteps` timesteps with exponent `strength`; 0 is uniform.
    pub fn new(side: Side, strength: f64, timesteps: usize) -> Self {
        let mass = |t: usize| match side {
            Side::Noise => ((t + 1) as f64).powf(strength),
            Side::Data => ((timesteps - t) as f64).powf(strength),
        };
        let total: f64 = (0..timesteps).map(mass).sum();
        let mut sum = 0.0;
        let cumulative = (0..timesteps)
            .map(|t| {
                sum += mass(t) / total;
                sum
            })
            .collect();
        Self { cumulative }
    }

    /// The timestep at which the cumulative probability passes `uniform`, a draw from `0..1`.
    pub fn at(&self, uniform: f32) -> u32 {
        let index = self
            .cumulative
            .partition_point(|&cumulative| cumulative <= f64::from(uniform));
        index.min(self.cumulative.len() - 1) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares the share of draws in each tenth of the process with the stated distribution.
    fn check(side: Side, strength: f64, mass: impl Fn(f64) -> f64) {
        const TIMESTEPS: usize = 1000;
        const DRAWS: usize = 100_000;
        let law = PowerLaw::new(side, strength, TIMESTEPS);
        let mut counts = [0usize; 10];
        for draw in 0..DRAWS {
            // Evenly spread draws: the counts then follow the distribution without the noise of chance.
            let t = law.at((draw as f32 + 0.5) / DRAWS as f32);
            counts[t as usize * 10 / TIMESTEPS] += 1;
        }
        let total: f64 = (0..TIMESTEPS).map(|t| mass(t as f64)).sum();
        for (tenth, count) in counts.into_iter().enumerate() {
            let expected: f64 = (tenth * 100..tenth * 100 + 100)
                .map(|t| mass(t as f64))
                .sum::<f64>()
                / total;
            let share = count as f64 / DRAWS as f64;
            assert!(
                (share - expected).abs() < 1e-3,
                "{side:?} s={strength} tenth {tenth}: {share} against {expected}"
            );
        }
    }

    #[test]
    fn target_samples_draw_t_proportional_to_t_plus_one_to_the_s() {
        check(Side::Noise, 1.0, |t| t + 1.0);
        check(Side::Noise, 2.5, |t| (t + 1.0).powf(2.5));
    }

    #[test]
    fn memory_samples_draw_t_proportional_to_what_is_left_to_the_s() {
        check(Side::Data, 1.0, |t| 1000.0 - t);
        check(Side::Data, 0.5, |t| (1000.0 - t).sqrt());
    }

    #[test]
    fn strength_zero_is_uniform() {
        check(Side::Noise, 0.0, |_| 1.0);
        check(Side::Data, 0.0, |_| 1.0);
    }

    #[test]
    fn every_draw_is_a_timestep() {
        for side in [Side::Noise, Side::Data] {
            let law = PowerLaw::new(side, 1.0, 7);
            assert_eq!(law.at(0.0), 0);
            assert_eq!(law.at(1.0 - f32::EPSILON), 6);
            assert_eq!(law.at(1.0), 6);
        }
    }
}
