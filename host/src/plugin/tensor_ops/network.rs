//! Linear algebra and network layers: the host's own operations, and what they lack composed of what candle differentiates rightly.

use candle_core::{Device, Result, Tensor};
use plugin_api::{Error, ops};

use super::args::Call;
use crate::ops as fast;

/// Codes 500 to 599.
pub(super) fn run(call: &Call<'_>) -> std::result::Result<Tensor, Error> {
    let x = call.input(0)?;
    call.floating(x)?;
    call.same_dtype(&call.inputs)?;
    call.done(match call.op {
        ops::MATMUL => fast::matmul(x, call.input(1)?),
        ops::LINEAR => fast::linear(x, call.input(1)?, call.inputs.get(2).copied()),
        ops::SOFTMAX => fast::softmax(x, call.dim(0, x)?),
        ops::LOG_SOFTMAX => log_softmax(x, call.dim(0, x)?),
        ops::LAYER_NORM => {
            let mut next = 1;
            let w = call.optional(call.int(0)? != 0, &mut next)?;
            let b = call.optional(call.int(1)? != 0, &mut next)?;
            fast::layer_norm(x, w, b, call.float(0)?)
        }
        ops::RMS_NORM => {
            let w = call.optional(call.int(0)? != 0, &mut 1)?;
            fast::rms_norm(x, w, call.float(0)?)
        }
        ops::GROUP_NORM | ops::GROUP_NORM_SILU => {
            let mut next = 1;
            let w = call.optional(call.int(1)? != 0, &mut next)?;
            let b = call.optional(call.int(2)? != 0, &mut next)?;
            let norm: GroupNorm = match call.op {
                ops::GROUP_NORM_SILU => fast::group_norm_silu,
                _ => fast::group_norm,
            };
            group_norm(norm, x, call.positive(0)?, w, b, call.float(0)?)
        }
        ops::LAYER_NORM_MODULATE => {
            call.rank(x, 3)?;
            fast::layer_norm_modulate(x, call.input(1)?, call.input(2)?, call.float(0)?)
        }
        ops::GATE_RESIDUAL => {
            call.rank(x, 3)?;
            fast::gate_residual(x, call.input(1)?, call.input(2)?)
        }
        ops::GEGLU => fast::geglu(x),
        ops::ADD_LINEAR => fast::add_linear(x, call.input(1)?, call.input(2)?, call.float(0)?),
        ops::PIXEL_SHUFFLE => fast::pixel_shuffle(x, call.positive(0)?),
        ops::PIXEL_UNSHUFFLE => fast::pixel_unshuffle(x, call.positive(0)?),
        ops::CONV2D => {
            call.rank(x, 4)?;
            let (w, b) = (call.input(1)?, call.inputs.get(2).copied());
            call.rank(w, 4)?;
            let config = fast::Conv2d {
                stride: call.positive(0)?,
                padding: call.size(1)?,
                dilation: call.positive(2)?,
                groups: call.positive(3)?,
            };
            fast::conv2d(x, w, b, config)
        }
        ops::UPSAMPLE_NEAREST2D => {
            call.rank(x, 4)?;
            let (height, width) = (call.positive(0)?, call.positive(1)?);
            fast::upsample_nearest2d(x, height, width)
        }
        ops::INTERPOLATE_BILINEAR2D => {
            call.rank(x, 4)?;
            let (height, width, corners) =
                (call.positive(0)?, call.positive(1)?, call.int(2)? != 0);
            bilinear(x, 2, height, corners).and_then(|x| bilinear(&x, 3, width, corners))
        }
        ops::AVG_POOL2D => {
            call.rank(x, 4)?;
            let (kernel, stride) = (call.positive(0)?, call.positive(1)?);
            window_mean(x, 2, kernel, stride).and_then(|x| window_mean(&x, 3, kernel, stride))
        }
        ops::ATTENTION => fast::attention(x, call.input(1)?, call.input(2)?, call.float(0)?),
        _ => {
            return Err(Error::Unsupported {
                who: "host".into(),
                what: call.op.name.to_ascii_lowercase(),
                revision: call.op.revision,
            });
        }
    })
}

/// `x - max - log(sum(exp(x - max)))`; the maximum cancels, so it needs no gradient.
fn log_softmax(x: &Tensor, dim: usize) -> Result<Tensor> {
    let shifted = x.broadcast_sub(&x.detach().max_keepdim(dim)?)?;
    shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(dim)?.log()?)
}

/// A group norm of the host: `(x, groups, weight, bias, eps)`.
type GroupNorm = fn(&Tensor, usize, &Tensor, &Tensor, f64) -> Result<Tensor>;

/// With a factor of one and an offset of zero where the plugin gives none.
fn group_norm(
    norm: GroupNorm,
    x: &Tensor,
    groups: usize,
    w: Option<&Tensor>,
    b: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let channels = x.dim(1)?;
    let w = match w {
        Some(w) => w.clone(),
        None => Tensor::ones(channels, x.dtype(), x.device())?,
    };
    let b = match b {
        Some(b) => b.clone(),
        None => Tensor::zeros(channels, x.dtype(), x.device())?,
    };
    norm(x, groups, &w, &b, eps)
}

fn pick(x: &Tensor, dim: usize, rows: Vec<u32>) -> Result<Tensor> {
    let length = rows.len();
    x.contiguous()?
        .index_select(&Tensor::from_vec(rows, length, x.device())?, dim)
}

/// Linear interpolation along one dimension, as PyTorch's.
fn bilinear(x: &Tensor, dim: usize, length: usize, align_corners: bool) -> Result<Tensor> {
    let extent = x.dim(dim)?;
    if extent == length {
        return Ok(x.clone());
    }
    let position = |i: usize| {
        if align_corners {
            let steps = length.saturating_sub(1).max(1);
            return i as f64 * (extent - 1) as f64 / steps as f64;
        }
        ((i as f64 + 0.5) * extent as f64 / length as f64 - 0.5).max(0.0)
    };
    let last = extent - 1;
    let positions: Vec<f64> = (0..length).map(position).collect();
    let low: Vec<u32> = positions
        .iter()
        .map(|p| (p.floor() as usize).min(last) as u32)
        .collect();
    let high: Vec<u32> = low
        .iter()
        .map(|&p| (p as usize + 1).min(last) as u32)
        .collect();
    let share: Vec<f64> = positions
        .iter()
        .zip(&low)
        .map(|(p, &low)| p - f64::from(low))
        .collect();
    let mut along = vec![1; x.rank()];
    along[dim] = length;
    let share = Tensor::from_vec(share, along, &Device::Cpu)?
        .to_dtype(x.dtype())?
        .to_device(x.device())?;
    let (low, high) = (pick(x, dim, low)?, pick(x, dim, high)?);
    low.add(&high.sub(&low)?.broadcast_mul(&share)?)
}

/// The mean over windows along one dimension, without padding.
fn window_mean(x: &Tensor, dim: usize, kernel: usize, stride: usize) -> Result<Tensor> {
    let extent = x.dim(dim)?;
    let Some(room) = extent.checked_sub(kernel) else {
        candle_core::bail!("a window of {kernel} is larger than {extent}");
    };
    let windows = room / stride + 1;
    if kernel == stride {
        let mut split = x.dims().to_vec();
        split.splice(dim..=dim, [windows, kernel]);
        return x
            .narrow(dim, 0, windows * kernel)?
            .reshape(split)?
            .mean(dim + 1);
    }
    let mut sum: Option<Tensor> = None;
    for offset in 0..kernel {
        let rows = (0..windows).map(|i| (i * stride + offset) as u32).collect();
        let part = pick(x, dim, rows)?;
        sum = Some(match sum {
            Some(sum) => sum.add(&part)?,
            None => part,
        });
    }
    match sum {
        Some(sum) => sum.affine(1.0 / kernel as f64, 0.0),
        None => candle_core::bail!("a window of nothing"),
    }
}
