//! What a network is told about the noise level: sinusoids of the timestep (Vaswani et al. 2017, section 3.5; Ho et al. 2020, appendix B).

use candle_core::{DType, Tensor};

use super::Result;

/// Slowest period of the sinusoids.
const MAX_PERIOD: f64 = 10_000.0;

/// How a network's sinusoids are spaced and ordered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sinusoids {
    /// Features of a timestep, half of them sines; even.
    pub(crate) width: usize,
    /// Frequencies are `10000^(-i / (width / 2 - shift))`.
    pub(crate) shift: f64,
    /// Whether the cosines come first.
    pub(crate) cosines_first: bool,
}

impl Sinusoids {
    /// The features of numbers `[N]` of any type, f32 `[N, width]`.
    pub(crate) fn of(&self, numbers: &Tensor) -> Result<Tensor> {
        let half = self.width / 2;
        // In f32, in the order diffusers computes it: rounding a frequency differently shows at timestep 999.
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let exponent = -(MAX_PERIOD.ln() as f32) * i as f32;
                (exponent / (half as f64 - self.shift) as f32).exp()
            })
            .collect();
        let frequencies = Tensor::from_vec(frequencies, (1, half), numbers.device())?; // [1, W/2]
        let angles = numbers
            .to_dtype(DType::F32)?
            .unsqueeze(1)?
            .broadcast_mul(&frequencies)?; // [N, W/2]
        let (sines, cosines) = (angles.sin()?, angles.cos()?);
        match self.cosines_first {
            true => Tensor::cat(&[cosines, sines], 1),
            false => Tensor::cat(&[sines, cosines], 1),
        } // [N, W]
    }
}
