//! What is measured: each operation as we compute it and as stock candle does, and its operands.

use candle_core::{D, Device, Result, Tensor, Var};
use host::ops::{self, Conv2d};
use host::random::Stream;

/// An operation at one size.
pub(crate) struct Case {
    /// The operation, whether its weight is frozen, and the size; `tests/bench/ops.py` knows the same names.
    pub(crate) name: &'static str,
    /// Shapes of the operands, and whether each is tracked.
    pub(crate) operands: &'static [(&'static [usize], bool)],
    pub(crate) ours: fn(&[Tensor]) -> Result<Tensor>,
    pub(crate) stock: fn(&[Tensor]) -> Result<Tensor>,
}

/// Thousands of parameters of an AdamW case.
pub(crate) fn adamw_size(case: &Case) -> Option<usize> {
    case.name
        .starts_with("adamw")
        .then(|| case.operands[0].0[0])
}

/// Standard normal operands; the tracked ones are variables.
pub(crate) fn operands(case: &Case) -> Result<Vec<Tensor>> {
    let mut stream = Stream::new(1, "bench");
    let operand = |&(shape, tracked): &(&[usize], bool)| {
        let values = stream.normal(shape, &Device::Cpu)?;
        Ok(match tracked {
            true => Var::from_tensor(&values)?.into_inner(),
            false => values,
        })
    };
    case.operands.iter().map(operand).collect()
}

const SAME: Conv2d = Conv2d {
    stride: 1,
    padding: 1,
    dilation: 1,
    groups: 1,
};
const POINT: Conv2d = Conv2d {
    stride: 1,
    padding: 0,
    dilation: 1,
    groups: 1,
};
const DOWN: Conv2d = Conv2d {
    stride: 2,
    padding: 1,
    dilation: 1,
    groups: 1,
};

fn conv(x: &[Tensor], how: Conv2d) -> Result<Tensor> {
    ops::conv2d(&x[0], &x[1], Some(&x[2]), how)
}

fn stock_conv(x: &[Tensor], how: Conv2d) -> Result<Tensor> {
    let bias = x[2].reshape((1, x[2].elem_count(), 1, 1))?;
    x[0].conv2d(&x[1], how.padding, how.stride, how.dilation, how.groups)?
        .broadcast_add(&bias)
}

fn conv_same(x: &[Tensor]) -> Result<Tensor> {
    conv(x, SAME)
}

fn stock_conv_same(x: &[Tensor]) -> Result<Tensor> {
    stock_conv(x, SAME)
}

fn conv_point(x: &[Tensor]) -> Result<Tensor> {
    conv(x, POINT)
}

fn stock_conv_point(x: &[Tensor]) -> Result<Tensor> {
    stock_conv(x, POINT)
}

fn conv_down(x: &[Tensor]) -> Result<Tensor> {
    conv(x, DOWN)
}

fn stock_conv_down(x: &[Tensor]) -> Result<Tensor> {
    stock_conv(x, DOWN)
}

fn linear(x: &[Tensor]) -> Result<Tensor> {
    ops::linear(&x[0], &x[1], Some(&x[2]))
}

fn stock_linear(x: &[Tensor]) -> Result<Tensor> {
    x[0].matmul(&x[1].t()?)?.broadcast_add(&x[2])
}

fn scale(q: &Tensor) -> Result<f64> {
    Ok(1.0 / (q.dim(D::Minus1)? as f64).sqrt())
}

fn attention(x: &[Tensor]) -> Result<Tensor> {
    ops::attention(&x[0], &x[1], &x[2], scale(&x[0])?)
}

fn stock_attention(x: &[Tensor]) -> Result<Tensor> {
    let scores = (x[0].matmul(&x[1].t()?)? * scale(&x[0])?)?;
    candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&x[2])
}

fn group_norm_silu(x: &[Tensor]) -> Result<Tensor> {
    ops::group_norm_silu(&x[0], 32, &x[1], &x[2], 1e-5)
}

fn stock_group_norm_silu(x: &[Tensor]) -> Result<Tensor> {
    let channels = x[1].elem_count();
    let norm = candle_nn::GroupNorm::new(x[1].clone(), x[2].clone(), channels, 32, 1e-5)?;
    candle_nn::ops::silu(&candle_nn::Module::forward(&norm, &x[0])?)
}

fn layer_norm_modulate(x: &[Tensor]) -> Result<Tensor> {
    ops::layer_norm_modulate(&x[0], &x[1], &x[2], 1e-6)
}

fn stock_layer_norm_modulate(x: &[Tensor]) -> Result<Tensor> {
    let centred = x[0].broadcast_sub(&x[0].mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normal = centred.broadcast_div(&(variance + 1e-6)?.sqrt()?)?;
    normal
        .broadcast_mul(&(x[2].unsqueeze(1)? + 1.0)?)?
        .broadcast_add(&x[1].unsqueeze(1)?)
}

fn stock_gate_residual(x: &[Tensor]) -> Result<Tensor> {
    &x[0] + x[2].broadcast_mul(&x[1].unsqueeze(1)?)?
}

fn stock_geglu(x: &[Tensor]) -> Result<Tensor> {
    let parts = x[0].chunk(2, D::Minus1)?;
    &parts[0] * parts[1].gelu_erf()?
}

/// Not run by these: see `Bench::AdamW`.
fn unused(x: &[Tensor]) -> Result<Tensor> {
    Ok(x[0].clone())
}

macro_rules! cases {
    ($($name:literal $ours:expr, $stock:expr, [$($shape:expr => $tracked:literal),*];)*) => {
        &[$(Case { name: $name, operands: &[$((&$shape, $tracked)),*], ours: $ours, stock: $stock }),*]
    };
}

pub(crate) const CASES: &[Case] = cases! {
    "linear 2048x384->1536" linear, stock_linear, [[2048, 384] => true, [1536, 384] => true, [1536] => true];
    "linear 2048x384->1536 frozen" linear, stock_linear, [[2048, 384] => true, [1536, 384] => false, [1536] => false];
    "linear 2048x1536->384" linear, stock_linear, [[2048, 1536] => true, [384, 1536] => true, [384] => true];
    "linear 1024x640->5120 frozen" linear, stock_linear, [[1024, 640] => true, [5120, 640] => false, [5120] => false];
    "conv 3x3 1x320x64x64" conv_same, stock_conv_same, [[1, 320, 64, 64] => true, [320, 320, 3, 3] => true, [320] => true];
    "conv 3x3 1x320x64x64 frozen" conv_same, stock_conv_same, [[1, 320, 64, 64] => true, [320, 320, 3, 3] => false, [320] => false];
    "conv 3x3 1x640x32x32" conv_same, stock_conv_same, [[1, 640, 32, 32] => true, [640, 640, 3, 3] => true, [640] => true];
    "conv 3x3 1x640x32x32 frozen" conv_same, stock_conv_same, [[1, 640, 32, 32] => true, [640, 640, 3, 3] => false, [640] => false];
    "conv 3x3 1x1280x16x16" conv_same, stock_conv_same, [[1, 1280, 16, 16] => true, [1280, 1280, 3, 3] => true, [1280] => true];
    "conv 3x3 1x1280x16x16 frozen" conv_same, stock_conv_same, [[1, 1280, 16, 16] => true, [1280, 1280, 3, 3] => false, [1280] => false];
    "conv 3x3/2 1x320x64x64 frozen" conv_down, stock_conv_down, [[1, 320, 64, 64] => true, [320, 320, 3, 3] => false, [320] => false];
    "conv 1x1 1x640x64x64->320" conv_point, stock_conv_point, [[1, 640, 64, 64] => true, [320, 640, 1, 1] => true, [320] => true];
    "conv 1x1 1x640x64x64->320 frozen" conv_point, stock_conv_point, [[1, 640, 64, 64] => true, [320, 640, 1, 1] => false, [320] => false];
    "conv 1x1 1x640x32x32" conv_point, stock_conv_point, [[1, 640, 32, 32] => true, [640, 640, 1, 1] => true, [640] => true];
    "conv 1x1 1x640x32x32 frozen" conv_point, stock_conv_point, [[1, 640, 32, 32] => true, [640, 640, 1, 1] => false, [640] => false];
    "conv 1x1 1x1280x16x16" conv_point, stock_conv_point, [[1, 1280, 16, 16] => true, [1280, 1280, 1, 1] => true, [1280] => true];
    "conv 1x1 1x1280x16x16 frozen" conv_point, stock_conv_point, [[1, 1280, 16, 16] => true, [1280, 1280, 1, 1] => false, [1280] => false];
    "attention 8x6x256x64" attention, stock_attention, [[8, 6, 256, 64] => true, [8, 6, 256, 64] => true, [8, 6, 256, 64] => true];
    "attention 1x8x1024x80" attention, stock_attention, [[1, 8, 1024, 80] => true, [1, 8, 1024, 80] => true, [1, 8, 1024, 80] => true];
    "attention 1x8x4096x40" attention, stock_attention, [[1, 8, 4096, 40] => true, [1, 8, 4096, 40] => true, [1, 8, 4096, 40] => true];
    "attention cross 1x8x4096x40" attention, stock_attention, [[1, 8, 4096, 40] => true, [1, 8, 77, 40] => true, [1, 8, 77, 40] => true];
    "attention cross 1x8x1024x80" attention, stock_attention, [[1, 8, 1024, 80] => true, [1, 8, 77, 80] => true, [1, 8, 77, 80] => true];
    "attention cross 1x8x256x160" attention, stock_attention, [[1, 8, 256, 160] => true, [1, 8, 77, 160] => true, [1, 8, 77, 160] => true];
    "group_norm_silu 1x320x64x64" group_norm_silu, stock_group_norm_silu, [[1, 320, 64, 64] => true, [320] => true, [320] => true];
    "group_norm_silu 1x640x32x32" group_norm_silu, stock_group_norm_silu, [[1, 640, 32, 32] => true, [640] => true, [640] => true];
    "group_norm_silu 1x1280x16x16" group_norm_silu, stock_group_norm_silu, [[1, 1280, 16, 16] => true, [1280] => true, [1280] => true];
    "layer_norm_modulate 8x256x384" layer_norm_modulate, stock_layer_norm_modulate, [[8, 256, 384] => true, [8, 384] => true, [8, 384] => true];
    "layer_norm_modulate 4x256x768" layer_norm_modulate, stock_layer_norm_modulate, [[4, 256, 768] => true, [4, 768] => true, [4, 768] => true];
    "layer_norm_modulate 64x64x192" layer_norm_modulate, stock_layer_norm_modulate, [[64, 64, 192] => true, [64, 192] => true, [64, 192] => true];
    "gate_residual 8x256x384" |x| ops::gate_residual(&x[0], &x[1], &x[2]), stock_gate_residual, [[8, 256, 384] => true, [8, 384] => true, [8, 256, 384] => true];
    "gelu 2048x1536" |x| ops::gelu_tanh(&x[0]), |x| x[0].gelu(), [[2048, 1536] => true];
    "gelu 1024x3072" |x| ops::gelu_tanh(&x[0]), |x| x[0].gelu(), [[1024, 3072] => true];
    "gelu 4096x768" |x| ops::gelu_tanh(&x[0]), |x| x[0].gelu(), [[4096, 768] => true];
    "silu 2048x1536" |x| ops::silu(&x[0]), |x| candle_nn::ops::silu(&x[0]), [[2048, 1536] => true];
    "geglu 4096x2560" |x| ops::geglu(&x[0]), stock_geglu, [[4096, 2560] => true];
    "geglu 1024x5120" |x| ops::geglu(&x[0]), stock_geglu, [[1024, 5120] => true];
    "geglu 256x10240" |x| ops::geglu(&x[0]), stock_geglu, [[256, 10240] => true];
    "adamw 1M" unused, unused, [[1000] => true];
    "adamw 10M" unused, unused, [[10_000] => true];
    "adamw 33M" unused, unused, [[33_000] => true];
};
