//! The operations of the test host: clear rather than fast.

use std::sync::{Arc, atomic::AtomicUsize};

use super::tensors::Values;
use crate::{
    DType, Error, Result,
    abi::Status,
    ops::{self, Op},
};

/// Whether the test host has this operation.
pub(super) fn known(op: Op) -> bool {
    unary(op, &[0.0, 0.0]).is_some()
        || binary(op).is_some()
        || reduction(op).is_some()
        || [
            ops::RESHAPE,
            ops::PERMUTE,
            ops::NARROW,
            ops::CAT,
            ops::BROADCAST_AS,
            ops::INDEX_SELECT,
            ops::GATHER,
            ops::WHERE_COND,
            ops::MATMUL,
            ops::LINEAR,
            ops::ADD_LINEAR,
            ops::SOFTMAX,
            ops::TO_DTYPE,
            ops::FULL,
            ops::ARANGE,
            ops::ARGMAX,
            ops::ARGMIN,
        ]
        .contains(&op)
}

fn invalid(message: impl Into<String>) -> Error {
    Error::Host {
        status: Status::INVALID,
        message: message.into(),
    }
}

pub(super) fn run(
    op: Op,
    live: &Arc<AtomicUsize>,
    inputs: &[&Values],
    ints: &[i64],
    floats: &[f64],
) -> Result<Values> {
    if op == ops::FULL || op == ops::ARANGE {
        return create(op, live, ints, floats);
    }
    let first = *inputs.first().ok_or_else(|| invalid("no input"))?;
    if let Some(map) = unary(op, floats) {
        let data = first.data.iter().map(|value| map(*value)).collect();
        return Ok(first.like(first.dtype, first.shape.clone(), data));
    }
    if let Some(combine) = binary(op) {
        return zip(op, first, input(inputs, 1)?, combine);
    }
    let sizes: Vec<usize> = ints.iter().map(|value| *value as usize).collect();
    if let Some(fold) = reduction(op) {
        return reduce(
            first,
            sizes.first() == Some(&1),
            sizes.get(1..).unwrap_or(&[]),
            first.dtype,
            fold,
        );
    }
    match op {
        ops::RESHAPE => Ok(first.like(first.dtype, sizes, first.data.clone())),
        ops::TO_DTYPE => Ok(first.like(
            DType(sizes[0] as u32),
            first.shape.clone(),
            first.data.clone(),
        )),
        ops::ARGMAX => reduce(first, sizes[0] == 1, &sizes[1..], DType::U32, |row| {
            best(row, |a, b| a > b)
        }),
        ops::ARGMIN => reduce(first, sizes[0] == 1, &sizes[1..], DType::U32, |row| {
            best(row, |a, b| a < b)
        }),
        ops::SOFTMAX => softmax(first, sizes[0]),
        ops::MATMUL => matmul(first, input(inputs, 1)?),
        ops::LINEAR => linear(first, input(inputs, 1)?, inputs.get(2).copied()),
        ops::ADD_LINEAR => {
            let update = linear(input(inputs, 1)?, input(inputs, 2)?, None)?;
            let factor = floats.first().copied().unwrap_or(1.0);
            let scaled = update.data.iter().map(|value| value * factor).collect();
            let scaled = update.like(update.dtype, update.shape.clone(), scaled);
            zip(ops::ADD, first, &scaled, |a, b| a + b)
        }
        ops::WHERE_COND => choose(first, input(inputs, 1)?, input(inputs, 2)?),
        ops::CAT => cat(inputs, sizes[0]),
        _ => select(op, first, inputs, &sizes),
    }
}

fn input<'a>(inputs: &[&'a Values], index: usize) -> Result<&'a Values> {
    inputs
        .get(index)
        .copied()
        .ok_or_else(|| invalid("an input is missing"))
}

fn unary(op: Op, floats: &[f64]) -> Option<Box<dyn Fn(f64) -> f64>> {
    let float = |index: usize| floats.get(index).copied().unwrap_or(0.0);
    let (a, b) = (float(0), float(1));
    Some(match op {
        ops::ABS => Box::new(f64::abs),
        ops::EXP => Box::new(f64::exp),
        ops::LOG => Box::new(f64::ln),
        ops::SQRT => Box::new(f64::sqrt),
        ops::SQR => Box::new(|x| x * x),
        ops::RECIP => Box::new(f64::recip),
        ops::COS => Box::new(f64::cos),
        ops::SIN => Box::new(f64::sin),
        ops::TANH => Box::new(f64::tanh),
        ops::ACOS => Box::new(f64::acos),
        ops::RELU => Box::new(|x| x.max(0.0)),
        ops::SILU => Box::new(|x| x / (1.0 + (-x).exp())),
        ops::SIGMOID => Box::new(|x| 1.0 / (1.0 + (-x).exp())),
        ops::FLOOR => Box::new(f64::floor),
        ops::CEIL => Box::new(f64::ceil),
        ops::ROUND => Box::new(f64::round),
        ops::SIGN => Box::new(|x| if x == 0.0 { 0.0 } else { x.signum() }),
        ops::DETACH => Box::new(|x| x),
        ops::AFFINE => Box::new(move |x| x * a + b),
        ops::POWF => Box::new(move |x| x.powf(a)),
        ops::CLAMP => Box::new(move |x| x.max(a).min(b)),
        _ => return None,
    })
}

fn binary(op: Op) -> Option<fn(f64, f64) -> f64> {
    Some(match op {
        ops::ADD => |a, b| a + b,
        ops::SUB => |a, b| a - b,
        ops::MUL => |a, b| a * b,
        ops::DIV => |a, b| a / b,
        ops::MAXIMUM => f64::max,
        ops::MINIMUM => f64::min,
        ops::EQ => |a, b| f64::from(a == b),
        ops::NE => |a, b| f64::from(a != b),
        ops::LT => |a, b| f64::from(a < b),
        ops::LE => |a, b| f64::from(a <= b),
        ops::GT => |a, b| f64::from(a > b),
        ops::GE => |a, b| f64::from(a >= b),
        _ => return None,
    })
}

fn reduction(op: Op) -> Option<fn(&[f64]) -> f64> {
    Some(match op {
        ops::SUM => |row| row.iter().sum(),
        ops::MEAN => |row| row.iter().sum::<f64>() / row.len() as f64,
        ops::MAX => |row| row.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        ops::MIN => |row| row.iter().copied().fold(f64::INFINITY, f64::min),
        _ => return None,
    })
}

fn best(row: &[f64], better: fn(f64, f64) -> bool) -> f64 {
    let mut at = 0;
    for (index, value) in row.iter().enumerate() {
        if better(*value, row[at]) {
            at = index;
        }
    }
    at as f64
}

fn create(op: Op, live: &Arc<AtomicUsize>, ints: &[i64], floats: &[f64]) -> Result<Values> {
    let dtype = DType(*ints.first().ok_or_else(|| invalid("no element type"))? as u32);
    if op == ops::FULL {
        let shape: Vec<usize> = ints[1..].iter().map(|value| *value as usize).collect();
        let data = vec![floats[0]; shape.iter().product()];
        return Ok(Values::new(live, dtype, shape, data));
    }
    let [start, end, step] = *floats else {
        return Err(invalid("arange wants three numbers"));
    };
    let count = ((end - start) / step).ceil().max(0.0) as usize;
    let data = (0..count)
        .map(|index| start + step * index as f64)
        .collect();
    Ok(Values::new(live, dtype, vec![count], data))
}

/// Distance between neighbours along each dimension of a row-major tensor.
fn strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1; shape.len()];
    for dim in (1..shape.len()).rev() {
        strides[dim - 1] = strides[dim] * shape[dim];
    }
    strides
}

/// Coordinates of element `index`.
fn coordinates(mut index: usize, shape: &[usize]) -> Vec<usize> {
    let mut at = vec![0; shape.len()];
    for dim in (0..shape.len()).rev() {
        at[dim] = index % shape[dim];
        index /= shape[dim];
    }
    at
}

fn element(values: &Values, at: &[usize]) -> f64 {
    let strides = strides(&values.shape);
    values.data[at
        .iter()
        .zip(&strides)
        .map(|(at, stride)| at * stride)
        .sum::<usize>()]
}

/// A new tensor whose element at each place `f` computes.
fn build(like: &Values, dtype: DType, shape: Vec<usize>, f: impl Fn(&[usize]) -> f64) -> Values {
    let count = shape.iter().product();
    let data = (0..count)
        .map(|index| f(&coordinates(index, &shape)))
        .collect();
    like.like(dtype, shape, data)
}

fn broadcast_shape(a: &[usize], b: &[usize]) -> Result<Vec<usize>> {
    let rank = a.len().max(b.len());
    let extent = |shape: &[usize], dim: usize| {
        if dim + shape.len() < rank {
            1
        } else {
            shape[dim + shape.len() - rank]
        }
    };
    (0..rank)
        .map(|dim| match (extent(a, dim), extent(b, dim)) {
            (1, n) | (n, 1) => Ok(n),
            (n, m) if n == m => Ok(n),
            _ => Err(invalid(format!("shapes {a:?} and {b:?} do not broadcast"))),
        })
        .collect()
}

/// The element of `values` that stands at `at` once it is broadcast.
fn broadcast_element(values: &Values, at: &[usize]) -> f64 {
    let skip = at.len() - values.shape.len();
    let own: Vec<usize> = at[skip..]
        .iter()
        .zip(&values.shape)
        .map(|(at, extent)| if *extent == 1 { 0 } else { *at })
        .collect();
    element(values, &own)
}

fn same_type(a: &Values, b: &Values) -> Result<()> {
    if a.dtype == b.dtype {
        return Ok(());
    }
    Err(invalid(format!(
        "element types differ: {} and {}",
        a.dtype, b.dtype
    )))
}

fn zip(op: Op, a: &Values, b: &Values, combine: fn(f64, f64) -> f64) -> Result<Values> {
    same_type(a, b)?;
    let shape = broadcast_shape(&a.shape, &b.shape)?;
    let dtype = if op.code >= ops::EQ.code {
        DType::U8
    } else {
        a.dtype
    };
    Ok(build(a, dtype, shape, |at| {
        combine(broadcast_element(a, at), broadcast_element(b, at))
    }))
}

fn choose(condition: &Values, a: &Values, b: &Values) -> Result<Values> {
    same_type(a, b)?;
    let shape = broadcast_shape(&broadcast_shape(&condition.shape, &a.shape)?, &b.shape)?;
    Ok(build(a, a.dtype, shape, |at| {
        broadcast_element(
            if broadcast_element(condition, at) != 0.0 {
                a
            } else {
                b
            },
            at,
        )
    }))
}

fn reduce(
    x: &Values,
    keep: bool,
    dims: &[usize],
    dtype: DType,
    fold: impl Fn(&[f64]) -> f64,
) -> Result<Values> {
    let all: Vec<usize> = (0..x.shape.len()).collect();
    let dims = if dims.is_empty() {
        all.as_slice()
    } else {
        dims
    };
    let kept: Vec<usize> = x
        .shape
        .iter()
        .enumerate()
        .map(|(dim, extent)| if dims.contains(&dim) { 1 } else { *extent })
        .collect();
    let mut rows = vec![Vec::new(); kept.iter().product()];
    let steps = strides(&kept);
    for (index, value) in x.data.iter().enumerate() {
        let at = coordinates(index, &x.shape);
        let row: usize = at
            .iter()
            .zip(&steps)
            .zip(&kept)
            .map(|((at, step), extent)| if *extent == 1 { 0 } else { at * step })
            .sum();
        rows[row].push(*value);
    }
    let data = rows.iter().map(|row| fold(row)).collect();
    let shape = if keep {
        kept
    } else {
        kept.iter()
            .enumerate()
            .filter(|(dim, _)| !dims.contains(dim))
            .map(|(_, extent)| *extent)
            .collect()
    };
    Ok(x.like(dtype, shape, data))
}

fn softmax(x: &Values, dim: usize) -> Result<Values> {
    let highest = reduce(x, true, &[dim], x.dtype, |row| {
        row.iter().copied().fold(f64::NEG_INFINITY, f64::max)
    })?;
    let powers = zip(ops::SUB, x, &highest, |a, b| (a - b).exp())?;
    let total = reduce(&powers, true, &[dim], x.dtype, |row| row.iter().sum())?;
    zip(ops::DIV, &powers, &total, |a, b| a / b)
}

fn matmul(a: &Values, b: &Values) -> Result<Values> {
    same_type(a, b)?;
    let (rank_a, rank_b) = (a.shape.len(), b.shape.len());
    if rank_a < 2 || rank_b < 2 || a.shape[rank_a - 1] != b.shape[rank_b - 2] {
        return Err(invalid(format!(
            "matmul of {:?} and {:?}",
            a.shape, b.shape
        )));
    }
    let inner = a.shape[rank_a - 1];
    let mut shape = broadcast_shape(&a.shape[..rank_a - 2], &b.shape[..rank_b - 2])?;
    shape.extend([a.shape[rank_a - 2], b.shape[rank_b - 1]]);
    Ok(build(a, a.dtype, shape, |at| {
        let (batch, row, column) = (&at[..at.len() - 2], at[at.len() - 2], at[at.len() - 1]);
        let place = |i: usize, j: usize| [batch, &[i, j]].concat();
        (0..inner)
            .map(|k| matrix_element(a, &place(row, k)) * matrix_element(b, &place(k, column)))
            .sum()
    }))
}

/// `x w^T + b`.
fn linear(x: &Values, w: &Values, b: Option<&Values>) -> Result<Values> {
    let &[outputs, inputs] = w.shape.as_slice() else {
        return Err(invalid(format!("a weight of shape {:?}", w.shape)));
    };
    let transposed = build(w, w.dtype, vec![inputs, outputs], |at| {
        element(w, &[at[1], at[0]])
    });
    let product = matmul(x, &transposed)?;
    match b {
        Some(b) => zip(ops::ADD, &product, b, |a, b| a + b),
        None => Ok(product),
    }
}

/// As [`broadcast_element`], but the last two dimensions are a matrix and never broadcast; they are in range either way.
fn matrix_element(values: &Values, at: &[usize]) -> f64 {
    broadcast_element(values, at)
}

fn cat(inputs: &[&Values], dim: usize) -> Result<Values> {
    let first = inputs[0];
    let mut shape = first.shape.clone();
    shape[dim] = inputs.iter().map(|input| input.shape[dim]).sum();
    for input in inputs {
        same_type(first, input)?;
        let fits = input
            .shape
            .iter()
            .enumerate()
            .all(|(d, extent)| d == dim || shape.get(d) == Some(extent));
        if !fits || input.shape.len() != shape.len() {
            return Err(invalid(format!(
                "cat along {dim} of {:?} and {:?}",
                first.shape, input.shape
            )));
        }
    }
    Ok(build(first, first.dtype, shape, |at| {
        let mut at = at.to_vec();
        for input in inputs {
            if at[dim] < input.shape[dim] {
                return element(input, &at);
            }
            at[dim] -= input.shape[dim];
        }
        0.0
    }))
}

fn select(op: Op, x: &Values, inputs: &[&Values], sizes: &[usize]) -> Result<Values> {
    let mut shape = x.shape.clone();
    match op {
        ops::PERMUTE => {
            let shape = sizes.iter().map(|dim| x.shape[*dim]).collect();
            Ok(build(x, x.dtype, shape, |at| {
                let mut old = vec![0; at.len()];
                for (new, dim) in sizes.iter().enumerate() {
                    old[*dim] = at[new];
                }
                element(x, &old)
            }))
        }
        ops::NARROW => {
            let &[dim, start, length] = sizes else {
                return Err(invalid("narrow wants three numbers"));
            };
            if start + length > x.shape[dim] {
                return Err(invalid(format!(
                    "narrow: {start}+{length} is beyond {} of {:?}",
                    x.shape[dim], x.shape
                )));
            }
            shape[dim] = length;
            Ok(build(x, x.dtype, shape, |at| {
                let mut at = at.to_vec();
                at[dim] += start;
                element(x, &at)
            }))
        }
        ops::BROADCAST_AS => {
            if broadcast_shape(&x.shape, sizes)? != sizes {
                return Err(invalid(format!(
                    "{:?} does not broadcast to {sizes:?}",
                    x.shape
                )));
            }
            Ok(build(x, x.dtype, sizes.to_vec(), |at| {
                broadcast_element(x, at)
            }))
        }
        ops::INDEX_SELECT => {
            let (ids, dim) = (input(inputs, 1)?, sizes[0]);
            in_range(ids, x.shape[dim])?;
            shape[dim] = ids.data.len();
            Ok(build(x, x.dtype, shape, |at| {
                let mut at = at.to_vec();
                at[dim] = ids.data[at[dim]] as usize;
                element(x, &at)
            }))
        }
        ops::GATHER => {
            let (ids, dim) = (input(inputs, 1)?, sizes[0]);
            in_range(ids, x.shape[dim])?;
            Ok(build(x, x.dtype, ids.shape.clone(), |at| {
                let mut from = at.to_vec();
                from[dim] = element(ids, at) as usize;
                element(x, &from)
            }))
        }
        _ => Err(invalid(format!("the test host has no {}", op.name))),
    }
}

fn in_range(ids: &Values, extent: usize) -> Result<()> {
    match ids
        .data
        .iter()
        .find(|id| **id < 0.0 || **id >= extent as f64)
    {
        Some(id) => Err(invalid(format!(
            "index {id} is out of range for {extent} entries"
        ))),
        None => Ok(()),
    }
}
