//! Forward plus backward of every fast operation, at shapes of DiT-S/2 and Stable Diffusion 1.5.
//!
//! `cargo bench -p host --bench ops [-- FILTER]` prints our time beside stock candle's. The two sides alternate, and each line gives the median of each
//! and the median of their ratios: on a noisy machine only ratios mean anything. `RAYON_NUM_THREADS` sets the threads of both sides.
//!
//! With `--serve` it reads names of cases from standard input, a line each, runs each once and prints the milliseconds: `tests/bench/ops.py` so compares
//! with PyTorch in turn.

mod cases;

use std::io::{BufRead, Write};
use std::time::Instant;

use candle_core::{Device, Result, Tensor, Var};
use candle_nn::Optimizer;
use host::ops::autograd::Recording;
use host::ops::optim::{AdamW, AdamWConfig};
use host::random::Stream;

use cases::{CASES, Case, adamw_size, operands};

/// As in the program; its memory is not given back in between either.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAIRS: usize = 15;

fn main() -> Result<()> {
    // As in the program: `mi_option_purge_delay` is never, and this thread is one of the pool's.
    // SAFETY: sets a number inside the allocator, which may happen at any time.
    unsafe { libmimalloc_sys::mi_option_set_default(15, -1) };
    let pool = rayon::ThreadPoolBuilder::new().use_current_thread();
    pool.build_global().map_err(candle_core::Error::wrap)?;
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--serve") {
        return serve();
    }
    let filter = arguments.iter().find(|a| !a.starts_with("--"));
    let filter = filter.map_or("", String::as_str);
    let threads = rayon::current_num_threads();
    println!(
        "{:42} {:>9} {:>9} {:>7}   {threads} threads",
        "forward + backward", "ours ms", "candle ms", "ratio"
    );
    for case in CASES.iter().filter(|case| case.name.contains(filter)) {
        let mut bench = Bench::new(case)?;
        let (mut ours, mut stock) = (Vec::new(), Vec::new());
        for pair in 0..PAIRS + 2 {
            let (a, b) = (bench.ours()?, bench.stock()?);
            if pair >= 2 {
                ours.push(a);
                stock.push(b);
            }
        }
        let mut ratios: Vec<f64> = ours.iter().zip(&stock).map(|(a, b)| a / b).collect();
        println!(
            "{:42} {:9.2} {:9.2} {:7.2}",
            case.name,
            median(&mut ours),
            median(&mut stock),
            median(&mut ratios)
        );
    }
    Ok(())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Answers until its input ends; keeps the last case ready.
fn serve() -> Result<()> {
    let mut ready: Option<(String, Bench)> = None;
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        let name = line?;
        let mut bench = match ready.take() {
            Some((last, bench)) if last == name => bench,
            _ => match CASES.iter().find(|case| case.name == name) {
                Some(case) => Bench::new(case)?,
                None => candle_core::bail!("no case is called {name:?}"),
            },
        };
        writeln!(out, "{}", bench.ours()?)?;
        out.flush()?;
        ready = Some((name, bench));
    }
    Ok(())
}

/// A case with its operands.
enum Bench {
    /// An operation, its operands and the gradient given to its result.
    Operation {
        case: &'static Case,
        operands: Vec<Tensor>,
        grad: Tensor,
    },
    /// A step of the optimiser, which is all memory traffic.
    AdamW {
        ours: Box<AdamW>,
        stock: Box<candle_nn::AdamW>,
        grads: Box<candle_core::backprop::GradStore>,
        var: Var,
    },
}

fn milliseconds(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64() * 1e3)
}

impl Bench {
    fn new(case: &'static Case) -> Result<Self> {
        if let Some(rows) = adamw_size(case) {
            let values = Stream::new(2, "bench").normal((rows, 1000), &Device::Cpu)?;
            let (var, other) = (Var::from_tensor(&values)?, Var::from_tensor(&values)?);
            let ours = AdamW::new(vec![("w".into(), other)], AdamWConfig::default())?;
            let stock =
                candle_nn::AdamW::new(vec![var.clone()], candle_nn::ParamsAdamW::default())?;
            let grads = (var.as_tensor() * 2.0)?.sum_all()?.backward()?;
            return Ok(Self::AdamW {
                ours: Box::new(ours),
                stock: Box::new(stock),
                grads: Box::new(grads),
                var,
            });
        }
        let operands = operands(case)?;
        let shape = (case.ours)(&operands)?.shape().clone();
        let grad = Stream::new(3, "bench").normal(shape, &Device::Cpu)?;
        Ok(Self::Operation {
            case,
            operands,
            grad,
        })
    }

    fn ours(&mut self) -> Result<f64> {
        milliseconds(|| match self {
            Self::Operation {
                case,
                operands,
                grad,
            } => {
                let recording = Recording::start();
                let output = (case.ours)(operands)?;
                recording.backward_from(&output, grad).map(drop)
            }
            Self::AdamW {
                ours, grads, var, ..
            } => ours.step(|_, _| grads.get(var), 1.0, None),
        })
    }

    fn stock(&mut self) -> Result<f64> {
        match self {
            Self::Operation {
                case,
                operands,
                grad,
            } => {
                let whole = milliseconds(|| {
                    ((case.stock)(operands)? * &*grad)?
                        .sum_all()?
                        .backward()
                        .map(drop)
                })?;
                // candle starts from a scalar; what that costs is not the operation's.
                let output = Var::from_tensor(grad)?;
                let loss = milliseconds(|| {
                    (output.as_tensor() * &*grad)?
                        .sum_all()?
                        .backward()
                        .map(drop)
                })?;
                Ok((whole - loss).max(0.0))
            }
            Self::AdamW { stock, grads, .. } => milliseconds(|| stock.step(grads)),
        }
    }
}
