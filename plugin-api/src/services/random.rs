//! Random numbers: every plugin draws from its own stream, whose place is part of a checkpoint, so a resumed run draws what an
//! uninterrupted one would have.

use super::{RandomNumbers, TensorOut};
use crate::{Error, Host, Result, Tensor, message::message};

message! {
    /// Asks for random numbers.
    pub struct RandomIn {
        /// `normal` (mean `a`, standard deviation `b`), `uniform` (in `a..b`), `integers` (whole, in `a..b`) or `permutation`
        /// (of `0..n` for shape `[n]`).
        pub kind: String,
        /// Shape.
        pub shape: Vec<usize>,
        /// First number of the distribution.
        pub a: f64,
        /// Second number of the distribution.
        pub b: f64,
    }
}

/// The plugin's random stream; from [`Host::random`].
#[derive(Debug)]
pub struct Random<'a> {
    host: &'a Host,
}

impl Host {
    /// This plugin's random stream.
    pub fn random(&self) -> Random<'_> {
        Random { host: self }
    }
}

impl Random<'_> {
    fn draw(&self, kind: &str, shape: &[usize], a: f64, b: f64) -> Result<Tensor> {
        let request = RandomIn {
            kind: kind.to_owned(),
            shape: shape.to_vec(),
            a,
            b,
        };
        let TensorOut { tensor } = self.host.call::<RandomNumbers>(request)?;
        Ok(tensor)
    }

    /// Standard normal numbers, f32.
    ///
    /// # Errors
    /// When the host fails.
    pub fn normal(&self, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        self.draw("normal", shape.as_ref(), 0.0, 1.0)
    }

    /// Uniform numbers in `0..1`, f32; 1 itself never occurs.
    ///
    /// # Errors
    /// When the host fails.
    pub fn uniform(&self, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        self.draw("uniform", shape.as_ref(), 0.0, 1.0)
    }

    /// Whole numbers in `low..high`, u32.
    ///
    /// # Errors
    /// For an empty range.
    pub fn integers(&self, low: u32, high: u32, shape: impl AsRef<[usize]>) -> Result<Tensor> {
        if low >= high {
            return Err(Error::Message(format!(
                "random integers: the range {low}..{high} is empty"
            )));
        }
        self.draw("integers", shape.as_ref(), f64::from(low), f64::from(high))
    }

    /// The numbers `0..n` in random order, `[n]` u32.
    ///
    /// # Errors
    /// When the host fails.
    pub fn permutation(&self, n: usize) -> Result<Tensor> {
        self.draw("permutation", &[n], 0.0, 0.0)
    }
}
