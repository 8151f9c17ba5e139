//! Numbers that follow from a name, as `tests/goldens/unet.py` makes them: goldens of networks need no file of weights.

use candle_core::{Device, Tensor};

/// Numbers in -1..1: splitmix64, seeded by the FNV-1a hash of the name.
pub fn numbers(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = |index: u64| {
        let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
    };
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64).map(number).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// The weight of that name, as the script's `fill` makes it.
pub fn weight(name: &str, shape: &[usize]) -> Tensor {
    let (factor, offset) = match shape {
        [_, rest @ ..] if !rest.is_empty() => {
            ((3.0 / rest.iter().product::<usize>() as f64).sqrt(), 0.0)
        }
        _ if name.contains("norm") && name.ends_with("weight") => (0.25, 1.0),
        _ => (0.25, 0.0),
    };
    numbers(name, shape).affine(factor, offset).unwrap()
}
