//! A number for each sample and channel, added to all positions of the channel: how a residual block is told the timestep.

use candle_core::{Result, Shape, Tensor};
use rayon::prelude::*;

use super::function::{Function, Held, Input, apply, fast, tensor};

/// `x + b`, with `b` the same at every position.
///
/// # Shapes
/// `x [B, C, ..]`, `b [B, C]` → `[B, C, ..]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn add_channels(x: &Tensor, b: &Tensor) -> Result<Tensor> {
    if x.rank() < 2 || x.dims()[..2] != *b.dims() {
        candle_core::bail!(
            "add_channels: x {:?} and b {:?} do not fit",
            x.dims(),
            b.dims()
        );
    }
    if fast(&[x, b]) {
        return apply(AddChannels, &[x, b]);
    }
    let mut shape = b.dims().to_vec();
    shape.resize(x.rank(), 1);
    x.broadcast_add(&b.reshape(shape)?)
}

struct AddChannels;

/// Positions of a channel.
fn positions(dims: &[usize]) -> usize {
    dims[2..].iter().product()
}

impl Function for AddChannels {
    const NAME: &'static str = "add_channels";

    fn reads(&self, _: &[&Tensor], _: usize) -> bool {
        false
    }

    fn forward(&self, inputs: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (x, b) = (inputs[0].contiguous(), inputs[1].contiguous());
        let positions = positions(inputs[0].dims());
        let mut out = vec![0.0; x.len()];
        if positions > 0 {
            out.par_chunks_mut(positions)
                .zip(x.par_chunks(positions))
                .zip(b.par_iter())
                .for_each(|((out, x), &b)| {
                    for (out, &x) in out.iter_mut().zip(x) {
                        *out = x + b;
                    }
                });
        }
        Ok((out, inputs[0].layout.shape().clone()))
    }

    fn backward(
        &self,
        inputs: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let sums = match inputs[1].track_op() {
            false => None,
            true => {
                let held = Held::new(grad);
                let flat = held.input()?.contiguous();
                let positions = positions(grad.dims());
                let mut sums = vec![0.0; inputs[1].elem_count()];
                if positions > 0 {
                    sums.par_iter_mut()
                        .zip(flat.par_chunks(positions))
                        .for_each(|(sum, grad)| *sum = lanes(grad));
                }
                Some(tensor(sums, inputs[1].shape())?)
            }
        };
        Ok(vec![inputs[0].track_op().then(|| grad.clone()), sums])
    }
}

/// The sum, in 16 fixed lanes.
fn lanes(values: &[f32]) -> f32 {
    let mut lanes = [0.0; 16];
    for values in values.chunks(lanes.len()) {
        for (lane, value) in lanes.iter_mut().zip(values) {
            *lane += value;
        }
    }
    lanes.iter().sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::check;

    #[test]
    fn a_number_a_channel_is_added_everywhere() {
        check(&[&[2, 3, 4, 5], &[2, 3]], |x| add_channels(&x[0], &x[1]));
        check(&[&[1, 2, 37], &[1, 2]], |x| add_channels(&x[0], &x[1]));
    }

    #[test]
    fn numbers_of_another_count_are_refused() {
        let zeros = |shape: &[usize]| {
            Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu)
        };
        let run = || add_channels(&zeros(&[2, 3, 4])?, &zeros(&[3])?);
        let message = run().expect_err("3 is not 2 x 3").to_string();
        assert!(
            message.contains("[2, 3, 4]") && message.contains("[3]"),
            "{message}"
        );
    }
}
