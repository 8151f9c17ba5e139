//! Scaled dot-product attention (Vaswani et al. 2017) that keeps no `[B, H, T, S]` tensor.
//!
//! Scores live only in tiles of `TILE` queries by `TILE` keys, one or two a thread (Milakov and Gimelshein 2018; Dao et al. 2022). Forward keeps the largest
//! score and the sum of exponentials of each query, from which backward computes the tiles again.

use std::borrow::Cow;
use std::sync::OnceLock;

use candle_core::{D, Result, Shape, Tensor};
use rayon::prelude::*;

use super::fresh::{with_scratch, zeros};
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::gemm::{Matrix, Threads, Write, product};
use super::simd::{exp, exp_above, max, multiversion, sum_with};

/// Most queries and keys of a tile: its scores fit in a core's own cache, and each product in it is large enough to be worth packing.
const TILE: usize = 256;
/// Fewest queries of a tile.
const SMALL_TILE: usize = 64;
/// How many tasks a forward pass is cut into if there are queries enough; fixed, so that results do not depend on the thread count.
const TASKS: usize = 16;

/// `softmax(q kᵀ scale) v`, softmax over the keys, for each sample and head.
///
/// # Shapes
/// `q [B, H, T, D]`, `k [B, H, S, D]`, `v [B, H, S, E]` → `[B, H, T, E]`, whose memory is `[B, T, H, E]`: merging the heads
/// (`transpose(1, 2)` and a reshape) costs nothing. Any strides; nothing is copied unless the last dimension is strided.
///
/// # Errors
/// If the shapes do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, scale: f64) -> Result<Tensor> {
    let ((b, h, _, d), (kb, kh, s, kd), (vb, vh, vs, _)) = (q.dims4()?, k.dims4()?, v.dims4()?);
    if (kb, kh, kd) != (b, h, d) || (vb, vh, vs) != (b, h, s) {
        candle_core::bail!(
            "attention: q {:?}, k {:?} and v {:?} do not fit",
            q.dims(),
            k.dims(),
            v.dims()
        );
    }
    if fast(&[q, k, v]) {
        return apply(Attention::new(Heads::Second, scale), &[q, k, v])?.transpose(1, 2);
    }
    let scores = (q.contiguous()?.matmul(&k.t()?.contiguous()?)? * scale)?;
    super::softmax(&scores, D::Minus1)?.matmul(&v.contiguous()?)
}

/// [`attention`] of heads that lie side by side in the last dimension, as linear layers give and take them: no transposition,
/// neither forward nor backward.
///
/// # Shapes
/// `q [B, T, H D]`, `k [B, S, H D]`, `v [B, S, H E]` → `[B, T, H E]`.
///
/// # Errors
/// If the shapes do not fit or do not divide by `heads`.
pub fn attention_tokens(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    heads: usize,
    scale: f64,
) -> Result<Tensor> {
    let ((b, t, c), (kb, s, kc), (vb, vs, vc)) = (q.dims3()?, k.dims3()?, v.dims3()?);
    let divides = heads > 0 && c % heads == 0 && vc % heads == 0;
    if (kb, kc) != (b, c) || (vb, vs) != (b, s) || !divides {
        let (q, k, v) = (q.dims(), k.dims(), v.dims());
        candle_core::bail!(
            "attention: q {q:?}, k {k:?} and v {v:?} do not fit, or do not divide into {heads} heads"
        );
    }
    if fast(&[q, k, v]) {
        return apply(Attention::new(Heads::Last(heads), scale), &[q, k, v]);
    }
    let split = |x: &Tensor| {
        let (b, t, c) = x.dims3()?;
        x.reshape((b, t, heads, c / heads))?.transpose(1, 2)
    };
    attention(&split(q)?, &split(k)?, &split(v)?, scale)?
        .transpose(1, 2)?
        .reshape((b, t, vc))
}

/// Where the heads are.
#[derive(Clone, Copy)]
enum Heads {
    /// `[B, H, T, D]` → `[B, T, H, D]`
    Second,
    /// `[B, T, H D]` → `[B, T, H D]`, this many.
    Last(usize),
}

struct Attention {
    heads: Heads,
    scale: f32,
    /// Of each query, `[B, T, H]`, once forward has run.
    rows: OnceLock<Vec<Row>>,
}

impl Attention {
    fn new(heads: Heads, scale: f64) -> Self {
        Self {
            heads,
            scale: scale as f32,
            rows: OnceLock::new(),
        }
    }
}

/// What turns a query's scores into weights: `exp(score scale - top) / sum`.
#[derive(Clone, Copy)]
struct Row {
    top: f32,
    sum: f32,
}

const NOTHING_SEEN: Row = Row {
    top: f32::NEG_INFINITY,
    sum: 0.0,
};

/// The tiles of a dimension: first element and extent of each, as even as they can be.
fn tiles(extent: usize) -> impl Iterator<Item = (usize, usize)> {
    let size = extent.div_ceil(extent.div_ceil(TILE).max(1)).max(1);
    (0..extent)
        .step_by(size)
        .map(move |first| (first, size.min(extent - first)))
}

/// One operand, by heads.
struct Split<'a> {
    data: Cow<'a, [f32]>,
    /// Batch, heads, tokens, width of a head.
    dims: [usize; 4],
    /// Elements between samples, heads and tokens; the elements of a head lie together.
    stride: [usize; 3],
}

impl<'a> Split<'a> {
    fn new(x: Input<'a>, heads: Heads) -> Self {
        let (d, s) = (x.dims(), x.layout.stride());
        let (dims, stride, inner) = match heads {
            Heads::Second => ([d[0], d[1], d[2], d[3]], [s[0], s[1], s[2]], s[3]),
            Heads::Last(h) => (
                [d[0], h, d[1], d[2] / h],
                [s[0], d[2] / h * s[2], s[1]],
                s[2],
            ),
        };
        if inner == 1 {
            let data = x.data[x.layout.start_offset()..].into();
            return Self { data, dims, stride };
        }
        let [_, h, t, w] = dims;
        let stride = match heads {
            Heads::Second => [h * t * w, t * w, w],
            Heads::Last(_) => [h * t * w, w, h * w],
        };
        let data = x.contiguous();
        Self { data, dims, stride }
    }

    /// A tensor of the output's shape, whose memory is `[B, T, H, W]`.
    fn output(x: Input<'a>, [b, h, t, w]: [usize; 4]) -> Self {
        Self {
            data: x.contiguous(),
            dims: [b, h, t, w],
            stride: [h * t * w, w, h * w],
        }
    }

    /// Rows of one head, `count` from token `first` on.
    fn rows(&self, batch: usize, head: usize, first: usize, count: usize) -> Matrix<'_> {
        let [by_batch, by_head, by_token] = self.stride;
        let start = batch * by_batch + head * by_head + first * by_token;
        Matrix::strided(&self.data[start..], [count, self.dims[3]], [by_token, 1])
    }
}

const REPLACE: Write = Write::Replace { scale: 1.0 };
const ADD: Write = Write::Add { scale: 1.0 };

impl Function for Attention {
    const NAME: &'static str = "attention";
    const READS_OUTPUT: bool = true;

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (q, k, v) = (
            Split::new(inputs[0], self.heads),
            Split::new(inputs[1], self.heads),
            Split::new(inputs[2], self.heads),
        );
        let ([b, h, t, _], s, e) = (q.dims, k.dims[2], v.dims[3]);
        let shape = match self.heads {
            Heads::Second => Shape::from((b, t, h, e)),
            Heads::Last(_) => Shape::from((b, t, h * e)),
        };
        let mut out = zeros(b * t * h * e);
        if out.is_empty() || s == 0 {
            return Ok((out, shape));
        }
        let block = (b * t).div_ceil(TASKS).clamp(SMALL_TILE, TILE);
        let token = h * e;
        let mut rows = vec![NOTHING_SEEN; b * t * h];
        out.par_chunks_mut(t * token)
            .zip(rows.par_chunks_mut(t * h))
            .enumerate()
            .for_each(|(batch, (out, rows))| {
                out.par_chunks_mut(block * token)
                    .zip(rows.par_chunks_mut(block * h))
                    .enumerate()
                    .for_each(|(index, (out, rows))| {
                        let count = out.len() / token;
                        with_scratch(count * TILE.min(s), |scores| {
                            for head in 0..h {
                                let q = q.rows(batch, head, index * block, count);
                                let (out, rows) = (&mut out[head * e..], &mut rows[head..]);
                                for (first, width) in tiles(s) {
                                    let scores = &mut scores[..count * width];
                                    let k = k.rows(batch, head, first, width);
                                    product(scores, width, q, k.t(), REPLACE, Threads::One);
                                    exponentials(
                                        scores,
                                        width,
                                        self.scale,
                                        rows,
                                        h,
                                        out,
                                        [token, e],
                                    );
                                    let scores = Matrix::new(scores, count, width);
                                    let v = v.rows(batch, head, first, width);
                                    product(out, token, scores, v, ADD, Threads::One);
                                }
                                divide(out, [token, e], rows, h);
                            }
                        });
                    });
            });
        // Forward runs once; a second result would be the same.
        let _ = self.rows.set(rows);
        Ok((out, shape))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        output: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let held = [
            Held::new(inputs[0]),
            Held::new(inputs[1]),
            Held::new(inputs[2]),
        ];
        let (q, k, v) = (
            Split::new(held[0].input()?, self.heads),
            Split::new(held[1].input()?, self.heads),
            Split::new(held[2].input()?, self.heads),
        );
        let [b, h, t, d] = q.dims;
        let (s, e) = (k.dims[2], v.dims[3]);
        let (held_grad, held_output) = (Held::new(grad), Held::new(output));
        let task = HeadBackward {
            rows: self.rows.get().map_or(&[], Vec::as_slice),
            output: Split::output(held_output.input()?, [b, h, t, e]),
            grad: Split::output(held_grad.input()?, [b, h, t, e]),
            wanted: [0, 1, 2].map(|i| inputs[i].track_op()),
            q,
            k,
            v,
            scale: self.scale,
        };
        let mut grads = [t * d, s * d, s * e].map(|elements| zeros(b * h * elements));
        if grads.iter().any(Vec::is_empty) {
            return Ok(vec![None, None, None]);
        }
        let [q_grad, k_grad, v_grad] = &mut grads;
        q_grad
            .par_chunks_mut(h * t * d)
            .zip(
                k_grad
                    .par_chunks_mut(h * s * d)
                    .zip(v_grad.par_chunks_mut(h * s * e)),
            )
            .enumerate()
            .for_each(|(batch, (q_grad, (k_grad, v_grad)))| {
                q_grad
                    .par_chunks_mut(t * d)
                    .zip(
                        k_grad
                            .par_chunks_mut(s * d)
                            .zip(v_grad.par_chunks_mut(s * e)),
                    )
                    .enumerate()
                    .for_each(|(head, (q_grad, (k_grad, v_grad)))| {
                        task.run(batch, head, q_grad, k_grad, v_grad)
                    });
                if let Heads::Last(heads) = self.heads {
                    interleave(q_grad, heads, d);
                    interleave(k_grad, heads, d);
                    interleave(v_grad, heads, e);
                }
            });
        let grads = grads.into_iter().zip(inputs).zip(task.wanted);
        grads
            .map(|((grad, input), wanted)| wanted.then(|| tensor(grad, input.shape())).transpose())
            .collect()
    }
}

/// What the backward pass of every head reads.
struct HeadBackward<'a> {
    q: Split<'a>,
    k: Split<'a>,
    v: Split<'a>,
    output: Split<'a>,
    grad: Split<'a>,
    /// As [`Attention::rows`].
    rows: &'a [Row],
    /// Whether the gradient of the queries, keys and values is.
    wanted: [bool; 3],
    scale: f32,
}

impl HeadBackward<'_> {
    /// Writes the gradients of one head: `[T, D]`, `[S, D]`, `[S, E]`, all zero before.
    fn run(
        &self,
        batch: usize,
        head: usize,
        q_grad: &mut [f32],
        k_grad: &mut [f32],
        v_grad: &mut [f32],
    ) {
        let ([_, heads, t, d], [.., s, e]) = (self.q.dims, self.v.dims);
        let scaled = Write::Add { scale: self.scale };
        let size = TILE.min(t) * TILE.min(s);
        with_scratch(2 * size + TILE.min(t), |scratch| {
            let (weights, scratch) = scratch.split_at_mut(size);
            let (scores_grad, along) = scratch.split_at_mut(size);
            for (query, count) in tiles(t) {
                let q = self.q.rows(batch, head, query, count);
                let grad = self.grad.rows(batch, head, query, count);
                let output = self.output.rows(batch, head, query, count);
                let rows = &self.rows[(batch * t + query) * heads + head..];
                let q_grad = &mut q_grad[query * d..(query + count) * d];
                let along = &mut along[..count];
                row_products(output.data(), grad.data(), [heads * e, e], along);
                for (key, width) in tiles(s) {
                    let weights = &mut weights[..count * width];
                    let scores_grad = &mut scores_grad[..count * width];
                    let k = self.k.rows(batch, head, key, width);
                    product(weights, width, q, k.t(), REPLACE, Threads::One);
                    probabilities(weights, width, self.scale, rows, heads);
                    if self.wanted[2] {
                        let v_grad = &mut v_grad[key * e..(key + width) * e];
                        let weights = Matrix::new(weights, count, width);
                        product(v_grad, e, weights.t(), grad, ADD, Threads::One);
                    }
                    if !self.wanted[0] && !self.wanted[1] {
                        continue;
                    }
                    let v = self.v.rows(batch, head, key, width);
                    product(scores_grad, width, grad, v.t(), REPLACE, Threads::One);
                    softmax_backward(weights, width, along, scores_grad);
                    let scores_grad = Matrix::new(scores_grad, count, width);
                    if self.wanted[0] {
                        product(q_grad, d, scores_grad, k, scaled, Threads::One);
                    }
                    if self.wanted[1] {
                        let k_grad = &mut k_grad[key * d..(key + width) * d];
                        product(k_grad, d, scores_grad.t(), q, scaled, Threads::One);
                    }
                }
            }
        });
    }
}

/// `[H, T, W]` to `[T, H, W]`.
fn interleave(x: &mut [f32], heads: usize, width: usize) {
    let apart = x.to_vec();
    let token = heads * width;
    for (head, rows) in apart.chunks_exact(x.len() / heads).enumerate() {
        for (to, row) in x.chunks_exact_mut(token).zip(rows.chunks_exact(width)) {
            to[head * width..(head + 1) * width].copy_from_slice(row);
        }
    }
}

multiversion! {
    /// Turns the scores of a tile into exponentials, and fits what was summed over the tiles before (`rows` and the first `e` of every `token` outputs) to
    /// the largest score so far. Each `stride`-th of `rows` is of this head.
    fn exponentials(scores: &mut [f32], width: usize, scale: f32, rows: &mut [Row], stride: usize, out: &mut [f32], shape: [usize; 2]) {
        let [token, e] = shape;
        for ((scores, row), out) in scores.chunks_exact_mut(width).zip(rows.iter_mut().step_by(stride)).zip(out.chunks_mut(token)) {
            let top = max(scores) * scale;
            let top = if top > row.top { top } else { row.top };
            let shrink = exp(row.top - top);
            let sum = exp_above(scores, scale, top);
            if row.sum > 0.0 && shrink != 1.0 {
                for out in &mut out[..e] {
                    *out *= shrink;
                }
            }
            *row = Row { top, sum: row.sum * shrink + sum };
        }
    }
}

multiversion! {
    /// Divides each row's outputs by its sum.
    fn divide(out: &mut [f32], shape: [usize; 2], rows: &[Row], stride: usize) {
        let [token, e] = shape;
        for (out, row) in out.chunks_mut(token).zip(rows.iter().step_by(stride)) {
            let factor = 1.0 / row.sum;
            for out in &mut out[..e] {
                *out *= factor;
            }
        }
    }
}

multiversion! {
    /// The weights of a tile from its scores.
    fn probabilities(scores: &mut [f32], width: usize, scale: f32, rows: &[Row], stride: usize) {
        for (scores, row) in scores.chunks_exact_mut(width).zip(rows.iter().step_by(stride)) {
            let factor = 1.0 / row.sum;
            for x in scores.iter_mut() {
                *x = exp(*x * scale - row.top) * factor;
            }
        }
    }
}

multiversion! {
    /// The scalar products of rows, the first `e` of every `token` elements.
    fn row_products(a: &[f32], b: &[f32], shape: [usize; 2], out: &mut [f32]) {
        let [token, e] = shape;
        for ((out, a), b) in out.iter_mut().zip(a.chunks(token)).zip(b.chunks(token)) {
            *out = sum_with(&a[..e], &b[..e], |a, b| a * b);
        }
    }
}

multiversion! {
    /// Turns the gradient of a tile's weights into that of its scores; `along` is, for each query, the sum of weights times gradients over all keys.
    fn softmax_backward(weights: &[f32], width: usize, along: &[f32], grad: &mut [f32]) {
        for ((weights, grad), along) in weights.chunks_exact(width).zip(grad.chunks_exact_mut(width)).zip(along) {
            for (grad, &weight) in grad.iter_mut().zip(weights) {
                *grad = weight * (*grad - along);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn attention_is_right() {
        check(&[&[2, 3, 5, 4], &[2, 3, 5, 4], &[2, 3, 5, 4]], |x| {
            attention(&x[0], &x[1], &x[2], 0.5)
        });
        // Cross-attention with values of another width, and one sample of one token.
        check(&[&[1, 2, 7, 3], &[1, 2, 11, 3], &[1, 2, 11, 5]], |x| {
            attention(&x[0], &x[1], &x[2], 0.3)
        });
        check(&[&[1, 1, 1, 8], &[1, 1, 1, 8], &[1, 1, 1, 8]], |x| {
            attention(&x[0], &x[1], &x[2], 0.35)
        });
    }

    #[test]
    fn attention_of_tokens_is_right() {
        check(&[&[2, 5, 12], &[2, 5, 12], &[2, 5, 12]], |x| {
            attention_tokens(&x[0], &x[1], &x[2], 3, 0.5)
        });
        check(&[&[1, 7, 6], &[1, 3, 6], &[1, 3, 10]], |x| {
            attention_tokens(&x[0], &x[1], &x[2], 2, 0.3)
        });
    }

    #[test]
    fn queries_and_keys_beyond_a_tile_are_right() {
        let t = TILE + SMALL_TILE + 3;
        check(&[&[2, t, 8], &[2, 9, 8], &[2, 9, 8]], |x| {
            attention_tokens(&x[0], &x[1], &x[2], 2, 0.5)
        });
        check(&[&[1, 2, t, 3], &[1, 2, t, 3], &[1, 2, t, 3]], |x| {
            attention(&x[0], &x[1], &x[2], 0.5)
        });
    }

    #[test]
    fn scores_that_grow_from_tile_to_tile_are_right() {
        // Keys whose scores rise by hundreds along the sequence: every tile outweighs those before it.
        let t = 2 * TILE + 5;
        let ramp = || {
            let ramp: Vec<f32> = (0..t).map(|i| i as f32).collect();
            Tensor::from_vec(ramp, (1, 1, t, 1), &candle_core::Device::Cpu)
        };
        let run = |x: &Tensor, k: &Tensor| -> Result<Vec<f32>> {
            attention(x, k, k, 1.0)?.flatten_all()?.to_vec1()
        };
        let k = ramp().expect("a ramp");
        let q = (k.ones_like()).expect("ones");
        let found = run(&q, &k).expect("attention");
        let weights: Vec<f64> = (0..t).map(|i| (-(i as f64)).exp()).collect();
        let sum: f64 = weights.iter().sum();
        let expected = (t - 1) as f64
            - weights
                .iter()
                .enumerate()
                .map(|(i, w)| i as f64 * w / sum)
                .sum::<f64>();
        for value in found {
            assert!(
                (f64::from(value) - expected).abs() < 1e-3,
                "{value} is not {expected}"
            );
        }
    }

    #[test]
    fn self_attention_of_one_tensor_sums_three_gradients() {
        check(&[&[2, 5, 12]], |x| {
            attention_tokens(&x[0], &x[0], &x[0], 3, 0.5)
        });
    }

    #[test]
    fn attention_equals_pytorch() {
        check_golden("attention", |x| attention(&x[0], &x[1], &x[2], 0.3));
        check_golden("attention_tokens", |x| {
            attention_tokens(&x[0], &x[1], &x[2], 3, 0.3)
        });
    }
}
