//! Nearest-neighbour resizing.

use std::ops::Range;

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::function::{Function, Held, Input, apply, fast, tensor};

/// Resizes images to `h` by `w`: output row `i` is input row `floor(i H / h)`, and columns likewise.
///
/// Candle's own upsampling overwrites the gradient that its input has from elsewhere; this one adds to it.
///
/// # Shapes
/// `x [B, C, H, W]` → `[B, C, h, w]`.
///
/// # Errors
/// If `x` has another rank or an empty side.
pub fn upsample_nearest2d(x: &Tensor, h: usize, w: usize) -> Result<Tensor> {
    let (_, _, rows, columns) = x.dims4()?;
    if rows == 0 || columns == 0 {
        candle_core::bail!("upsample_nearest2d: x {:?} is empty", x.dims());
    }
    if fast(&[x]) {
        return apply(Upsample { h, w }, &[x]);
    }
    let pick = |from: usize, to: usize| {
        let indices: Vec<u32> = (0..to).map(|i| source(i, from, to) as u32).collect();
        Tensor::from_vec(indices, to, x.device())
    };
    x.contiguous()?
        .index_select(&pick(rows, h)?, 2)?
        .index_select(&pick(columns, w)?, 3)
}

/// The input index that output index `i` shows.
fn source(i: usize, from: usize, to: usize) -> usize {
    i * from / to
}

/// The output indices that show input index `i`.
fn shown(i: usize, from: usize, to: usize) -> Range<usize> {
    (i * to).div_ceil(from)..((i + 1) * to).div_ceil(from)
}

struct Upsample {
    h: usize,
    w: usize,
}

impl Function for Upsample {
    const NAME: &'static str = "upsample_nearest2d";

    fn reads(&self, _: &[&Tensor], _: usize) -> bool {
        false
    }

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let dims = inputs[0].dims();
        let (rows, columns) = (dims[2], dims[3]);
        let x = inputs[0].contiguous();
        let mut out = vec![0.0; dims[0] * dims[1] * self.h * self.w];
        if !out.is_empty() {
            let from: Vec<usize> = (0..self.w).map(|j| source(j, columns, self.w)).collect();
            out.par_chunks_mut(self.h * self.w)
                .zip(x.par_chunks(rows * columns))
                .for_each(|(out, x)| {
                    for (i, out) in out.chunks_exact_mut(self.w).enumerate() {
                        let x = &x[source(i, rows, self.h) * columns..][..columns];
                        for (out, &from) in out.iter_mut().zip(&from) {
                            *out = x[from];
                        }
                    }
                });
        }
        Ok((out, (dims[0], dims[1], self.h, self.w).into()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let (_, _, rows, columns) = inputs[0].dims4()?;
        if !inputs[0].track_op() || grad.elem_count() == 0 {
            return Ok(vec![None]);
        }
        let held = Held::new(grad);
        let grad = held.input()?.contiguous();
        let mut out = vec![0.0; inputs[0].elem_count()];
        out.par_chunks_mut(rows * columns)
            .zip(grad.par_chunks(self.h * self.w))
            .for_each(|(out, grad)| {
                for (i, out) in out.chunks_exact_mut(columns).enumerate() {
                    for row in shown(i, rows, self.h) {
                        let grad = &grad[row * self.w..][..self.w];
                        for (j, out) in out.iter_mut().enumerate() {
                            *out += grad[shown(j, columns, self.w)].iter().sum::<f32>();
                        }
                    }
                }
            });
        Ok(vec![Some(tensor(out, inputs[0].shape())?)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn upsampling_is_right_at_any_ratio() {
        check(&[&[2, 3, 4, 5]], |x| upsample_nearest2d(&x[0], 8, 10));
        check(&[&[1, 1, 3, 2]], |x| upsample_nearest2d(&x[0], 7, 5));
        check(&[&[1, 2, 5, 4]], |x| upsample_nearest2d(&x[0], 3, 9));
    }

    #[test]
    fn every_output_shows_one_input() {
        for (from, to) in [(3, 7), (7, 3), (1, 4), (5, 5), (64, 130)] {
            for i in 0..to {
                let showing: Vec<_> = (0..from)
                    .filter(|&s| shown(s, from, to).contains(&i))
                    .collect();
                assert_eq!(showing, [source(i, from, to)]);
            }
        }
    }

    #[test]
    fn upsampling_equals_pytorch() {
        check_golden("upsample_nearest2d", |x| upsample_nearest2d(&x[0], 7, 10));
    }
}
