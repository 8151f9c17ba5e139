//! Scaled dot-product attention (Vaswani et al. 2017) that keeps no `[B, H, T, S]` tensor.
//!
//! Scores live only in a buffer of `BLOCK` queries a thread; backward computes them again from the queries and the keys.

use std::borrow::Cow;

use candle_core::{D, Result, Shape, Tensor};
use rayon::prelude::*;

use super::function::{Function, Held, Input, apply, fast, tensor};
use super::gemm::{Matrix, Threads, Write, product};
use super::simd::{exp_row, multiversion, sum_with};

/// Queries whose scores are in memory at a time, for each thread.
const BLOCK: usize = 64;

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
        return apply(
            Attention {
                heads: Heads::Second,
                scale: scale as f32,
            },
            &[q, k, v],
        )?
        .transpose(1, 2);
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
        return apply(
            Attention {
                heads: Heads::Last(heads),
                scale: scale as f32,
            },
            &[q, k, v],
        );
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

impl Function for Attention {
    const NAME: &'static str = "attention";

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
        let mut out = vec![0.0; b * t * h * e];
        if out.is_empty() || s == 0 {
            return Ok((out, shape));
        }
        let token = h * e;
        out.par_chunks_mut(t * token)
            .enumerate()
            .for_each(|(batch, out)| {
                out.par_chunks_mut(BLOCK * token)
                    .enumerate()
                    .for_each(|(block, out)| {
                        let count = out.len() / token;
                        let mut scores = vec![0.0; count * s];
                        for head in 0..h {
                            let q = q.rows(batch, head, block * BLOCK, count);
                            let k = k.rows(batch, head, 0, s);
                            product(&mut scores, s, q, k.t(), REPLACE, Threads::One);
                            probabilities(&mut scores, s, self.scale);
                            let v = v.rows(batch, head, 0, s);
                            product(
                                &mut out[head * e..],
                                token,
                                Matrix::new(&scores, count, s),
                                v,
                                REPLACE,
                                Threads::One,
                            );
                        }
                    });
            });
        Ok((out, shape))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
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
        let held_grad = Held::new(grad);
        let task = HeadBackward {
            grad: Split::output(held_grad.input()?, [b, h, t, e]),
            wanted: [0, 1, 2].map(|i| inputs[i].track_op()),
            q,
            k,
            v,
            scale: self.scale,
        };
        let mut grads = [t * d, s * d, s * e].map(|elements| vec![0.0; b * h * elements]);
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
    grad: Split<'a>,
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
        let ([.., t, d], [.., s, e]) = (self.q.dims, self.v.dims);
        let (k, v) = (
            self.k.rows(batch, head, 0, s),
            self.v.rows(batch, head, 0, s),
        );
        let mut scores = vec![0.0; BLOCK.min(t) * s];
        let mut scores_grad = vec![0.0; scores.len()];
        for (block, q_grad) in q_grad.chunks_mut(BLOCK * d).enumerate() {
            let count = q_grad.len() / d;
            let (scores, scores_grad) = (&mut scores[..count * s], &mut scores_grad[..count * s]);
            let q = self.q.rows(batch, head, block * BLOCK, count);
            let grad = self.grad.rows(batch, head, block * BLOCK, count);
            product(scores, s, q, k.t(), REPLACE, Threads::One);
            probabilities(scores, s, self.scale);
            if self.wanted[2] {
                let weights = Matrix::new(scores, count, s);
                product(
                    v_grad,
                    e,
                    weights.t(),
                    grad,
                    Write::Add { scale: 1.0 },
                    Threads::One,
                );
            }
            if !self.wanted[0] && !self.wanted[1] {
                continue;
            }
            product(scores_grad, s, grad, v.t(), REPLACE, Threads::One);
            softmax_backward(scores, s, scores_grad);
            let scores_grad = Matrix::new(scores_grad, count, s);
            if self.wanted[0] {
                product(
                    q_grad,
                    d,
                    scores_grad,
                    k,
                    Write::Replace { scale: self.scale },
                    Threads::One,
                );
            }
            if self.wanted[1] {
                product(
                    k_grad,
                    d,
                    scores_grad.t(),
                    q,
                    Write::Add { scale: self.scale },
                    Threads::One,
                );
            }
        }
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
    /// Softmax of `scale` times each row.
    fn probabilities(rows: &mut [f32], width: usize, scale: f32) {
        for row in rows.chunks_exact_mut(width) {
            let (_, sum) = exp_row(row, scale);
            let factor = 1.0 / sum;
            for x in row.iter_mut() {
                *x *= factor;
            }
        }
    }
}

multiversion! {
    /// Turns the gradient of each softmax into that of its argument.
    fn softmax_backward(y: &[f32], width: usize, grad: &mut [f32]) {
        for (y, grad) in y.chunks_exact(width).zip(grad.chunks_exact_mut(width)) {
            let along = sum_with(y, grad, |y, grad| y * grad);
            for (grad, &y) in grad.iter_mut().zip(y) {
                *grad = y * (*grad - along);
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
    fn queries_beyond_a_block_are_right() {
        let t = 2 * BLOCK + 3;
        check(&[&[2, t, 8], &[2, 9, 8], &[2, 9, 8]], |x| {
            attention_tokens(&x[0], &x[1], &x[2], 2, 0.5)
        });
        check(&[&[1, 2, t, 3], &[1, 2, t, 3], &[1, 2, t, 3]], |x| {
            attention(&x[0], &x[1], &x[2], 0.5)
        });
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
