//! Linear algebra and network layers. What candle cannot differentiate, or differentiates wrongly, is composed of what it can.

use candle_core::{D, Device, Result, Tensor};
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
        ops::GROUP_NORM => {
            let mut next = 1;
            let w = call.optional(call.int(1)? != 0, &mut next)?;
            let b = call.optional(call.int(2)? != 0, &mut next)?;
            group_norm(x, call.positive(0)?, w, b, call.float(0)?)
        }
        ops::CONV2D => {
            call.rank(x, 4)?;
            let (w, b) = (call.input(1)?, call.inputs.get(2).copied());
            call.rank(w, 4)?;
            let window = Window {
                stride: call.positive(0)?,
                padding: call.size(1)?,
                dilation: call.positive(2)?,
                groups: call.positive(3)?,
            };
            conv2d(x, w, b, &window)
        }
        ops::UPSAMPLE_NEAREST2D => {
            call.rank(x, 4)?;
            let (height, width) = (call.positive(0)?, call.positive(1)?);
            nearest(x, 2, height).and_then(|x| nearest(&x, 3, width))
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

fn group_norm(
    x: &Tensor,
    groups: usize,
    w: Option<&Tensor>,
    b: Option<&Tensor>,
    eps: f64,
) -> Result<Tensor> {
    let dims = x.dims();
    let [batch, channels, rest @ ..] = dims else {
        candle_core::bail!("needs [B, C, ..], got {dims:?}");
    };
    if !channels.is_multiple_of(groups) {
        candle_core::bail!("{channels} channels do not divide into {groups} groups");
    }
    let size = channels / groups * rest.iter().product::<usize>();
    let grouped = x.reshape((*batch, groups, size))?; // [B, G, C/G * ..]
    let centred = grouped.broadcast_sub(&grouped.mean_keepdim(D::Minus1)?)?;
    let variance = centred.sqr()?.mean_keepdim(D::Minus1)?;
    let normed = centred
        .broadcast_div(&variance.affine(1.0, eps)?.sqrt()?)?
        .reshape(dims)?;
    let mut per_channel = vec![1; dims.len()];
    per_channel[1] = *channels;
    let scaled = match w {
        Some(w) => normed.broadcast_mul(&w.reshape(per_channel.as_slice())?)?,
        None => normed,
    };
    match b {
        Some(b) => scaled.broadcast_add(&b.reshape(per_channel.as_slice())?),
        None => Ok(scaled),
    }
}

/// How a convolution's window moves.
struct Window {
    stride: usize,
    padding: usize,
    dilation: usize,
    groups: usize,
}

fn conv2d(x: &Tensor, w: &Tensor, b: Option<&Tensor>, window: &Window) -> Result<Tensor> {
    let &Window {
        stride,
        padding,
        dilation,
        groups,
    } = window;
    let (height, width) = (x.dim(2)?, x.dim(3)?);
    // Rows (columns) that the last window leaves over. Candle's backward takes the rows' for the columns' too, so where any
    // are left over the input is padded and cut to exactly what the windows cover.
    let covered = |extent: usize, kernel: usize| {
        let reach = dilation * kernel.saturating_sub(1) + 1;
        let padded = extent + 2 * padding;
        padded.checked_sub(reach).map(|room| padded - room % stride)
    };
    let (Some(rows), Some(columns)) = (covered(height, w.dim(2)?), covered(width, w.dim(3)?))
    else {
        candle_core::bail!(
            "the window {:?} is larger than the padded input {:?}",
            w.dims(),
            x.dims()
        );
    };
    let exact = rows == height + 2 * padding && columns == width + 2 * padding;
    let y = if exact {
        x.contiguous()?
            .conv2d(&w.contiguous()?, padding, stride, dilation, groups)?
    } else {
        let x = x
            .pad_with_zeros(2, padding, padding)?
            .pad_with_zeros(3, padding, padding)?;
        let x = x.narrow(2, 0, rows)?.narrow(3, 0, columns)?.contiguous()?;
        x.conv2d(&w.contiguous()?, 0, stride, dilation, groups)?
    };
    match b {
        Some(b) => y.broadcast_add(&b.reshape((1, (), 1, 1))?),
        None => Ok(y),
    }
}

fn pick(x: &Tensor, dim: usize, rows: Vec<u32>) -> Result<Tensor> {
    let length = rows.len();
    x.contiguous()?
        .index_select(&Tensor::from_vec(rows, length, x.device())?, dim)
}

/// Nearest neighbour along one dimension. Candle's own overwrites gradients that were already there.
fn nearest(x: &Tensor, dim: usize, length: usize) -> Result<Tensor> {
    let extent = x.dim(dim)?;
    if extent == length {
        return Ok(x.clone());
    }
    pick(
        x,
        dim,
        (0..length).map(|i| (i * extent / length) as u32).collect(),
    )
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
