//! One check for every operation: values, gradients, frozen operands, accumulation, strides, threads.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Result, Tensor, Var};

use crate::ops::autograd::Recording;
use crate::random::Stream;

/// A function of several tensors, as [`check`] takes it.
pub(super) trait Operation: Fn(&[Tensor]) -> Result<Tensor> + Sync {}
impl<F: Fn(&[Tensor]) -> Result<Tensor> + Sync> Operation for F {}

/// Value and gradients of `Σ weight f(inputs)`, the gradient absent where the operand is not tracked.
struct Outcome {
    value: Tensor,
    grads: Vec<Option<Tensor>>,
}

fn run(f: &dyn Operation, inputs: &[Tensor], tracked: &[bool]) -> Outcome {
    let operands: Vec<(Option<Var>, Tensor)> = inputs
        .iter()
        .zip(tracked)
        .map(|(input, &tracked)| match tracked {
            true => {
                let var = Var::from_tensor(input).unwrap();
                (Some(var.clone()), var.as_tensor().clone())
            }
            false => (None, input.clone()),
        })
        .collect();
    let tensors: Vec<Tensor> = operands.iter().map(|(_, tensor)| tensor.clone()).collect();
    let value = f(&tensors).unwrap();
    let grads = gradients(&value, &operands);
    Outcome { value, grads }
}

/// Fixed weights of a loss, so that no gradient is symmetric by accident.
fn weights(like: &Tensor) -> Tensor {
    Stream::new(99, "loss")
        .normal(like.shape(), &Device::Cpu)
        .unwrap()
        .to_dtype(like.dtype())
        .unwrap()
}

fn gradients(value: &Tensor, operands: &[(Option<Var>, Tensor)]) -> Vec<Option<Tensor>> {
    let loss = weighted(value);
    if !loss.track_op() {
        return operands.iter().map(|_| None).collect();
    }
    let store = loss.backward().unwrap();
    operands
        .iter()
        .map(|(var, tensor)| match var {
            Some(var) => Some(
                store
                    .get(var)
                    .expect("a tracked operand has a gradient")
                    .clone(),
            ),
            None => {
                assert!(
                    store.get(tensor).is_none(),
                    "a frozen operand has a gradient"
                );
                None
            }
        })
        .collect()
}

fn weighted(value: &Tensor) -> Tensor {
    (value * weights(value)).unwrap().sum_all().unwrap()
}

pub(super) fn flat(tensor: &Tensor) -> Vec<f64> {
    let tensor = tensor.to_dtype(DType::F64).unwrap();
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// Asserts closeness relative to the largest expected element; where all are tiny, to what rounding leaves of a sum of numbers near one that is zero.
#[track_caller]
pub(super) fn assert_close(actual: &Tensor, expected: &Tensor, tolerance: f64, what: &str) {
    assert_eq!(actual.dims(), expected.dims(), "{what}: shape");
    let (actual, expected) = (flat(actual), flat(expected));
    let size = expected.iter().fold(1e-2, |a: f64, b| a.max(b.abs()));
    for (i, (a, e)) in actual.iter().zip(&expected).enumerate() {
        assert!(
            (a - e).abs() <= tolerance * size,
            "{what}[{i}]: {a} is not {e} (size {size})"
        );
    }
}

/// The same elements, lying transposed inside a larger storage.
fn strided(input: &Tensor) -> Tensor {
    let order: Vec<usize> = (0..input.rank()).rev().collect();
    let padded = input.pad_with_zeros(0, 1, 2).unwrap();
    let turned = padded.permute(order.clone()).unwrap().contiguous().unwrap();
    let back = turned.permute(order).unwrap();
    back.narrow(0, 1, input.dim(0).unwrap()).unwrap()
}

/// Checks an operation on standard normal inputs of the given shapes: the fast path against the f64 composition, that against
/// finite differences, and every promise of the module.
#[track_caller]
pub(super) fn check(shapes: &[&[usize]], f: impl Operation) {
    let mut stream = Stream::new(5, "inputs");
    let inputs: Vec<Tensor> = shapes
        .iter()
        .map(|&shape| stream.normal(shape, &Device::Cpu).unwrap())
        .collect();
    let exact: Vec<Tensor> = inputs
        .iter()
        .map(|x| x.to_dtype(DType::F64).unwrap())
        .collect();
    let all = vec![true; inputs.len()];
    let fast = run(&f, &inputs, &all);
    let reference = run(&f, &exact, &all);
    assert_close(&fast.value, &reference.value, 2e-5, "value");
    for (i, grad) in fast.grads.iter().enumerate() {
        let (grad, expected) = (grad.as_ref().unwrap(), reference.grads[i].as_ref().unwrap());
        assert_close(grad, expected, 5e-5, &format!("gradient {i}"));
    }
    check_finite_differences(&f, &exact, &reference);
    check_frozen(&f, &inputs, &fast);
    check_used_twice(&f, &inputs, &fast);
    check_strides(&f, &inputs, &fast);
    check_threads(&f, &inputs);
    check_recorded(&f, &inputs, &fast);
}

/// On a tape: the same bits as in candle's graph, also where candle's own operations stand around.
fn check_recorded(f: &dyn Operation, inputs: &[Tensor], full: &Outcome) {
    let vars: Vec<Var> = inputs
        .iter()
        .map(|x| Var::from_tensor(x).unwrap())
        .collect();
    let operands: Vec<Tensor> = vars.iter().map(|var| var.as_tensor().clone()).collect();
    let gradients = |f: &dyn Operation| {
        let recording = Recording::start();
        let loss = weighted(&f(&operands).unwrap());
        let mut gradients = recording.backward(&loss).unwrap();
        vars.iter()
            .map(|var| gradients.remove(var).expect("a gradient"))
            .collect::<Vec<_>>()
    };
    let plain = gradients(f);
    for (grad, full) in plain.iter().zip(&full.grads) {
        assert_eq!(
            flat(grad),
            flat(full.as_ref().unwrap()),
            "gradient on a tape"
        );
    }
    let around = |x: &[Tensor]| {
        let doubled: Vec<Tensor> = x
            .iter()
            .map(|x| (x + x)?.affine(0.5, 0.0))
            .collect::<Result<_>>()?;
        f(&doubled)?.reshape(full.value.dims())? * 3.0
    };
    for (grad, plain) in gradients(&around).iter().zip(&plain) {
        assert_close(
            grad,
            &(plain * 3.0).unwrap(),
            1e-5,
            "gradient through candle and a tape",
        );
    }
}

fn check_finite_differences(f: &dyn Operation, inputs: &[Tensor], reference: &Outcome) {
    const STEP: f64 = 1e-5;
    let loss = |inputs: &[Tensor]| {
        let value = f(inputs).unwrap();
        (&value * weights(&value))
            .unwrap()
            .sum_all()
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    for (i, input) in inputs.iter().enumerate() {
        let grad = flat(reference.grads[i].as_ref().unwrap());
        let values = flat(input);
        let size = grad.iter().fold(1e-3, |a: f64, b| a.max(b.abs()));
        // A sample of the elements: each costs two forward passes.
        for j in (0..values.len()).step_by(values.len().div_ceil(7).max(1)) {
            let moved = |by: f64| {
                let mut values = values.clone();
                values[j] += by;
                let mut inputs = inputs.to_vec();
                inputs[i] = Tensor::from_vec(values, input.shape(), &Device::Cpu).unwrap();
                loss(&inputs)
            };
            let slope = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
            assert!(
                (slope - grad[j]).abs() < 1e-6 * size.max(1.0),
                "slope {i}[{j}]: {slope} is not {}",
                grad[j]
            );
        }
    }
}

fn check_frozen(f: &dyn Operation, inputs: &[Tensor], full: &Outcome) {
    for mask in 0..1usize << inputs.len() {
        let tracked: Vec<bool> = (0..inputs.len()).map(|i| mask >> i & 1 == 1).collect();
        let outcome = run(f, inputs, &tracked);
        assert_eq!(
            flat(&outcome.value),
            flat(&full.value),
            "value, tracked {tracked:?}"
        );
        assert_eq!(outcome.value.track_op(), mask != 0);
        for ((grad, full), tracked) in outcome.grads.iter().zip(&full.grads).zip(tracked) {
            assert_eq!(
                grad.as_ref().map(flat),
                full.as_ref().filter(|_| tracked).map(flat)
            );
        }
    }
}

fn check_used_twice(f: &dyn Operation, inputs: &[Tensor], full: &Outcome) {
    // x feeds the operation twice and, around it, something else.
    let twice = |inputs: &[Tensor]| {
        let around = inputs
            .iter()
            .try_fold(0f64.into(), |sum: Sum, x| sum.add(x))?;
        (f(inputs)? + f(inputs)?)?.broadcast_add(&around.0.unwrap())
    };
    let outcome = run(&twice, inputs, &vec![true; inputs.len()]);
    let shift = flat(&weights(&full.value)).iter().sum::<f64>();
    for (grad, full) in outcome.grads.iter().zip(&full.grads) {
        let expected = ((full.as_ref().unwrap() * 2.0).unwrap() + shift).unwrap();
        assert_close(
            grad.as_ref().unwrap(),
            &expected,
            1e-5,
            "gradient of an input used twice",
        );
    }
}

/// A sum of sums, to reach every input by a second path.
struct Sum(Option<Tensor>);

impl From<f64> for Sum {
    fn from(_: f64) -> Self {
        Self(None)
    }
}

impl Sum {
    fn add(self, x: &Tensor) -> Result<Self> {
        let sum = x.sum_all()?;
        Ok(Self(Some(match self.0 {
            Some(before) => (before + sum)?,
            None => sum,
        })))
    }
}

fn check_strides(f: &dyn Operation, inputs: &[Tensor], full: &Outcome) {
    // The view is made inside, so that its gradient comes back through it.
    let viewed = |inputs: &[Tensor]| f(&inputs.iter().map(strided).collect::<Vec<_>>());
    assert!(!strided(&inputs[0]).is_contiguous() || inputs[0].rank() < 2);
    let outcome = run(&viewed, inputs, &vec![true; inputs.len()]);
    assert_close(&outcome.value, &full.value, 1e-5, "value of strided inputs");
    for (grad, full) in outcome.grads.iter().zip(&full.grads) {
        assert_close(
            grad.as_ref().unwrap(),
            full.as_ref().unwrap(),
            1e-5,
            "gradient of strided inputs",
        );
    }
}

fn check_threads(f: &dyn Operation, inputs: &[Tensor]) {
    let bits = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| {
            let outcome = run(f, inputs, &vec![true; inputs.len()]);
            let grads: Vec<_> = outcome
                .grads
                .iter()
                .map(|grad| flat(grad.as_ref().unwrap()))
                .collect();
            (flat(&outcome.value), grads)
        })
    };
    assert!(bits(1) == bits(3), "results depend on the thread count");
}

/// The values that `tests/goldens/ops.py` wrote.
pub(super) fn goldens() -> std::collections::HashMap<String, Tensor> {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/ops/ops.safetensors"
    );
    candle_core::safetensors::load(path, &Device::Cpu).unwrap()
}

/// Checks an operation against every PyTorch case of this name.
#[track_caller]
pub(super) fn check_golden(name: &str, f: impl Operation) {
    let cases = (0..).take_while(|case| goldens().contains_key(&format!("{name}/{case}/out")));
    let checked = cases.map(|case| check_golden_case(name, case, &f)).count();
    assert!(checked > 0, "no golden case is called {name}");
}

/// Checks an operation against one PyTorch case, on operands that lie in order and on operands that do not.
#[track_caller]
pub(super) fn check_golden_case(name: &str, case: usize, f: impl Operation) {
    let goldens = goldens();
    let get = |what: &str| goldens.get(&format!("{name}/{case}/{what}"));
    let inputs: Vec<Var> = (0..)
        .map_while(|j| get(&format!("in.{j}")))
        .map(|x| Var::from_tensor(x).unwrap())
        .collect();
    for view in [Tensor::clone, strided] {
        let operands: Vec<Tensor> = inputs.iter().map(|x| view(x.as_tensor())).collect();
        let value = f(&operands).unwrap();
        assert_close(&value, get("out").unwrap(), 1e-5, &format!("{name}/{case}"));
        let loss = (value * get("weight").unwrap()).unwrap();
        let grads = loss.sum_all().unwrap().backward().unwrap();
        for (j, input) in inputs.iter().enumerate() {
            let expected = get(&format!("grad.{j}")).unwrap();
            let what = format!("{name}/{case} gradient {j}");
            assert_close(grads.get(input).unwrap(), expected, 2e-5, &what);
        }
    }
}
