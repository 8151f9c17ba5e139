//! Tests of sampling as a whole.

#![allow(clippy::unwrap_used)]

mod gaussian;
mod generate;
mod parity;
mod plans;

use std::ops::ControlFlow;

use candle_core::{Device, Tensor};

use super::{Guidance, Progress, Request, Rows, Sampler};
use crate::diffusion::{Prediction, Process, SchedulerConfig};

fn process(prediction: Prediction) -> Process {
    let config = SchedulerConfig {
        prediction_type: prediction,
        clip_sample: Some(false),
        ..Default::default()
    };
    Process::new(config, false).unwrap()
}

/// Images of 64 pixels, seeds counting from 0, unconditional.
fn request(sampler: Sampler, images: usize) -> Request {
    Request {
        seeds: (0..images as u64).collect(),
        shape: (1, 8, 8),
        conditioning: Rows::new(),
        unconditional: Rows::new(),
        sampler,
        guidance: Guidance::Off,
        batch_size: 64,
        pixels: false,
        device: Device::Cpu,
    }
}

fn go_on(_: Progress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}
