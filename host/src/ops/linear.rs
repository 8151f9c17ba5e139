//! The affine map of a linear layer.

use candle_core::{Result, Shape, Tensor};

use super::elementwise::sum_rows;
use super::function::{Function, Held, Input, apply, fast, tensor};
use super::gemm::{Matrix, Threads, Write, biased_product, fresh_product, product};

/// `x wᵀ + b`.
///
/// # Shapes
/// `x [.., I]`, `w [O, I]` (any strides), `b [O]` → `[.., O]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn linear(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    if x.dims().last() != Some(&inputs) || b.is_some_and(|b| b.dims() != [outputs]) {
        let b = b.map(Tensor::dims);
        candle_core::bail!(
            "linear: x {:?} and bias {b:?} do not fit weight [{outputs}, {inputs}]",
            x.dims()
        );
    }
    match b {
        Some(b) if fast(&[x, w, b]) => apply(Linear, &[x, w, b]),
        None if fast(&[x, w]) => apply(Linear, &[x, w]),
        _ => compose(x, w, b),
    }
}

/// `base + factor x wᵀ`: a low-rank update, without a tensor for the update alone.
///
/// # Shapes
/// `base [.., O]`, `x [.., I]`, `w [O, I]` (any strides) → `[.., O]`.
///
/// # Errors
/// If the shapes do not fit.
pub fn add_linear(base: &Tensor, x: &Tensor, w: &Tensor, factor: f64) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let fits = |tensor: &Tensor, width: usize| {
        tensor.dims().split_last().is_some_and(|(&last, leading)| {
            last == width && leading == &base.dims()[..base.rank() - 1]
        })
    };
    if !fits(base, outputs) || !fits(x, inputs) {
        let (base, x) = (base.dims(), x.dims());
        candle_core::bail!(
            "add_linear: base {base:?} and x {x:?} do not fit weight [{outputs}, {inputs}]"
        );
    }
    if fast(&[base, x, w]) {
        return apply(
            AddLinear {
                factor: factor as f32,
            },
            &[base, x, w],
        );
    }
    base + compose(x, w, None)?.affine(factor, 0.0)?
}

fn compose(x: &Tensor, w: &Tensor, b: Option<&Tensor>) -> Result<Tensor> {
    let (outputs, inputs) = w.dims2()?;
    let mut shape = x.dims().to_vec();
    let rows = shape[..shape.len() - 1].iter().product::<usize>();
    if let Some(last) = shape.last_mut() {
        *last = outputs;
    }
    let y = x.reshape((rows, inputs))?.matmul(&w.t()?)?.reshape(shape)?;
    match b {
        Some(b) => y.broadcast_add(b),
        None => Ok(y),
    }
}

struct Linear;

/// A rank 2 operand as it lies in memory.
fn weight(w: Input<'_>) -> Matrix<'_> {
    let (dims, stride) = (w.dims(), w.layout.stride());
    let data = &w.data[w.layout.start_offset()..];
    Matrix::strided(data, [dims[0], dims[1]], [stride[0], stride[1]])
}

impl Function for Linear {
    const NAME: &'static str = "linear";

    fn reads(&self, operands: &[&Tensor], index: usize) -> bool {
        // Each factor for the other one's gradient.
        match index {
            0 => operands[1].track_op(),
            1 => operands[0].track_op(),
            _ => false,
        }
    }

    fn forward(&self, operands: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (x, w) = (operands[0], operands[1]);
        let (outputs, inputs) = (w.dims()[0], w.dims()[1]);
        let leading = &x.dims()[..x.dims().len() - 1];
        let rows = leading.iter().product::<usize>();
        let x = x.contiguous();
        let (x, w) = (Matrix::new(&x, rows, inputs), weight(w).t());
        let out = match operands.get(2) {
            Some(b) => biased_product(x, w, &b.contiguous()),
            None => fresh_product(x, w, 1.0, Threads::All),
        };
        Ok((out, [leading, &[outputs]].concat().into()))
    }

    fn backward(
        &self,
        operands: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let mut grads = gradients(operands[0], operands[1], grad, 1.0)?.to_vec();
        if let Some(b) = operands.get(2) {
            let held = Held::new(grad);
            let sum = || {
                tensor(
                    sum_rows(&held.input()?.contiguous(), b.elem_count()),
                    b.shape(),
                )
            };
            grads.push(b.track_op().then(sum).transpose()?);
        }
        Ok(grads)
    }
}

struct AddLinear {
    factor: f32,
}

impl Function for AddLinear {
    const NAME: &'static str = "linear";

    fn reads(&self, operands: &[&Tensor], index: usize) -> bool {
        // Each factor for the other one's gradient.
        match index {
            1 => operands[2].track_op(),
            2 => operands[1].track_op(),
            _ => false,
        }
    }

    fn forward(&self, operands: &[Input<'_>]) -> Result<(Vec<f32>, Shape)> {
        let (base, x, w) = (operands[0], operands[1], operands[2]);
        let (outputs, inputs) = (w.dims()[0], w.dims()[1]);
        let mut out = base.contiguous().into_owned();
        let x = x.contiguous();
        let rows = x.len().checked_div(inputs).unwrap_or(0);
        let write = Write::Add { scale: self.factor };
        product(
            &mut out,
            outputs,
            Matrix::new(&x, rows, inputs),
            weight(w).t(),
            write,
            Threads::All,
        );
        Ok((out, base.layout.shape().clone()))
    }

    fn backward(
        &self,
        operands: &[&Tensor],
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<Vec<Option<Tensor>>> {
        let base = operands[0].track_op().then(|| grad.clone());
        let [x, w] = gradients(operands[1], operands[2], grad, self.factor)?;
        Ok(vec![base, x, w])
    }
}

/// The gradients of the operands of `factor x wᵀ`, each where it is tracked.
fn gradients(x: &Tensor, w: &Tensor, grad: &Tensor, factor: f32) -> Result<[Option<Tensor>; 2]> {
    let (outputs, inputs) = w.dims2()?;
    let held_grad = Held::new(grad);
    let grad = held_grad.input()?.contiguous();
    let rows = grad.len().checked_div(outputs).unwrap_or(0);
    let grad = Matrix::new(&grad, rows, outputs); // [rows, O]
    let mut grads = [None, None];
    if x.track_op() {
        let held = Held::new(w);
        let out = fresh_product(grad, weight(held.input()?), factor, Threads::All);
        grads[0] = Some(tensor(out, x.shape())?);
    }
    if w.track_op() {
        let held = Held::new(x);
        let x = held.input()?.contiguous();
        let x = Matrix::new(&x, rows, inputs);
        let out = fresh_product(grad.t(), x, factor, Threads::All);
        grads[1] = Some(tensor(out, w.shape())?);
    }
    Ok(grads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{check, check_golden};

    #[test]
    fn linear_is_right() {
        check(&[&[2, 3, 5], &[7, 5], &[7]], |x| {
            linear(&x[0], &x[1], Some(&x[2]))
        });
        check(&[&[1, 19], &[4, 19]], |x| linear(&x[0], &x[1], None));
        check(&[&[6], &[4, 6], &[4]], |x| {
            linear(&x[0], &x[1], Some(&x[2]))
        });
        check(&[&[300, 33], &[65, 33], &[65]], |x| {
            linear(&x[0], &x[1], Some(&x[2]))
        });
    }

    #[test]
    fn add_linear_is_right() {
        check(&[&[2, 3, 7], &[2, 3, 5], &[7, 5]], |x| {
            add_linear(&x[0], &x[1], &x[2], 0.7)
        });
        check(&[&[300, 65], &[300, 4], &[65, 4]], |x| {
            add_linear(&x[0], &x[1], &x[2], -1.0)
        });
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let zeros = |shape: &[usize]| {
            Tensor::zeros(shape, candle_core::DType::F32, &candle_core::Device::Cpu)
        };
        let run = || linear(&zeros(&[2, 5])?, &zeros(&[3, 4])?, None);
        let message = run().expect_err("5 is not 4").to_string();
        assert!(
            message.contains("[2, 5]") && message.contains("[3, 4]"),
            "{message}"
        );
    }

    #[test]
    fn linear_equals_pytorch() {
        check_golden("linear", |x| linear(&x[0], &x[1], Some(&x[2])));
        check_golden("add_linear", |x| add_linear(&x[0], &x[1], &x[2], 0.7));
    }
}
