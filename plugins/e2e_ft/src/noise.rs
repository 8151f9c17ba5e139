//! Noise of several resolutions, and noise for sampling that depends on a picture's number alone.

use plugin_api::{Result, Tensor};

/// What each resolution counts beside the next finer one, as published.
const DISCOUNT: f64 = 0.9;

/// Resolutions at most.
const LEVELS: i32 = 10;

/// Where noise is drawn from.
pub trait Draws {
    /// Standard normal numbers, f32.
    ///
    /// # Errors
    /// When the host fails.
    fn normal(&mut self, shape: &[usize]) -> Result<Tensor>;

    /// A uniform number in `0..1`.
    ///
    /// # Errors
    /// When the host fails.
    fn uniform(&mut self) -> Result<f64>;
}

/// Multi-resolution noise `[B, C, h, w]` of unit standard deviation, as `pyramid_noise_like` of the published code: normal noise of ever smaller sizes, enlarged
/// bilinearly, each counting 0.9 of the one before, on top of noise of the full size; the sizes shrink by powers of factors drawn from 2 to 4.
///
/// # Errors
/// When the host fails.
pub fn pyramid(shape: [usize; 4], draws: &mut dyn Draws) -> Result<Tensor> {
    let [batch, channels, height, width] = shape;
    let mut noise = draws.normal(&shape)?;
    let (mut high, mut wide) = (height, width);
    for level in 0..LEVELS {
        let shrink = (2.0 + 2.0 * draws.uniform()?).powi(level);
        let smaller = |side: usize| ((side as f64 / shrink) as usize).max(1);
        (high, wide) = (smaller(high), smaller(wide));
        let coarse = draws.normal(&[batch, channels, high, wide])?;
        let fine = match (high, wide) == (height, width) {
            true => coarse,
            false => coarse.interpolate_bilinear2d(height, width)?,
        };
        noise = (noise + fine.affine(DISCOUNT.powi(level), 0.0)?)?;
        if high == 1 || wide == 1 {
            break;
        }
    }
    let centred = noise.broadcast_sub(&noise.mean_all()?)?;
    let count = (noise.elem_count() - 1).max(1) as f64;
    let spread = centred.sqr()?.sum_all()?.affine(1.0 / count, 0.0)?.sqrt()?;
    noise.broadcast_div(&spread)
}

/// The plugin's own random stream, for training.
pub struct Training<'a>(pub &'a plugin_api::Host);

impl Draws for Training<'_> {
    fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        self.0.random().normal(shape)
    }

    fn uniform(&mut self) -> Result<f64> {
        self.0.random().uniform([1])?.to_scalar()
    }
}

/// Numbers for one picture of a request: by the request's seed and the picture's number, whatever else is drawn or was. The plugin's stream would not do: samples
/// in the middle of training would move it, and a resumed run, which does not repeat them, would go on otherwise.
pub struct Picture<'a> {
    host: &'a plugin_api::Host,
    state: u64,
}

impl<'a> Picture<'a> {
    /// The numbers of picture `number` of a request.
    pub fn new(host: &'a plugin_api::Host, seed: u64, number: u64) -> Self {
        let state = seed.wrapping_add(number);
        Self { host, state }
    }

    /// SplitMix64 (Steele, Lea and Flood 2014), as a number in `0..1`.
    fn next(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

impl Draws for Picture<'_> {
    /// By Box and Muller's method.
    fn normal(&mut self, shape: &[usize]) -> Result<Tensor> {
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                let radius = (-2.0 * (1.0 - self.next()).ln()).sqrt();
                (radius * (std::f64::consts::TAU * self.next()).cos()) as f32
            })
            .collect();
        Tensor::from_slice(&values, shape, self.host)
    }

    fn uniform(&mut self) -> Result<f64> {
        Ok(self.next())
    }
}
