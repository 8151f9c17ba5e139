//! What a tape promises beyond single operations: graphs that mix ours with candle's, shared and aliased gradients, checkpoints, pauses.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;
use std::rc::Rc;

use candle_core::{Device, Var};

use super::*;
use crate::ops::testing::{assert_close, flat};
use crate::ops::{add_scaled, gate_residual, gelu_tanh, layer_norm_modulate, linear};
use crate::random::Stream;

/// Trainable weights of a small network, `[8, 8]` each but for the modulation, `[24, 8]`.
struct Network {
    first: Var,
    second: Var,
    modulation: Var,
    input: Tensor,
    conditioning: Tensor,
}

impl Network {
    fn new() -> Self {
        let mut stream = Stream::new(3, "network");
        let mut normal = |shape: &[usize]| stream.normal(shape, &Device::Cpu).unwrap();
        Self {
            first: Var::from_tensor(&normal(&[8, 8])).unwrap(),
            second: Var::from_tensor(&normal(&[8, 8])).unwrap(),
            modulation: Var::from_tensor(&normal(&[24, 8])).unwrap(),
            input: normal(&[2, 5, 8]),
            conditioning: normal(&[2, 8]),
        }
    }

    fn vars(&self) -> [&Var; 3] {
        [&self.first, &self.second, &self.modulation]
    }

    /// A residual block that uses its input three times, views of one modulation, and candle's own operations.
    fn block(&self) -> impl Fn(&Tensor) -> Result<Tensor> + 'static {
        let [first, second, modulation] = self.vars().map(|var| var.as_tensor().clone());
        let conditioning = self.conditioning.clone();
        move |x| {
            let parts = linear(&conditioning, &modulation, None)?.chunk(3, 1)?;
            let hidden = layer_norm_modulate(x, &parts[0], &parts[1], 1e-6)?;
            let hidden = gelu_tanh(&linear(&hidden, &first, None)?)?;
            let hidden = (linear(&hidden, &second, None)? + hidden.tanh()?)?;
            gate_residual(x, &parts[2], &(hidden + (x * 0.1)?)?)
        }
    }

    fn loss(&self, block: &dyn Fn(&Tensor) -> Result<Tensor>) -> Tensor {
        let x = linear(&self.input, &self.first, None).unwrap();
        block(&block(&x).unwrap())
            .unwrap()
            .sqr()
            .unwrap()
            .mean_all()
            .unwrap()
    }
}

fn recorded(network: &Network, block: &dyn Fn(&Tensor) -> Result<Tensor>) -> Vec<Tensor> {
    let recording = Recording::start();
    let loss = network.loss(block);
    let mut gradients = recording.backward(&loss).unwrap();
    network
        .vars()
        .iter()
        .map(|var| gradients.remove(var).unwrap())
        .collect()
}

#[test]
fn a_tape_gives_the_gradients_of_candles_graph() {
    let network = Network::new();
    let store = network.loss(&network.block()).backward().unwrap();
    for (var, grad) in network
        .vars()
        .iter()
        .zip(recorded(&network, &network.block()))
    {
        assert_close(&grad, store.get(var).unwrap(), 1e-6, "gradient");
    }
}

#[test]
fn values_that_no_backward_pass_reads_are_not_kept() {
    let network = Network::new();
    let recording = Recording::start();
    let hidden = linear(&network.input, &network.first, None).unwrap();
    let sum = add_scaled(&hidden, &hidden, 1.0).unwrap();
    let activated = gelu_tanh(&sum).unwrap();
    FRAMES.with_borrow(|frames| {
        let Some(Frame::Tape(nodes)) = frames.last() else {
            panic!("no tape is open");
        };
        let [product, sum, gelu] = nodes.as_slice() else {
            panic!("{} operations", nodes.len());
        };
        // In memory every value of a shape has a place of its own.
        let there = |kept: &Kept| kept.tensor.stride().iter().any(|&stride| stride > 0);
        let told = |node: &Node| match node {
            Node::Operation { inputs, output, .. } => {
                (inputs.iter().map(there).collect::<Vec<_>>(), there(output))
            }
            Node::Checkpoint { .. } => panic!("there is no checkpoint"),
        };
        assert_eq!(told(product), (vec![true, false], false));
        assert_eq!(told(sum), (vec![false, false], false));
        assert_eq!(told(gelu), (vec![true], false));
    });
    let mut gradients = recording.backward(&activated.sum_all().unwrap()).unwrap();
    assert_eq!(gradients.remove(&network.first).unwrap().dims(), [8, 8]);
}

#[test]
fn a_checkpoint_computes_twice_and_changes_no_bit() {
    let network = Network::new();
    let runs = Rc::new(Cell::new(0));
    let checkpointed = {
        let (block, runs) = (Rc::new(network.block()), runs.clone());
        move |x: &Tensor| {
            let (block, runs, x) = (block.clone(), runs.clone(), x.clone());
            checkpoint(move || {
                runs.set(runs.get() + 1);
                block(&x)
            })
        }
    };
    let plain = recorded(&network, &network.block());
    let again = recorded(&network, &checkpointed);
    assert_eq!(runs.get(), 4, "two blocks, forward and again");
    for (plain, again) in plain.iter().zip(&again) {
        assert_close(again, plain, 1e-6, "gradient through a checkpoint");
    }
    // Without a recording there is nothing to keep.
    network.loss(&checkpointed);
    assert_eq!(runs.get(), 6);
}

#[test]
fn a_checkpoint_that_trains_nothing_is_not_kept() {
    let network = Network::new();
    let recording = Recording::start();
    let input = network.input.clone();
    let output = checkpoint(move || gelu_tanh(&input)).unwrap();
    assert!(!output.track_op());
    drop(recording);
    assert!(mode() == Mode::Graph);
}

#[test]
fn a_gradient_that_two_tensors_share_is_not_added_to() {
    // The sum hands its gradient on as it came to both operands; the one that is used once more is then added to.
    let stream = |seed| {
        Stream::new(seed, "shared")
            .normal(&[1, 2, 4], &Device::Cpu)
            .unwrap()
    };
    let (x, y) = (
        Var::from_tensor(&stream(1)).unwrap(),
        Var::from_tensor(&stream(2)).unwrap(),
    );
    let f = || {
        let (a, b) = (gelu_tanh(&x).unwrap(), gelu_tanh(&y).unwrap());
        let (again_a, again_b) = (gelu_tanh(&a).unwrap(), gelu_tanh(&b).unwrap());
        let sum = add_scaled(&a, &b, 1.0).unwrap();
        let all = [sum.sqr().unwrap(), again_a, again_b];
        Tensor::stack(&all, 0).unwrap().sum_all().unwrap()
    };
    let store = f().backward().unwrap();
    let recording = Recording::start();
    let mut gradients = recording.backward(&f()).unwrap();
    for var in [&x, &y] {
        assert_eq!(
            flat(&gradients.remove(var).unwrap()),
            flat(store.get(var).unwrap())
        );
    }
}

#[test]
fn nothing_is_recorded_in_a_pause() {
    let network = Network::new();
    let recording = Recording::start();
    let frozen = no_grad(|| linear(&network.input, &network.first, None)).unwrap();
    assert!(!frozen.track_op());
    let loss = linear(&frozen, &network.second, None)
        .unwrap()
        .sum_all()
        .unwrap();
    let mut gradients = recording.backward(&loss).unwrap();
    assert!(gradients.remove(&network.first).is_none());
    assert!(gradients.remove(&network.second).is_some());
}

#[test]
fn only_a_scalar_is_differentiated() {
    let network = Network::new();
    let recording = Recording::start();
    let output = linear(&network.input, &network.first, None).unwrap();
    let message = recording.backward(&output).unwrap_err().to_string();
    assert!(
        message.contains("scalar") && message.contains("[2, 5, 8]"),
        "{message}"
    );
}
