//! Linear algebra and network layers, each one operation of the host, so each as fast and as differentiable as the host's own.

use super::{Dim, Tensor, index::int};
use crate::{Result, ops};

/// How a convolution moves over its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Conv2d {
    /// Step between windows.
    pub stride: usize,
    /// Zeros added at each border.
    pub padding: usize,
    /// Distance between kernel taps.
    pub dilation: usize,
    /// Independent groups of channels.
    pub groups: usize,
}

impl Default for Conv2d {
    fn default() -> Self {
        Conv2d {
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
        }
    }
}

/// Inputs of an operation with optional weight and bias, and the flags that say which are there.
fn weighted<'a>(
    x: &'a Tensor,
    w: Option<&'a Tensor>,
    b: Option<&'a Tensor>,
) -> (Vec<&'a Tensor>, [i64; 2]) {
    let inputs = std::iter::once(x).chain(w).chain(b).collect();
    (inputs, [i64::from(w.is_some()), i64::from(b.is_some())])
}

impl Tensor {
    /// Matrix product of `[.., M, K]` and `[.., K, N]`; leading dimensions broadcast.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn matmul(&self, rhs: &Tensor) -> Result<Tensor> {
        self.apply(ops::MATMUL, &[rhs], &[], &[])
    }

    /// `self [.., I]` times the transpose of `weight [O, I]`, plus `bias [O]`: `[.., O]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn linear(&self, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let (inputs, _) = weighted(self, Some(weight), bias);
        Tensor::invoke(self.ops(), ops::LINEAR, &inputs, &[], &[])
    }

    /// `self [.., O]` plus `factor` times `x [.., I]` times the transpose of `weight [O, I]`: a low-rank update in one operation.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn add_linear(&self, x: &Tensor, weight: &Tensor, factor: f64) -> Result<Tensor> {
        self.apply(ops::ADD_LINEAR, &[x, weight], &[], &[factor])
    }

    /// Softmax over `dim`.
    ///
    /// # Errors
    /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
    pub fn softmax(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "softmax")?;
        self.apply(ops::SOFTMAX, &[], &[int(dim)], &[])
    }

    /// Logarithm of the softmax over `dim`.
    ///
    /// # Errors
    /// [`Error::Dimension`](crate::Error::Dimension) for a dimension that is not there.
    pub fn log_softmax(&self, dim: impl Dim) -> Result<Tensor> {
        let dim = dim.resolve(&self.dims(), "log_softmax")?;
        self.apply(ops::LOG_SOFTMAX, &[], &[int(dim)], &[])
    }

    /// Normalised over the last dimension to mean 0 and variance 1, then scaled and shifted.
    ///
    /// # Errors
    /// When weight or bias is not `[D]`.
    pub fn layer_norm(
        &self,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        let (inputs, flags) = weighted(self, weight, bias);
        Tensor::invoke(self.ops(), ops::LAYER_NORM, &inputs, &flags, &[eps])
    }

    /// Divided by the root mean square of the last dimension, then scaled.
    ///
    /// # Errors
    /// When the weight is not `[D]`.
    pub fn rms_norm(&self, weight: Option<&Tensor>, eps: f64) -> Result<Tensor> {
        let (inputs, flags) = weighted(self, weight, None);
        Tensor::invoke(self.ops(), ops::RMS_NORM, &inputs, &flags[..1], &[eps])
    }

    /// `[B, C, ..]` normalised over each sample's groups of channels, then scaled and shifted per channel.
    ///
    /// # Errors
    /// When the channels do not divide into the groups.
    pub fn group_norm(
        &self,
        groups: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        let (inputs, [w, b]) = weighted(self, weight, bias);
        Tensor::invoke(
            self.ops(),
            ops::GROUP_NORM,
            &inputs,
            &[int(groups), w, b],
            &[eps],
        )
    }

    /// Convolution of `[B, C, H, W]` with `weight [O, C / groups, KH, KW]` and `bias [O]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn conv2d(&self, weight: &Tensor, bias: Option<&Tensor>, how: Conv2d) -> Result<Tensor> {
        let (inputs, _) = weighted(self, Some(weight), bias);
        let ints = [
            int(how.stride),
            int(how.padding),
            int(how.dilation),
            int(how.groups),
        ];
        Tensor::invoke(self.ops(), ops::CONV2D, &inputs, &ints, &[])
    }

    /// `[B, C, H, W]` resized to `height` x `width` by nearest neighbour.
    ///
    /// # Errors
    /// When this is not of rank 4.
    pub fn upsample_nearest2d(&self, height: usize, width: usize) -> Result<Tensor> {
        self.apply(
            ops::UPSAMPLE_NEAREST2D,
            &[],
            &[int(height), int(width)],
            &[],
        )
    }

    /// `[B, C, H, W]` resized to `height` x `width` bilinearly, without antialiasing and with `align_corners = false`.
    ///
    /// # Errors
    /// When this is not of rank 4.
    pub fn interpolate_bilinear2d(&self, height: usize, width: usize) -> Result<Tensor> {
        self.apply(
            ops::INTERPOLATE_BILINEAR2D,
            &[],
            &[int(height), int(width), 0],
            &[],
        )
    }

    /// Mean over windows of `kernel` x `kernel`, `stride` apart.
    ///
    /// # Errors
    /// When this is not of rank 4.
    pub fn avg_pool2d(&self, kernel: usize, stride: usize) -> Result<Tensor> {
        self.apply(ops::AVG_POOL2D, &[], &[int(kernel), int(stride)], &[])
    }

    /// `softmax(scale * self key^T) value` for `[B, H, T, D]`, `[B, H, S, D]`, `[B, H, S, D]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn attention(&self, key: &Tensor, value: &Tensor, scale: f64) -> Result<Tensor> {
        self.apply(ops::ATTENTION, &[key, value], &[], &[scale])
    }

    /// `[B, T, D]` normalised over the last dimension, times `1 + scale [B, D]`, plus `shift [B, D]` (adaptive layer norm).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn layer_norm_modulate(&self, shift: &Tensor, scale: &Tensor, eps: f64) -> Result<Tensor> {
        self.apply(ops::LAYER_NORM_MODULATE, &[shift, scale], &[], &[eps])
    }

    /// `self [B, T, D]` plus `gate [B, D]` times `y [B, T, D]`.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn gate_residual(&self, gate: &Tensor, y: &Tensor) -> Result<Tensor> {
        self.apply(ops::GATE_RESIDUAL, &[gate, y], &[], &[])
    }

    /// [`group_norm`](Tensor::group_norm) through SiLU.
    ///
    /// # Errors
    /// When the channels do not divide into the groups.
    pub fn group_norm_silu(
        &self,
        groups: usize,
        weight: Option<&Tensor>,
        bias: Option<&Tensor>,
        eps: f64,
    ) -> Result<Tensor> {
        let (inputs, [w, b]) = weighted(self, weight, bias);
        let ints = [int(groups), w, b];
        Tensor::invoke(self.ops(), ops::GROUP_NORM_SILU, &inputs, &ints, &[eps])
    }

    /// The first half of the last dimension times the exact GELU of the second: `[.., 2 D]` to `[.., D]`.
    ///
    /// # Errors
    /// When the last dimension is odd.
    pub fn geglu(&self) -> Result<Tensor> {
        self.apply(ops::GEGLU, &[], &[], &[])
    }

    /// `[B, C r r, H, W]` to `[B, C, r H, r W]`.
    ///
    /// # Errors
    /// When the channels are no multiple of `r r`.
    pub fn pixel_shuffle(&self, r: usize) -> Result<Tensor> {
        self.apply(ops::PIXEL_SHUFFLE, &[], &[int(r)], &[])
    }

    /// `[B, C, r H, r W]` to `[B, C r r, H, W]`.
    ///
    /// # Errors
    /// When the sides are no multiples of `r`.
    pub fn pixel_unshuffle(&self, r: usize) -> Result<Tensor> {
        self.apply(ops::PIXEL_UNSHUFFLE, &[], &[int(r)], &[])
    }
}
