//! Operations whose gradients are always right, and fast on the CPU.
//!
//! Every function here is differentiable in every floating-point operand, does no gradient work for operands that are not
//! tracked (frozen weights), and accumulates when an operand is used twice. On CPU tensors of f32 it runs one fused pass forward
//! and one backward, on the tape of [`autograd`] where one is open; for other data types and devices the same function composes
//! candle's own differentiable operations.
//!
//! | function | computes | kept for backward |
//! |---|---|---|
//! | [`linear()`] | `x wᵀ + b` | operands |
//! | [`add_linear`] | `base + factor x wᵀ` | `x`, `w` |
//! | [`add_scaled`], [`multiply`], [`affine`] | sums and products of one shape | operands |
//! | [`add_channels()`] | a number a sample and channel, added to its positions | operands |
//! | [`matmul()`] | batched product, batch dimensions broadcast | operands |
//! | [`attention()`], [`attention_tokens`] | `softmax(q kᵀ scale) v` | operands, output, two numbers a query |
//! | [`layer_norm()`] | normalised over the last dimension, times weight, plus bias | operands |
//! | [`layer_norm_modulate`] | `norm(x) (1 + scale) + shift`, shift and scale per sample | operands |
//! | [`rms_norm()`] | over the last dimension, times weight | operands |
//! | [`gate_residual()`] | `x + gate y`, gate per sample | operands |
//! | [`group_norm()`], [`group_norm_silu`] | normalised over groups of channels, the latter through SiLU | operands |
//! | [`gelu_tanh`], [`gelu_erf`], [`silu()`], [`geglu()`] | activations, the last gated | operand |
//! | [`softmax()`] | over one dimension | output |
//! | [`conv2d()`] | convolution with stride, padding, dilation, groups | operands |
//! | [`upsample_nearest2d`] | nearest neighbour, to any size | nothing |
//! | [`pixel_shuffle`], [`pixel_unshuffle`] | pixels to channels and back | nothing |
//! | [`optim`] | AdamW in one pass, gradient norm and clip | moments |
//!
//! Numerics of the fast path: `exp` is within 2 units in the last place, sums run in 16 fixed lanes, and work is cut by shape
//! alone, so results do not depend on the thread count or on the vector width found at run time. The one exception is the
//! matrix product, whose kernels (and so last bits) depend on the CPU's vector width and on whether it has a tile unit
//! ([`tile_unit`]), but not on the thread count.

pub mod add_channels;
pub mod attention;
pub mod autograd;
pub mod binary;
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code)
)]
pub mod conv2d;
pub mod gate_residual;
pub mod geglu;
pub mod gelu;
pub mod group_norm;
pub mod layer_norm;
pub mod linear;
pub mod matmul;
pub mod optim;
pub mod pixel;
pub mod profile;
pub mod rms_norm;
pub mod silu;
pub mod softmax;
pub mod upsample;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod amx;
#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
#[path = "no_amx.rs"]
mod amx;
mod elementwise;
mod fresh;
mod function;
// Parts of it serve the tile unit alone.
#[cfg_attr(
    not(all(target_arch = "x86_64", target_os = "linux")),
    allow(dead_code)
)]
mod gemm;
mod simd;
#[cfg(test)]
mod testing;

pub use add_channels::add_channels;
pub use attention::{attention, attention_tokens};
pub use binary::{add_scaled, affine, multiply};
pub use conv2d::{Conv2d, conv2d};
pub use gate_residual::gate_residual;
pub use geglu::geglu;
pub use gelu::{gelu_erf, gelu_tanh};
pub use group_norm::{group_norm, group_norm_silu};
pub use layer_norm::{layer_norm, layer_norm_modulate};
pub use linear::{add_linear, linear};
pub use matmul::matmul;
pub use pixel::{pixel_shuffle, pixel_unshuffle};
pub use rms_norm::rms_norm;
pub use silu::silu;
pub use softmax::softmax;
pub use upsample::upsample_nearest2d;

/// What keeps matrix products from a tile unit (Intel AMX); none if they run on it. They have the accuracy of `f32` there too.
pub fn tile_unit() -> Option<&'static str> {
    amx::refusal()
}
