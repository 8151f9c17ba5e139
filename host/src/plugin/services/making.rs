//! First values of parameters and draws of random numbers, as plugins ask for them, made from a host stream.

use candle_core::{DType, Device, Result, Tensor};
use plugin_api::Error;
use plugin_api::services::InitMessage;

use super::Answer;
use crate::plugin::tensor_ops::import;
use crate::random::Stream;

/// How a new parameter starts.
#[derive(Clone, Debug)]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// One value everywhere.
    Constant(f64),
    /// Normal.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `low..high`.
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// PyTorch's `kaiming_uniform_` over the fan-in: uniform in `-b..b`, `b = sqrt(6 / ((1 + a^2) fan_in))`.
    KaimingUniform {
        /// Negative slope.
        a: f64,
    },
    /// These values.
    Value(Tensor),
}

impl Init {
    pub(super) fn decode(message: InitMessage) -> Answer<Self> {
        let kind = message.kind.clone();
        let init = message.decode_init();
        let init = init.ok_or_else(|| {
            Error::msg(format!(
                "unknown initialisation `{kind}`, or wrong numbers for it"
            ))
        })?;
        Ok(match init {
            plugin_api::Init::Zeros => Init::Zeros,
            plugin_api::Init::Ones => Init::Ones,
            plugin_api::Init::Constant(value) => Init::Constant(value),
            plugin_api::Init::Normal { mean, std } => Init::Normal { mean, std },
            plugin_api::Init::Uniform { low, high } => Init::Uniform { low, high },
            plugin_api::Init::KaimingUniform { a } => Init::KaimingUniform { a },
            plugin_api::Init::Value(tensor) => Init::Value(import(&tensor)?),
            _ => return Err(Error::msg(format!("unknown initialisation `{kind}`"))),
        })
    }

    /// The values: f32, of `shape`. `stream` should depend on the run's seed, the plugin and the parameter's name, so that
    /// the order of creation changes nothing.
    ///
    /// # Errors
    /// Given values of another shape.
    pub fn make(&self, shape: &[usize], stream: &mut Stream, device: &Device) -> Result<Tensor> {
        match self {
            Init::Zeros => Tensor::zeros(shape, DType::F32, device),
            Init::Ones => Tensor::ones(shape, DType::F32, device),
            Init::Constant(value) => Tensor::full(*value as f32, shape, device),
            Init::Normal { mean, std } => stream.normal(shape, device)?.affine(*std, *mean),
            Init::Uniform { low, high } => stream.uniform(shape, device)?.affine(high - low, *low),
            Init::KaimingUniform { a } => {
                let fan_in: usize = shape.iter().skip(1).product();
                let bound = (6.0 / ((1.0 + a * a) * fan_in.max(1) as f64)).sqrt();
                stream.uniform(shape, device)?.affine(2.0 * bound, -bound)
            }
            Init::Value(value) if value.dims() != shape => {
                candle_core::bail!(
                    "the values are of shape {:?}, the parameter of {shape:?}",
                    value.dims()
                )
            }
            Init::Value(value) => value
                .detach()
                .to_dtype(DType::F32)?
                .to_device(device)?
                .copy(),
        }
    }
}

/// Random numbers a plugin asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Draw {
    /// Normal numbers, f32.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Uniform numbers in `low..high`, f32.
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// Whole numbers in `low..high`, u32.
    Integers {
        /// Lower bound.
        low: u32,
        /// Upper bound, above the lower one.
        high: u32,
    },
    /// The numbers `0..n` in random order, u32, for shape `[n]`.
    Permutation,
}

impl Draw {
    pub(super) fn decode(kind: &str, a: f64, b: f64) -> Answer<Self> {
        let whole = |bound: f64| {
            let fits = bound.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&bound);
            fits.then_some(bound as u32)
                .ok_or_else(|| Error::msg(format!("{bound} is no bound for whole numbers")))
        };
        match kind {
            "normal" => Ok(Draw::Normal { mean: a, std: b }),
            "uniform" => Ok(Draw::Uniform { low: a, high: b }),
            "integers" => {
                let (low, high) = (whole(a)?, whole(b)?);
                if low >= high {
                    return Err(Error::msg(format!("the range {low}..{high} is empty")));
                }
                Ok(Draw::Integers { low, high })
            }
            "permutation" => Ok(Draw::Permutation),
            other => Err(Error::msg(format!(
                "the host has no random numbers of kind `{other}`"
            ))),
        }
    }

    /// The numbers, drawn from `stream`.
    ///
    /// # Errors
    /// A permutation of another rank than 1.
    pub fn take(&self, shape: &[usize], stream: &mut Stream, device: &Device) -> Result<Tensor> {
        match *self {
            Draw::Normal { mean, std } => scaled(stream.normal(shape, device)?, std, mean),
            Draw::Uniform { low, high } => scaled(stream.uniform(shape, device)?, high - low, low),
            Draw::Integers { low, high } => {
                let range = (high - low) as usize;
                let draws: Vec<u32> = (0..shape.iter().product())
                    .map(|_| low + stream.below(range) as u32)
                    .collect();
                Tensor::from_vec(draws, shape, device)
            }
            Draw::Permutation => {
                let &[count] = shape else {
                    candle_core::bail!("a permutation has one dimension, not shape {shape:?}");
                };
                let mut order: Vec<u32> = (0..count as u32).collect();
                for last in (1..count).rev() {
                    order.swap(last, stream.below(last + 1));
                }
                Tensor::from_vec(order, shape, device)
            }
        }
    }
}

/// `x * scale + shift`, and exactly `x` where that is what is asked for.
fn scaled(x: Tensor, scale: f64, shift: f64) -> Result<Tensor> {
    if scale == 1.0 && shift == 0.0 {
        Ok(x)
    } else {
        x.affine(scale, shift)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stream() -> Stream {
        Stream::new(3, "test")
    }

    #[test]
    fn kaiming_uniform_stays_within_pytorchs_bound_and_fills_it() {
        let init = Init::KaimingUniform { a: 5f64.sqrt() };
        let values = init.make(&[64, 16], &mut stream(), &Device::Cpu).unwrap();
        let values = values.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let bound = (6.0f32 / (6.0 * 16.0)).sqrt();
        let largest = values
            .iter()
            .fold(0f32, |largest, value| largest.max(value.abs()));
        assert!(
            largest <= bound && largest > 0.98 * bound,
            "{largest} against {bound}"
        );
    }

    #[test]
    fn a_permutation_holds_every_number_once() {
        let drawn = Draw::Permutation
            .take(&[50], &mut stream(), &Device::Cpu)
            .unwrap();
        let mut numbers = drawn.to_vec1::<u32>().unwrap();
        assert_ne!(numbers, (0..50).collect::<Vec<_>>());
        numbers.sort_unstable();
        assert_eq!(numbers, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn whole_numbers_stay_in_their_range_and_reach_both_ends() {
        let draw = Draw::decode("integers", 3.0, 6.0).unwrap();
        let numbers = draw.take(&[4, 50], &mut stream(), &Device::Cpu).unwrap();
        let numbers = numbers.flatten_all().unwrap().to_vec1::<u32>().unwrap();
        assert!(numbers.iter().all(|number| (3..6).contains(number)));
        assert!(numbers.contains(&3) && numbers.contains(&5));
    }

    #[test]
    fn what_cannot_be_drawn_is_refused() {
        for (kind, a, b) in [
            ("integers", 3.0, 3.0),
            ("integers", 0.5, 3.0),
            ("integers", -1.0, 3.0),
            ("poisson", 0.0, 1.0),
        ] {
            Draw::decode(kind, a, b).unwrap_err();
        }
    }
}
