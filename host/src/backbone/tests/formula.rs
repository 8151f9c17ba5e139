//! Numbers that follow from a name, as `tests/goldens/unet.py` makes them: goldens of networks need no file of weights.

use std::collections::HashMap;

use candle_core::{Device, Tensor};

use super::super::unet::outline;
use super::super::{Backbone, UnetConfig};

/// Numbers in -1..1: splitmix64, seeded by the FNV-1a hash of the name.
pub(crate) fn numbers(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = |index: u64| {
        let step = 0x9e37_79b9_7f4a_7c15_u64;
        let mut z = seed.wrapping_add((index + 1).wrapping_mul(step));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        ((z >> 40) as f64 / f64::from(1 << 23) - 1.0) as f32
    };
    let count: usize = shape.iter().product();
    let values: Vec<f32> = (0..count as u64).map(number).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// A UNet whose weights follow from their names.
pub(crate) fn unet(config: UnetConfig) -> Backbone {
    let outline = outline(&config).unwrap();
    let weight = |(name, shape): (String, Vec<usize>)| {
        let values = numbers(&name, &shape);
        let (factor, offset) = match shape.as_slice() {
            [_] if name.contains("norm") && name.ends_with("weight") => (0.25, 1.0),
            [_] => (0.25, 0.0),
            [_, rest @ ..] => ((3.0 / rest.iter().product::<usize>() as f64).sqrt(), 0.0),
            [] => (1.0, 0.0),
        };
        let value = values.affine(factor, offset).unwrap();
        (name, value)
    };
    let tensors: HashMap<String, Tensor> = outline.shapes.into_iter().map(weight).collect();
    Backbone::from_parts(config, tensors).unwrap()
}

/// One like Stable Diffusion 1's, on pictures of 8 x 8 pixels.
pub(crate) fn tiny_unet() -> Backbone {
    unet(UnetConfig {
        in_channels: 3,
        out_channels: 3,
        ..super::unet::config("sd1")
    })
}
