//! Forward plus backward of the fused operations beside stock candle, at the shapes of a small DiT.
//!
//! `cargo bench -p host --bench ops [-- FILTER]`; `RAYON_NUM_THREADS` sets the threads of both sides. The two sides alternate,
//! and each line gives the median of each and the median of their ratios: on a noisy machine only ratios mean anything.

use std::time::Instant;

use candle_core::{D, Device, Result, Tensor, Var};
use host::ops;
use host::random::Stream;

type Run<'a> = Box<dyn Fn() -> Result<Tensor> + 'a>;

const PAIRS: usize = 25;

fn main() -> Result<()> {
    let filter = std::env::args()
        .skip(1)
        .find(|a| !a.starts_with("--"))
        .unwrap_or_default();
    println!(
        "{:34} {:>9} {:>9} {:>7}   {} threads",
        "forward + backward",
        "ours ms",
        "candle ms",
        "ratio",
        rayon::current_num_threads()
    );
    let mut stream = Stream::new(1, "bench");
    let mut var = |shape: &[usize]| Var::from_tensor(&stream.normal(shape, &Device::Cpu)?);
    let compare = |name: &str, ours: Run<'_>, stock: Run<'_>| -> Result<()> {
        if name.contains(&filter) {
            measure(name, &ours, &stock)
        } else {
            Ok(())
        }
    };

    let (x, w, b) = (var(&[4096, 192])?, var(&[768, 192])?, var(&[768])?);
    compare(
        "linear 4096x192 -> 768",
        Box::new(|| ops::linear(&x, &w, Some(&b))),
        Box::new(|| x.matmul(&w.t()?)?.broadcast_add(&b)),
    )?;
    let frozen = w.as_detached_tensor();
    compare(
        "linear 4096x192 -> 768, frozen",
        Box::new(|| ops::linear(&x, &frozen, None)),
        Box::new(|| x.matmul(&frozen.t()?)),
    )?;

    let (q, k, v) = (
        var(&[64, 64, 192])?,
        var(&[64, 64, 192])?,
        var(&[64, 64, 192])?,
    );
    let heads = |x: &Tensor| x.reshape((64, 64, 3, 64))?.transpose(1, 2)?.contiguous();
    compare(
        "attention 64x3x64x64, tokens",
        Box::new(|| ops::attention_tokens(&q, &k, &v, 3, 0.125)),
        Box::new(|| {
            let scores = (heads(&q)?.matmul(&heads(&k)?.t()?)? * 0.125)?;
            let y = candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&heads(&v)?)?;
            y.transpose(1, 2)?.reshape((64, 64, 192))
        }),
    )?;

    let x = var(&[4096, 768])?;
    compare(
        "gelu_tanh 4096x768",
        Box::new(|| ops::gelu_tanh(&x)),
        Box::new(|| x.gelu()),
    )?;
    compare(
        "silu 4096x768",
        Box::new(|| ops::silu(&x)),
        Box::new(|| candle_nn::ops::silu(&x)),
    )?;

    let (x, shift, scale) = (var(&[64, 64, 192])?, var(&[64, 192])?, var(&[64, 192])?);
    compare(
        "layer_norm_modulate 64x64x192",
        Box::new(|| ops::layer_norm_modulate(&x, &shift, &scale, 1e-6)),
        Box::new(|| {
            let x = x.broadcast_sub(&x.mean_keepdim(D::Minus1)?)?;
            let variance = x.sqr()?.mean_keepdim(D::Minus1)?;
            let x = x.broadcast_div(&(variance + 1e-6)?.sqrt()?)?;
            x.broadcast_mul(&(scale.unsqueeze(1)? + 1.0)?)?
                .broadcast_add(&shift.unsqueeze(1)?)
        }),
    )?;
    let y = var(&[64, 64, 192])?;
    compare(
        "gate_residual 64x64x192",
        Box::new(|| ops::gate_residual(&x, &scale, &y)),
        Box::new(|| &*x + y.broadcast_mul(&scale.unsqueeze(1)?)?),
    )?;
    adamw(&filter)
}

/// A step of AdamW over ten million parameters, which is all memory traffic.
fn adamw(filter: &str) -> Result<()> {
    use candle_nn::{Optimizer, ParamsAdamW};
    let name = "adamw, 10M parameters (a step)";
    if !name.contains(filter) {
        return Ok(());
    }
    let values = Stream::new(2, "bench").normal((2500, 4000), &Device::Cpu)?;
    let (var, stock_var) = (Var::from_tensor(&values)?, Var::from_tensor(&values)?);
    let mut ours =
        ops::optim::AdamW::new(vec![("w".into(), var)], ops::optim::AdamWConfig::default())?;
    let mut stock = candle_nn::AdamW::new(vec![stock_var.clone()], ParamsAdamW::default())?;
    let grads = (stock_var.as_tensor() * 2.0)?.sum_all()?.backward()?;
    let grad = grads.get(&stock_var).cloned();
    let (mut ours_ms, mut stock_ms) = (Vec::new(), Vec::new());
    for _ in 0..PAIRS {
        let start = Instant::now();
        ours.step(|_, _| grad.as_ref(), 1.0)?;
        ours_ms.push(start.elapsed().as_secs_f64() * 1e3);
        let start = Instant::now();
        stock.step(&grads)?;
        stock_ms.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let mut ratios: Vec<f64> = ours_ms.iter().zip(&stock_ms).map(|(a, b)| a / b).collect();
    report(name, &mut ours_ms, &mut stock_ms, &mut ratios);
    Ok(())
}

/// Pairs of runs, the two sides in turn.
fn measure(name: &str, ours: &Run<'_>, stock: &Run<'_>) -> Result<()> {
    let once = |run: &Run<'_>| -> Result<f64> {
        let start = Instant::now();
        run()?.sqr()?.sum_all()?.backward()?;
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    // What the loss by itself costs, measured in between, is taken off both sides.
    let y = Var::from_tensor(&ours()?)?;
    let loss: Run<'_> = Box::new(|| Ok(y.as_tensor().clone()));
    let (mut ours_ms, mut stock_ms, mut loss_ms) = (Vec::new(), Vec::new(), Vec::new());
    for triple in 0..PAIRS + 2 {
        let (a, b, c) = (once(ours)?, once(stock)?, once(&loss)?);
        if triple >= 2 {
            ours_ms.push(a);
            stock_ms.push(b);
            loss_ms.push(c);
        }
    }
    let loss_ms = median(&mut loss_ms);
    ours_ms
        .iter_mut()
        .chain(&mut stock_ms)
        .for_each(|ms| *ms -= loss_ms);
    let mut ratios: Vec<f64> = ours_ms.iter().zip(&stock_ms).map(|(a, b)| a / b).collect();
    report(name, &mut ours_ms, &mut stock_ms, &mut ratios);
    Ok(())
}

fn report(name: &str, ours_ms: &mut [f64], stock_ms: &mut [f64], ratios: &mut [f64]) {
    println!(
        "{name:34} {:9.2} {:9.2} {:7.2}",
        median(ours_ms),
        median(stock_ms),
        median(ratios)
    );
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
