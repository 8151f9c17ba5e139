//! Every tensor operation that crosses the boundary: its code, its revision, and exactly what it expects.
//!
//! Plugin authors use the methods of [`Tensor`](crate::Tensor). Hosts implement this list. Conventions:
//!
//! * `in` are tensors, `ints` are `i64`, `floats` are `f64`, in the order written. `[...]` marks what may be absent.
//! * Dimensions in `ints` are already resolved: `0..rank`, never negative. Shapes are lists of extents, outermost first; empty is a scalar.
//! * Binary operations broadcast as NumPy does. When the element types of two operands differ the host answers
//!   [`Status::INVALID`](crate::abi::Status::INVALID); it never converts silently.
//! * Every operation on floating types is differentiable with respect to each floating input unless it says otherwise.
//! * A result has the element type of the first input unless it says otherwise.
//! * Wrong counts of inputs, ints or floats, and shapes that do not fit, are answered with `INVALID` and a sentence.
//! * When an operation's meaning must change, its revision grows and the host keeps the old one.

/// One operation at one revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Op {
    /// What `invoke` is called with.
    pub code: u32,
    /// Which meaning of the code.
    pub revision: u32,
    /// The name in error messages.
    pub name: &'static str,
    /// The first [`ABI_MINOR`](crate::abi::ABI_MINOR) whose hosts have it.
    pub since: u32,
}

impl Op {
    /// The operation with this code and revision.
    pub fn find(code: u32, revision: u32) -> Option<Op> {
        ALL.iter()
            .copied()
            .find(|op| op.code == code && op.revision == revision)
    }
}

macro_rules! ops {
    ($($(#[$meta:meta])* $id:ident = $code:literal / $revision:literal since $since:literal;)*) => {
        $($(#[$meta])* pub const $id: Op = Op { code: $code, revision: $revision, name: stringify!($id), since: $since };)*
        /// Every operation this version knows, in the order of their codes.
        pub const ALL: &[Op] = &[$($id),*];
    };
}

ops! {
    // ---- elementwise, one input: in `x`
    /// `|x|`.
    ABS = 100 / 1 since 0;
    /// `e^x`.
    EXP = 101 / 1 since 0;
    /// Natural logarithm.
    LOG = 102 / 1 since 0;
    /// Square root.
    SQRT = 103 / 1 since 0;
    /// `x * x`.
    SQR = 104 / 1 since 0;
    /// `1 / x`.
    RECIP = 105 / 1 since 0;
    /// Cosine of radians.
    COS = 106 / 1 since 0;
    /// Sine of radians.
    SIN = 107 / 1 since 0;
    /// Hyperbolic tangent.
    TANH = 108 / 1 since 0;
    /// Error function.
    ERF = 109 / 1 since 0;
    /// Arc cosine in radians of `x` in -1..1; NaN outside. Its gradient is kept finite: the host uses
    /// `-1 / sqrt(max(1 - x^2, 1e-12))`.
    ACOS = 110 / 1 since 0;
    /// `max(x, 0)`.
    RELU = 111 / 1 since 0;
    /// GELU, tanh approximation.
    GELU_TANH = 112 / 1 since 0;
    /// GELU, exact (`x * (1 + erf(x / sqrt 2)) / 2`).
    GELU_ERF = 113 / 1 since 0;
    /// `x * sigmoid(x)`.
    SILU = 114 / 1 since 0;
    /// `1 / (1 + e^-x)`.
    SIGMOID = 115 / 1 since 0;
    /// Largest whole number not above `x`. No gradient.
    FLOOR = 116 / 1 since 0;
    /// Smallest whole number not below `x`. No gradient.
    CEIL = 117 / 1 since 0;
    /// Nearest whole number, halves away from zero. No gradient.
    ROUND = 118 / 1 since 0;
    /// -1, 0 or 1. No gradient.
    SIGN = 119 / 1 since 0;
    /// The same values, cut from the graph. No gradient.
    DETACH = 120 / 1 since 0;
    /// floats `mul, add`: `x * mul + add`.
    AFFINE = 121 / 1 since 0;
    /// floats `p`: `x^p`, for a constant exponent.
    POWF = 122 / 1 since 0;
    /// floats `low, high`: values limited to `low..=high`; gradient 1 inside (bounds included), 0 outside. Either bound may be infinite.
    CLAMP = 123 / 1 since 0;

    // ---- two inputs, broadcasting: in `a, b`
    /// `a + b`.
    ADD = 200 / 1 since 0;
    /// `a - b`.
    SUB = 201 / 1 since 0;
    /// `a * b`.
    MUL = 202 / 1 since 0;
    /// `a / b`.
    DIV = 203 / 1 since 0;
    /// Elementwise larger of the two.
    MAXIMUM = 204 / 1 since 0;
    /// Elementwise smaller of the two.
    MINIMUM = 205 / 1 since 0;
    /// `a == b` as 0 or 1. Result u8. No gradient (so for all comparisons).
    EQ = 206 / 1 since 0;
    /// `a != b` as 0 or 1, u8.
    NE = 207 / 1 since 0;
    /// `a < b` as 0 or 1, u8.
    LT = 208 / 1 since 0;
    /// `a <= b` as 0 or 1, u8.
    LE = 209 / 1 since 0;
    /// `a > b` as 0 or 1, u8.
    GT = 210 / 1 since 0;
    /// `a >= b` as 0 or 1, u8.
    GE = 211 / 1 since 0;

    // ---- reductions: in `x`; ints `keep, dims...`: `keep` is 1 to keep reduced dimensions as 1; no dims reduce all of them
    /// Sum.
    SUM = 300 / 1 since 0;
    /// Arithmetic mean.
    MEAN = 301 / 1 since 0;
    /// Largest value. The gradient goes to the places that hold it.
    MAX = 302 / 1 since 0;
    /// Smallest value. The gradient goes to the places that hold it.
    MIN = 303 / 1 since 0;
    /// ints `keep, dim`: index of the first largest value. Result u32. No gradient.
    ARGMAX = 304 / 1 since 0;
    /// ints `keep, dim`: index of the first smallest value. Result u32. No gradient.
    ARGMIN = 305 / 1 since 0;
    /// ints `dim`: running sum along `dim`, same shape.
    CUMSUM = 306 / 1 since 0;

    // ---- shape and selection
    /// in `x`; ints: new shape of as many elements.
    RESHAPE = 400 / 1 since 0;
    /// in `x`; ints: for each new dimension the old one it takes.
    PERMUTE = 401 / 1 since 0;
    /// in `x`; ints `dim, start, length`.
    NARROW = 402 / 1 since 0;
    /// in one tensor or more; ints `dim`: joined along `dim`.
    CAT = 403 / 1 since 0;
    /// in `x`; ints: a shape that `x` broadcasts to.
    BROADCAST_AS = 404 / 1 since 0;
    /// in `x, ids` (`ids`: rank 1, u32 or i64); ints `dim`: slices of `x` along `dim` at `ids`. No gradient for `ids`.
    INDEX_SELECT = 405 / 1 since 0;
    /// in `x, ids` (`ids`: u32 or i64, rank of `x`); ints `dim`: `out[i][j] = x[ids[i][j]][j]` for `dim` 0, and so on. Shape of `ids`.
    GATHER = 406 / 1 since 0;
    /// in `x, ids, src` (`ids`: rank 1, u32 or i64); ints `dim`: `x` with slice `k` of `src` added at `ids[k]` along `dim`.
    INDEX_ADD = 407 / 1 since 0;
    /// in `condition, a, b` (`condition`: u8), all three broadcasting: `a` where the condition is not 0, else `b`. Type of `a`.
    /// No gradient for `condition`, and none leaks from the side not taken.
    WHERE_COND = 408 / 1 since 0;
    /// in `x`; ints `dim, before, after`: zeros added along `dim`.
    PAD_ZEROS = 409 / 1 since 0;
    /// in `x`; ints: dimensions to reverse.
    FLIP = 410 / 1 since 0;

    // ---- linear algebra and network layers
    /// in `a [.., M, K], b [.., K, N]`, leading dimensions broadcasting: `[.., M, N]`.
    MATMUL = 500 / 1 since 0;
    /// in `x [.., I], w [O, I] [, b [O]]`: `x w^T + b`, `[.., O]`.
    LINEAR = 501 / 1 since 0;
    /// in `x`; ints `dim`.
    SOFTMAX = 502 / 1 since 0;
    /// in `x`; ints `dim`.
    LOG_SOFTMAX = 503 / 1 since 0;
    /// in `x [.., D] [, w [D]] [, b [D]]`; ints `has_w, has_b`; floats `eps`: normalised over the last dimension.
    LAYER_NORM = 504 / 1 since 0;
    /// in `x [.., D] [, w [D]]`; ints `has_w`; floats `eps`: divided by the root mean square of the last dimension.
    RMS_NORM = 505 / 1 since 0;
    /// in `x [B, C, ..] [, w [C]] [, b [C]]`; ints `groups, has_w, has_b`; floats `eps`.
    GROUP_NORM = 506 / 1 since 0;
    /// in `x [B, C, H, W], w [O, C / groups, KH, KW] [, b [O]]`; ints `stride, padding, dilation, groups`.
    CONV2D = 507 / 1 since 0;
    /// in `x [B, C, H, W]`; ints `height, width`: nearest neighbour, source index `floor(i * H / height)`.
    UPSAMPLE_NEAREST2D = 508 / 1 since 0;
    /// in `x [B, C, H, W]`; ints `height, width, align_corners`: bilinear, no antialiasing, as PyTorch's `interpolate`.
    INTERPOLATE_BILINEAR2D = 509 / 1 since 0;
    /// in `x [B, C, H, W]`; ints `kernel, stride`: mean over windows, no padding.
    AVG_POOL2D = 510 / 1 since 0;
    /// in `q [B, H, T, D], k [B, H, S, D], v [B, H, S, D]`; floats `scale`: `softmax(scale * q k^T) v`.
    ATTENTION = 511 / 1 since 0;
    /// in `x [B, T, D], shift [B, D], scale [B, D]`; floats `eps`: `norm(x) (1 + scale) + shift`, normalised over the last dimension.
    LAYER_NORM_MODULATE = 512 / 1 since 0;
    /// in `x [B, T, D], gate [B, D], y [B, T, D]`: `x + gate y`.
    GATE_RESIDUAL = 513 / 1 since 0;
    /// As `GROUP_NORM`, through SiLU.
    GROUP_NORM_SILU = 514 / 1 since 0;
    /// in `x [.., 2 D]`: the first half of the last dimension times the exact GELU of the second, `[.., D]`.
    GEGLU = 515 / 1 since 0;
    /// in `base [.., O], x [.., I], w [O, I]`; floats `factor`: `base + factor x w^T`.
    ADD_LINEAR = 516 / 1 since 0;
    /// in `x [B, C r r, H, W]`; ints `r`: `[B, C, r H, r W]`, as PyTorch's.
    PIXEL_SHUFFLE = 517 / 1 since 0;
    /// in `x [B, C, r H, r W]`; ints `r`: `[B, C r r, H, W]`, the inverse.
    PIXEL_UNSHUFFLE = 518 / 1 since 0;

    // ---- type and creation
    /// in `x`; ints `dtype`: converted; floats to whole numbers truncate. Differentiable between floating types.
    TO_DTYPE = 600 / 1 since 0;
    /// [in `like`]; ints `dtype, shape...`; floats `value`: a constant, on the device of `like` or else of the arguments. No gradient.
    FULL = 601 / 1 since 0;
    /// [in `like`]; ints `dtype`; floats `start, end, step`: `start, start + step, ..` while below `end` (above, for a negative step). No gradient.
    ARANGE = 602 / 1 since 0;
}
