//! Loops that the compiler vectorises, compiled for several vector widths and chosen at run time.
//!
//! Nothing here fuses multiply and add or reassociates by width: every width gives the same bits.

/// Lanes of every sum; fixed, so that results do not depend on the vector width.
const LANES: usize = 16;

/// Defines a function compiled three times on x86-64 (AVX-512, AVX2, baseline) and once elsewhere; a call runs the widest that
/// this CPU has. What the body calls must be `#[inline(always)]` to be compiled at that width too.
macro_rules! multiversion {
    ($(#[$attribute:meta])* $vis:vis fn $name:ident($($argument:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$attribute])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name($($argument: $type),*) $(-> $result)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body($($argument: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
                #[allow(clippy::too_many_arguments)]
                fn avx512($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn avx2($($argument: $type),*) $(-> $result)? {
                    body($($argument),*)
                }
                if is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                {
                    // SAFETY: the function is safe but for the features it needs, found on this CPU just above.
                    return unsafe { avx512($($argument),*) };
                }
                if is_x86_feature_detected!("avx2") {
                    // SAFETY: as above, for the one feature this version needs.
                    return unsafe { avx2($($argument),*) };
                }
            }
            body($($argument),*)
        }
    };
}
pub(super) use multiversion;

/// `exp(x)` within 2 units in the last place for `-87.3 <= x <= 88.0`, clamped to that range outside; NaN stays NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2` (Cody and Waite's two-part reduction), then the Taylor polynomial of degree 7.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low mantissa bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x < -87.3 { -87.3 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let p = 1.0 / 5040.0;
    let p = p * r + 1.0 / 720.0;
    let p = p * r + 1.0 / 120.0;
    let p = p * r + 1.0 / 24.0;
    let p = p * r + 1.0 / 6.0;
    let p = p * r + 0.5;
    let p = p * r * r + r + 1.0;
    let scale = shifted.to_bits().wrapping_add(127) << 23;
    p * f32::from_bits(scale)
}

/// `1 / (1 + exp(-x))`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The normal distribution function `Φ(x)` and density `φ(x)`, each within 3e-7 of the truth.
///
/// Abramowitz and Stegun 7.1.26 for `erfc(|x| / √2)`, whose exponential is the density's.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.327_591_1 * z);
    let p = 1.061_405_4;
    let p = p * t - 1.453_152_1;
    let p = p * t + 1.421_413_8;
    let p = p * t - 0.284_496_72;
    let p = p * t + 0.254_829_6;
    let e = exp(-z * z);
    let tail = 0.5 * p * t * e;
    let below = if x < 0.0 { tail } else { 1.0 - tail };
    (below, e * 0.398_942_3)
}

#[inline(always)]
fn fold(lanes: [f32; LANES], combine: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = combine(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// `Σ f(i)` over `0..x.len()` where `f` takes the element of `x` and of `y` at `i`; `y` must be as long as `x`.
#[inline(always)]
pub(super) fn sum_with(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (x_blocks, x_rest) = x.as_chunks::<LANES>();
    let (y_blocks, y_rest) = y.as_chunks::<LANES>();
    for (x, y) in x_blocks.iter().zip(y_blocks) {
        for i in 0..LANES {
            lanes[i] += f(x[i], y[i]);
        }
    }
    for (i, (&x, &y)) in x_rest.iter().zip(y_rest).enumerate() {
        lanes[i] += f(x, y);
    }
    fold(lanes, |a, b| a + b)
}

/// `Σ f(x)`.
#[inline(always)]
pub(super) fn sum_of(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    sum_with(x, x, |x, _| f(x))
}

/// [`sum_with`] for long slices: f32 within blocks, f64 over blocks.
#[inline(always)]
pub(super) fn total_with(x: &[f32], y: &[f32], f: impl Fn(f32, f32) -> f32) -> f64 {
    const BLOCK: usize = 4096;
    let mut total = 0.0;
    for (x, y) in x.chunks(BLOCK).zip(y.chunks(BLOCK)) {
        total += f64::from(sum_with(x, y, &f));
    }
    total
}

/// The largest element; minus infinity of none. NaN elements may be passed over.
#[inline(always)]
pub(super) fn max(x: &[f32]) -> f32 {
    /// Independent comparisons, so that none waits for another.
    const WIDE: usize = 4 * LANES;
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut wide = [f32::NEG_INFINITY; WIDE];
    let (blocks, rest) = x.as_chunks::<WIDE>();
    for block in blocks {
        for i in 0..WIDE {
            wide[i] = larger(wide[i], block[i]);
        }
    }
    for (i, &x) in rest.iter().enumerate() {
        wide[i] = larger(wide[i], x);
    }
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for (i, &x) in wide.iter().enumerate() {
        lanes[i % LANES] = larger(lanes[i % LANES], x);
    }
    fold(lanes, larger)
}

/// Replaces a row by `exp(x scale - top)` and returns its sum.
#[inline(always)]
pub(super) fn exp_above(row: &mut [f32], scale: f32, top: f32) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, rest) = row.as_chunks_mut::<LANES>();
    for block in blocks {
        for i in 0..LANES {
            block[i] = exp(block[i] * scale - top);
            lanes[i] += block[i];
        }
    }
    for (i, x) in rest.iter_mut().enumerate() {
        *x = exp(*x * scale - top);
        lanes[i] += *x;
    }
    fold(lanes, |a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut worst = 0f64;
        for i in 0..=1_753_000 {
            let x = -87.3 + i as f32 * 1e-4;
            let exact = f64::from(x).exp();
            worst = worst.max((f64::from(exp(x)) - exact).abs() / exact);
        }
        assert!(worst < 2.4e-7, "relative error {worst:e}");
    }

    #[test]
    fn the_normal_distribution_is_within_3e_7() {
        // Φ by Simpson's rule from the centre, in f64.
        let density = |x: f64| (-0.5 * x * x).exp() / (2.0 * std::f64::consts::PI).sqrt();
        let (mut below, step, mut worst) = (0.5, 1e-3, 0f64);
        for i in 0..8000 {
            let x = f64::from(i) * step;
            for (at, exact) in [(x, below), (-x, 1.0 - below)] {
                let (actual, slope) = normal(at as f32);
                worst = worst.max((f64::from(actual) - exact).abs());
                worst = worst.max((f64::from(slope) - density(at)).abs());
            }
            below += step / 6.0 * (density(x) + 4.0 * density(x + step / 2.0) + density(x + step));
        }
        assert!(worst < 3e-7, "error {worst:e}");
    }

    #[test]
    fn exp_clamps_and_keeps_nan() {
        assert!(exp(-1000.0) < 1.3e-38 && exp(f32::NEG_INFINITY) < 1.3e-38);
        assert!(exp(1000.0) > 1.6e38);
        assert_eq!(exp(0.0), 1.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn sums_take_every_element_once() {
        for len in [0usize, 1, 15, 16, 17, 100] {
            let x: Vec<f32> = (0..len).map(|i| i as f32).collect();
            assert_eq!(sum_of(&x, |x| x), (len * len.saturating_sub(1) / 2) as f32);
            assert_eq!(
                max(&x),
                if len == 0 {
                    f32::NEG_INFINITY
                } else {
                    len as f32 - 1.0
                }
            );
        }
    }
}
