//! Every operation of the boundary: it exists, its gradient is the one finite differences give, and its values are PyTorch's.
#![allow(clippy::unwrap_used)]

use candle_core::{DType, Device, Tensor, Var};
use plugin_api::abi::Status;
use plugin_api::ops::{self, Op};

use super::args::Call;
use super::{export, import, run};
use crate::random::Stream;

fn call(
    op: Op,
    inputs: &[&Tensor],
    ints: &[i64],
    floats: &[f64],
) -> Result<Tensor, plugin_api::Error> {
    run(&Call {
        op,
        inputs: inputs.to_vec(),
        ints,
        floats,
        device: None,
    })
}

/// An operation on random inputs: where its gradient is checked, each with its shape and range.
struct Case {
    op: Op,
    inputs: &'static [(&'static [usize], f64, f64)],
    ints: &'static [i64],
    floats: &'static [f64],
}

const fn case(
    op: Op,
    inputs: &'static [(&'static [usize], f64, f64)],
    ints: &'static [i64],
    floats: &'static [f64],
) -> Case {
    Case {
        op,
        inputs,
        ints,
        floats,
    }
}

/// Ranges stay clear of kinks, where finite differences say nothing.
const DIFFERENTIABLE: &[Case] = &[
    case(ops::ABS, &[(&[2, 3], 0.5, 2.0)], &[], &[]),
    case(ops::EXP, &[(&[2, 3], -1.0, 1.0)], &[], &[]),
    case(ops::LOG, &[(&[2, 3], 0.5, 2.0)], &[], &[]),
    case(ops::SQRT, &[(&[2, 3], 0.5, 2.0)], &[], &[]),
    case(ops::SQR, &[(&[2, 3], -1.0, 1.0)], &[], &[]),
    case(ops::RECIP, &[(&[2, 3], 0.5, 2.0)], &[], &[]),
    case(ops::COS, &[(&[2, 3], -1.0, 1.0)], &[], &[]),
    case(ops::SIN, &[(&[2, 3], -1.0, 1.0)], &[], &[]),
    case(ops::TANH, &[(&[2, 3], -1.0, 1.0)], &[], &[]),
    case(ops::ERF, &[(&[2, 3], -1.0, 1.0)], &[], &[]),
    case(ops::ACOS, &[(&[2, 3], -0.8, 0.8)], &[], &[]),
    case(ops::RELU, &[(&[2, 3], 0.1, 1.0)], &[], &[]),
    case(ops::GELU_TANH, &[(&[2, 3], -2.0, 2.0)], &[], &[]),
    case(ops::GELU_ERF, &[(&[2, 3], -2.0, 2.0)], &[], &[]),
    case(ops::SILU, &[(&[2, 3], -2.0, 2.0)], &[], &[]),
    case(ops::SIGMOID, &[(&[2, 3], -2.0, 2.0)], &[], &[]),
    case(ops::AFFINE, &[(&[2, 3], -1.0, 1.0)], &[], &[3.0, -1.0]),
    case(ops::POWF, &[(&[2, 3], 0.5, 2.0)], &[], &[1.7]),
    case(
        ops::CLAMP,
        &[(&[2, 3], -0.4, 0.4)],
        &[],
        &[-0.5, f64::INFINITY],
    ),
    case(
        ops::ADD,
        &[(&[2, 3], -1.0, 1.0), (&[3], -1.0, 1.0)],
        &[],
        &[],
    ),
    case(
        ops::SUB,
        &[(&[2, 1], -1.0, 1.0), (&[2, 3], -1.0, 1.0)],
        &[],
        &[],
    ),
    case(
        ops::MUL,
        &[(&[2, 3], -1.0, 1.0), (&[], -1.0, 1.0)],
        &[],
        &[],
    ),
    case(
        ops::DIV,
        &[(&[2, 3], -1.0, 1.0), (&[1, 3], 0.5, 2.0)],
        &[],
        &[],
    ),
    case(
        ops::MAXIMUM,
        &[(&[2, 3], 0.0, 1.0), (&[3], 2.0, 3.0)],
        &[],
        &[],
    ),
    case(
        ops::MINIMUM,
        &[(&[2, 3], 0.0, 1.0), (&[3], 2.0, 3.0)],
        &[],
        &[],
    ),
    case(ops::SUM, &[(&[2, 3, 4], -1.0, 1.0)], &[0, 0, 2], &[]),
    case(ops::MEAN, &[(&[2, 3, 4], -1.0, 1.0)], &[1, 1], &[]),
    case(ops::MAX, &[(&[2, 3, 4], -1.0, 1.0)], &[0, 1, 2], &[]),
    case(ops::MIN, &[(&[2, 3, 4], -1.0, 1.0)], &[0], &[]),
    case(ops::CUMSUM, &[(&[2, 3, 4], -1.0, 1.0)], &[1], &[]),
    case(ops::RESHAPE, &[(&[2, 6], -1.0, 1.0)], &[3, 4], &[]),
    case(ops::PERMUTE, &[(&[2, 3, 4], -1.0, 1.0)], &[2, 0, 1], &[]),
    case(ops::NARROW, &[(&[2, 5], -1.0, 1.0)], &[1, 1, 3], &[]),
    case(
        ops::CAT,
        &[
            (&[2, 2], -1.0, 1.0),
            (&[2, 3], -1.0, 1.0),
            (&[2, 1], -1.0, 1.0),
        ],
        &[1],
        &[],
    ),
    case(ops::BROADCAST_AS, &[(&[2, 1], -1.0, 1.0)], &[3, 2, 4], &[]),
    case(ops::PAD_ZEROS, &[(&[2, 3], -1.0, 1.0)], &[1, 2, 1], &[]),
    case(ops::FLIP, &[(&[2, 3], -1.0, 1.0)], &[0, 1], &[]),
    case(
        ops::MATMUL,
        &[(&[2, 3, 4], -1.0, 1.0), (&[4, 5], -1.0, 1.0)],
        &[],
        &[],
    ),
    case(
        ops::LINEAR,
        &[
            (&[2, 3, 4], -1.0, 1.0),
            (&[5, 4], -1.0, 1.0),
            (&[5], -1.0, 1.0),
        ],
        &[],
        &[],
    ),
    case(ops::SOFTMAX, &[(&[2, 3, 4], -1.0, 1.0)], &[1], &[]),
    case(ops::LOG_SOFTMAX, &[(&[2, 3, 4], -1.0, 1.0)], &[2], &[]),
    case(
        ops::LAYER_NORM,
        &[
            (&[2, 3, 4], -1.0, 1.0),
            (&[4], -1.0, 1.0),
            (&[4], -1.0, 1.0),
        ],
        &[1, 1],
        &[1e-5],
    ),
    case(
        ops::LAYER_NORM,
        &[(&[2, 4], -1.0, 1.0), (&[4], -1.0, 1.0)],
        &[0, 1],
        &[1e-5],
    ),
    case(
        ops::RMS_NORM,
        &[(&[2, 3, 4], -1.0, 1.0), (&[4], -1.0, 1.0)],
        &[1],
        &[1e-5],
    ),
    case(
        ops::GROUP_NORM,
        &[
            (&[2, 4, 3], -1.0, 1.0),
            (&[4], -1.0, 1.0),
            (&[4], -1.0, 1.0),
        ],
        &[2, 1, 1],
        &[1e-5],
    ),
    case(
        ops::GROUP_NORM,
        &[(&[2, 4, 3], -1.0, 1.0), (&[4], -1.0, 1.0)],
        &[2, 0, 1],
        &[1e-5],
    ),
    case(
        ops::CONV2D,
        &[
            (&[2, 4, 5, 6], -1.0, 1.0),
            (&[6, 2, 3, 3], -1.0, 1.0),
            (&[6], -1.0, 1.0),
        ],
        &[1, 1, 1, 2],
        &[],
    ),
    // Rows left over (8 - 3 is no multiple of 2) and columns not: where candle's own backward goes wrong.
    case(
        ops::CONV2D,
        &[(&[1, 2, 8, 7], -1.0, 1.0), (&[3, 2, 3, 3], -1.0, 1.0)],
        &[2, 0, 1, 1],
        &[],
    ),
    case(
        ops::CONV2D,
        &[(&[1, 2, 8, 9], -1.0, 1.0), (&[3, 2, 3, 3], -1.0, 1.0)],
        &[2, 1, 2, 1],
        &[],
    ),
    case(
        ops::UPSAMPLE_NEAREST2D,
        &[(&[1, 2, 3, 2], -1.0, 1.0)],
        &[7, 4],
        &[],
    ),
    case(
        ops::INTERPOLATE_BILINEAR2D,
        &[(&[1, 2, 3, 4], -1.0, 1.0)],
        &[5, 2, 0],
        &[],
    ),
    case(ops::AVG_POOL2D, &[(&[1, 2, 5, 4], -1.0, 1.0)], &[2, 2], &[]),
    case(ops::AVG_POOL2D, &[(&[1, 2, 5, 4], -1.0, 1.0)], &[3, 1], &[]),
    case(
        ops::ATTENTION,
        &[
            (&[1, 2, 3, 4], -1.0, 1.0),
            (&[1, 2, 5, 4], -1.0, 1.0),
            (&[1, 2, 5, 4], -1.0, 1.0),
        ],
        &[],
        &[0.5],
    ),
    case(
        ops::LAYER_NORM_MODULATE,
        &[
            (&[2, 3, 4], -1.0, 1.0),
            (&[2, 4], -1.0, 1.0),
            (&[2, 4], -1.0, 1.0),
        ],
        &[],
        &[1e-5],
    ),
    case(
        ops::GATE_RESIDUAL,
        &[
            (&[2, 3, 4], -1.0, 1.0),
            (&[2, 4], -1.0, 1.0),
            (&[2, 3, 4], -1.0, 1.0),
        ],
        &[],
        &[],
    ),
    case(
        ops::GROUP_NORM_SILU,
        &[
            (&[2, 4, 3], -1.0, 1.0),
            (&[4], -1.0, 1.0),
            (&[4], -1.0, 1.0),
        ],
        &[2, 1, 1],
        &[1e-5],
    ),
    case(ops::GEGLU, &[(&[2, 3, 4], -1.0, 1.0)], &[], &[]),
    case(
        ops::ADD_LINEAR,
        &[
            (&[2, 3, 5], -1.0, 1.0),
            (&[2, 3, 4], -1.0, 1.0),
            (&[5, 4], -1.0, 1.0),
        ],
        &[],
        &[0.7],
    ),
    case(ops::PIXEL_SHUFFLE, &[(&[1, 8, 2, 3], -1.0, 1.0)], &[2], &[]),
    case(
        ops::PIXEL_UNSHUFFLE,
        &[(&[1, 2, 4, 6], -1.0, 1.0)],
        &[2],
        &[],
    ),
];

fn random(shape: &[usize], low: f64, high: f64, stream: &mut Stream) -> Tensor {
    let uniform = stream
        .uniform(shape, &Device::Cpu)
        .unwrap()
        .to_dtype(DType::F64)
        .unwrap();
    uniform.affine(high - low, low).unwrap()
}

fn flat(tensor: &Tensor) -> Vec<f64> {
    tensor
        .to_dtype(DType::F64)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// Compares the gradient of `sum(weights * f(inputs))` with central differences, for every element of every input.
fn check_gradient(name: &str, inputs: &[Tensor], f: impl Fn(&[&Tensor]) -> Tensor) {
    let mut stream = Stream::new(5, name);
    let vars: Vec<Var> = inputs
        .iter()
        .map(|input| Var::from_tensor(input).unwrap())
        .collect();
    let tracked: Vec<&Tensor> = vars.iter().map(Var::as_tensor).collect();
    let output = f(&tracked);
    let weights = random(output.dims(), -1.0, 1.0, &mut stream);
    let loss = |output: &Tensor| (output * &weights).unwrap().sum_all().unwrap();
    let gradients = loss(&output).backward().unwrap();
    for (index, input) in inputs.iter().enumerate() {
        let gradient = gradients.get(tracked[index]);
        let gradient =
            flat(gradient.unwrap_or_else(|| panic!("{name}: input {index} has no gradient")));
        let values = flat(input);
        for element in 0..values.len() {
            let at = |delta: f64| {
                let mut moved = values.clone();
                moved[element] += delta;
                let moved = Tensor::from_vec(moved, input.shape(), &Device::Cpu).unwrap();
                let mut all: Vec<&Tensor> = inputs.iter().collect();
                all[index] = &moved;
                loss(&f(&all)).to_scalar::<f64>().unwrap()
            };
            let expected = (at(1e-5) - at(-1e-5)) / 2e-5;
            let got = gradient[element];
            assert!(
                (got - expected).abs() <= 1e-5 * (1.0 + expected.abs()),
                "{name}: input {index}, element {element}: gradient {got}, finite difference {expected}"
            );
        }
    }
}

#[test]
fn gradients_are_those_of_finite_differences() {
    for case in DIFFERENTIABLE {
        let mut stream = Stream::new(7, case.op.name);
        let draw =
            |&(shape, low, high): &(&[usize], f64, f64)| random(shape, low, high, &mut stream);
        let inputs: Vec<Tensor> = case.inputs.iter().map(draw).collect();
        check_gradient(case.op.name, &inputs, |inputs| {
            call(case.op, inputs, case.ints, case.floats).unwrap()
        });
    }
}

#[test]
fn selections_pass_gradients_to_what_they_selected() {
    let mut stream = Stream::new(7, "selection");
    let x = random(&[3, 4], -1.0, 1.0, &mut stream);
    let ids = Tensor::new(&[2u32, 0, 2], &Device::Cpu).unwrap();
    check_gradient("index_select", std::slice::from_ref(&x), |x| {
        call(ops::INDEX_SELECT, &[x[0], &ids], &[0], &[]).unwrap()
    });
    let each = Tensor::new(&[[3i64, 0], [1, 1], [0, 2]], &Device::Cpu).unwrap();
    check_gradient("gather", std::slice::from_ref(&x), |x| {
        call(ops::GATHER, &[x[0], &each], &[1], &[]).unwrap()
    });
    let source = random(&[3, 3], -1.0, 1.0, &mut stream);
    check_gradient("index_add", &[x.clone(), source], |x| {
        call(ops::INDEX_ADD, &[x[0], &ids, x[1]], &[1], &[]).unwrap()
    });
    let condition = Tensor::new(&[[1u8], [0], [1]], &Device::Cpu).unwrap();
    let other = random(&[1, 4], -1.0, 1.0, &mut stream);
    check_gradient("where_cond", &[x.clone(), other], |x| {
        call(ops::WHERE_COND, &[&condition, x[0], x[1]], &[], &[]).unwrap()
    });
    let single = |x: &Tensor| {
        call(
            ops::TO_DTYPE,
            &[x],
            &[i64::from(plugin_api::DType::F64.0)],
            &[],
        )
        .unwrap()
    };
    check_gradient("to_dtype", &[x], |x| single(x[0]));
}

#[test]
fn every_operation_is_tried_here() {
    let elsewhere = [
        ops::FLOOR,
        ops::CEIL,
        ops::ROUND,
        ops::SIGN,
        ops::DETACH,
        ops::EQ,
        ops::NE,
        ops::LT,
        ops::LE,
        ops::GT,
        ops::GE,
        ops::ARGMAX,
        ops::ARGMIN,
        ops::INDEX_SELECT,
        ops::GATHER,
        ops::INDEX_ADD,
        ops::WHERE_COND,
        ops::TO_DTYPE,
        ops::FULL,
        ops::ARANGE,
    ];
    for op in ops::ALL {
        let tried = DIFFERENTIABLE.iter().any(|case| case.op == *op) || elsewhere.contains(op);
        assert!(tried, "{} is not tried", op.name);
    }
}

fn vector(values: &[f32]) -> Tensor {
    Tensor::new(values, &Device::Cpu).unwrap()
}

#[test]
fn rounding_and_comparison_give_the_stated_values_and_no_gradient() {
    let x = Var::from_tensor(&vector(&[-2.5, -0.4, 0.0, 0.5, 2.5])).unwrap();
    let values = |op| flat(&call(op, &[x.as_tensor()], &[], &[]).unwrap());
    assert_eq!(values(ops::FLOOR), [-3.0, -1.0, 0.0, 0.0, 2.0]);
    assert_eq!(values(ops::CEIL), [-2.0, 0.0, 0.0, 1.0, 3.0]);
    assert_eq!(values(ops::ROUND), [-3.0, 0.0, 0.0, 1.0, 3.0]);
    assert_eq!(values(ops::SIGN), [-1.0, -1.0, 0.0, 1.0, 1.0]);
    let half = vector(&[0.0, -0.4, 1.0, 0.5, 0.0]);
    let compare = |op| flat(&call(op, &[x.as_tensor(), &half], &[], &[]).unwrap());
    assert_eq!(compare(ops::EQ), [0.0, 1.0, 0.0, 1.0, 0.0]);
    assert_eq!(compare(ops::NE), [1.0, 0.0, 1.0, 0.0, 1.0]);
    assert_eq!(compare(ops::LT), [1.0, 0.0, 1.0, 0.0, 0.0]);
    assert_eq!(compare(ops::LE), [1.0, 1.0, 1.0, 1.0, 0.0]);
    assert_eq!(compare(ops::GT), [0.0, 0.0, 0.0, 0.0, 1.0]);
    assert_eq!(compare(ops::GE), [0.0, 1.0, 0.0, 1.0, 1.0]);
    for op in [ops::FLOOR, ops::CEIL, ops::ROUND, ops::SIGN, ops::DETACH] {
        assert!(
            !call(op, &[x.as_tensor()], &[], &[]).unwrap().track_op(),
            "{}",
            op.name
        );
    }
    assert!(
        !call(ops::GT, &[x.as_tensor(), &half], &[], &[])
            .unwrap()
            .track_op()
    );
}

#[test]
fn a_comparison_inside_a_loss_does_not_break_backward() {
    let x = Var::from_tensor(&vector(&[-1.0, 2.0])).unwrap();
    let zero = vector(&[0.0, 0.0]);
    let above = call(ops::GT, &[x.as_tensor(), &zero], &[], &[]).unwrap();
    let kept = call(ops::WHERE_COND, &[&above, x.as_tensor(), &zero], &[], &[]).unwrap();
    let rounded = call(ops::CEIL, &[x.as_tensor()], &[], &[]).unwrap();
    let whole = call(
        ops::TO_DTYPE,
        &[x.as_tensor()],
        &[i64::from(plugin_api::DType::U32.0)],
        &[],
    )
    .unwrap();
    let whole = call(
        ops::TO_DTYPE,
        &[&whole],
        &[i64::from(plugin_api::DType::F32.0)],
        &[],
    )
    .unwrap();
    let loss = ((kept * rounded).unwrap() + whole)
        .unwrap()
        .sum_all()
        .unwrap();
    let gradients = loss.backward().unwrap();
    assert_eq!(flat(gradients.get(x.as_tensor()).unwrap()), [0.0, 2.0]);
}

#[test]
fn gradients_at_kinks_are_the_stated_ones() {
    let gradient = |op, values: &[f32], floats: &[f64]| {
        let x = Var::from_tensor(&vector(values)).unwrap();
        let y = call(op, &[x.as_tensor()], &[], floats).unwrap();
        (
            flat(&y),
            flat(
                y.sum_all()
                    .unwrap()
                    .backward()
                    .unwrap()
                    .get(x.as_tensor())
                    .unwrap(),
            ),
        )
    };
    let (values, gradients) = gradient(ops::CLAMP, &[-2.0, -1.0, 0.0, 1.0, 2.0], &[-1.0, 1.0]);
    assert_eq!(values, [-1.0, -1.0, 0.0, 1.0, 1.0]);
    assert_eq!(gradients, [0.0, 1.0, 1.0, 1.0, 0.0]);
    assert!(gradient(ops::CLAMP, &[f32::NAN], &[-1.0, 1.0]).0[0].is_nan());
    assert_eq!(
        gradient(ops::ABS, &[-2.0, 0.0, 3.0], &[]).1,
        [-1.0, 0.0, 1.0]
    );
    let (values, gradients) = gradient(ops::ACOS, &[1.0, -1.0, 0.0], &[]);
    assert!((values[1] - std::f64::consts::PI).abs() < 1e-6 && values[0] == 0.0);
    assert_eq!(gradients, [-1e6, -1e6, -1.0]);
    assert!(gradient(ops::ACOS, &[1.5], &[]).0[0].is_nan());
    assert_eq!(gradient(ops::POWF, &[0.0, 2.0], &[2.0]).1, [0.0, 4.0]);
    assert_eq!(gradient(ops::SIGMOID, &[-200.0, 200.0], &[]).1, [0.0, 0.0]);
}

#[test]
fn resampling_is_pytorchs() {
    let x = Tensor::arange(0f32, 6.0, &Device::Cpu)
        .unwrap()
        .reshape((1, 1, 2, 3))
        .unwrap();
    // torch.nn.functional.interpolate(x, (3, 5), mode="bilinear", align_corners=False)
    let expected = [
        0.0, 0.4, 1.0, 1.6, 2.0, 1.5, 1.9, 2.5, 3.1, 3.5, 3.0, 3.4, 4.0, 4.6, 5.0,
    ];
    let got = flat(&call(ops::INTERPOLATE_BILINEAR2D, &[&x], &[3, 5, 0], &[]).unwrap());
    assert!(
        got.iter()
            .zip(expected)
            .all(|(got, expected)| (got - expected).abs() < 1e-6),
        "{got:?}"
    );
    // ... align_corners=True
    let expected = [
        0.0, 0.5, 1.0, 1.5, 2.0, 1.5, 2.0, 2.5, 3.0, 3.5, 3.0, 3.5, 4.0, 4.5, 5.0,
    ];
    let got = flat(&call(ops::INTERPOLATE_BILINEAR2D, &[&x], &[3, 5, 1], &[]).unwrap());
    assert!(
        got.iter()
            .zip(expected)
            .all(|(got, expected)| (got - expected).abs() < 1e-6),
        "{got:?}"
    );
    let got = flat(&call(ops::UPSAMPLE_NEAREST2D, &[&x], &[3, 4], &[]).unwrap());
    assert_eq!(
        got,
        [0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 1.0, 2.0, 3.0, 3.0, 4.0, 5.0]
    );
    let got = flat(&call(ops::AVG_POOL2D, &[&x], &[2, 1], &[]).unwrap());
    assert_eq!(got, [2.0, 3.0]);
}

#[test]
fn creation_and_conversion() {
    let code = |dtype: plugin_api::DType| i64::from(dtype.0);
    let full = call(
        ops::FULL,
        &[],
        &[code(plugin_api::DType::U32), 2, 2],
        &[7.0],
    )
    .unwrap();
    assert_eq!(
        (full.dtype(), full.dims(), flat(&full)),
        (DType::U32, &[2, 2][..], vec![7.0; 4])
    );
    let scalar = call(ops::FULL, &[], &[code(plugin_api::DType::F32)], &[0.5]).unwrap();
    assert_eq!(scalar.dims(), &[] as &[usize]);
    let range = |start, end, step| {
        flat(
            &call(
                ops::ARANGE,
                &[],
                &[code(plugin_api::DType::I64)],
                &[start, end, step],
            )
            .unwrap(),
        )
    };
    assert_eq!(range(0.0, 3.0, 1.0), [0.0, 1.0, 2.0]);
    assert_eq!(range(3.0, -1.0, -2.0), [3.0, 1.0]);
    assert_eq!(range(0.0, 0.0, 1.0), [] as [f64; 0]);
    let truncated = call(
        ops::TO_DTYPE,
        &[&vector(&[-1.7, 1.7])],
        &[code(plugin_api::DType::I64)],
        &[],
    )
    .unwrap();
    assert_eq!(flat(&truncated), [-1.0, 1.0]);
    let ids = call(ops::ARGMAX, &[&vector(&[1.0, 3.0, 3.0])], &[0, 0], &[]).unwrap();
    assert_eq!((ids.dtype(), flat(&ids)), (DType::U32, vec![1.0]));
    assert_eq!(
        flat(&call(ops::ARGMIN, &[&vector(&[1.0, -3.0])], &[1, 0], &[]).unwrap()),
        [1.0]
    );
}

#[test]
fn what_does_not_fit_is_refused_with_a_sentence() {
    let (x, ids) = (
        vector(&[1.0, 2.0]),
        Tensor::new(&[0u32, 1], &Device::Cpu).unwrap(),
    );
    let image = Tensor::zeros((1, 1, 2, 2), DType::F32, &Device::Cpu).unwrap();
    for (op, inputs, ints, floats, part) in [
        (ops::ADD, vec![&x], vec![], vec![], "input 1 is missing"),
        (
            ops::ADD,
            vec![&x, &ids],
            vec![],
            vec![],
            "element types f32 and u32 differ",
        ),
        (
            ops::EXP,
            vec![&ids],
            vec![],
            vec![],
            "needs a floating-point tensor, got u32",
        ),
        (
            ops::SUM,
            vec![&x],
            vec![0, 3],
            vec![],
            "no dimension 3 in shape [2]",
        ),
        (
            ops::NARROW,
            vec![&x],
            vec![0, 1, 2],
            vec![],
            "2 entries from 1 on leave dimension 0, which has 2",
        ),
        (ops::NARROW, vec![&x], vec![0, -1, 2], vec![], "below 0"),
        (ops::RESHAPE, vec![&x], vec![3], vec![], "reshape"),
        (ops::PERMUTE, vec![&x], vec![1], vec![], "permute"),
        (
            ops::GATHER,
            vec![&x, &x],
            vec![0],
            vec![],
            "indices must be u32 or i64, got f32",
        ),
        (
            ops::WHERE_COND,
            vec![&x, &x, &x],
            vec![],
            vec![],
            "the condition must be u8, got f32",
        ),
        (
            ops::CONV2D,
            vec![&x, &x],
            vec![1, 0, 1, 1],
            vec![],
            "needs 4 dimensions",
        ),
        (
            ops::CONV2D,
            vec![&image, &image.repeat((1, 1, 3, 3)).unwrap()],
            vec![1, 0, 1, 1],
            vec![],
            "conv2d: the kernel reaches",
        ),
        (
            ops::UPSAMPLE_NEAREST2D,
            vec![&image],
            vec![2, 0],
            vec![],
            "argument 1 is 0",
        ),
        (ops::AVG_POOL2D, vec![&image], vec![3, 1], vec![], "larger"),
        (
            ops::CLAMP,
            vec![&x],
            vec![],
            vec![1.0, 0.0],
            "low 1 is above high 0",
        ),
        (
            ops::ARANGE,
            vec![],
            vec![6],
            vec![0.0, 1.0, 0.0],
            "no range",
        ),
        (
            ops::FULL,
            vec![],
            vec![99, 1],
            vec![0.0],
            "no element type 99",
        ),
    ] {
        let error = call(op, &inputs, &ints, &floats).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(part), "{}: {text}", op.name);
        assert_eq!(error.status(), Status::INVALID, "{}: {text}", op.name);
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_tensor_goes_through_the_boundary_and_back_with_its_graph() {
    let x = Var::from_tensor(&vector(&[1.0, 2.0])).unwrap();
    let handle = export(x.as_tensor());
    assert_eq!(
        (handle.dims(), handle.dtype()),
        (vec![2], plugin_api::DType::F32)
    );
    let tripled = (&handle.clone() * 3.0).unwrap();
    assert_eq!(tripled.to_vec::<f64>().unwrap(), [3.0, 6.0]);
    assert_eq!(tripled.to_vec::<u8>().unwrap(), [3, 6]);
    drop(handle);
    let loss = import(&tripled).unwrap().sum_all().unwrap();
    assert_eq!(
        flat(loss.backward().unwrap().get(x.as_tensor()).unwrap()),
        [3.0, 3.0]
    );
}

#[test]
fn a_panic_below_the_boundary_is_an_error_above_it() {
    let shape_error = export(&vector(&[1.0]))
        .matmul(&export(&vector(&[1.0, 2.0])))
        .unwrap_err();
    assert!(!shape_error.to_string().is_empty());
    let unknown = super::run(&Call {
        op: Op {
            code: 150,
            revision: 1,
            name: "SPLINE",
            since: 9,
        },
        inputs: vec![&vector(&[1.0])],
        ints: &[],
        floats: &[],
        device: None,
    });
    assert_eq!(
        unknown.unwrap_err().to_string(),
        "Unsupported: host has no spline/1"
    );
}
