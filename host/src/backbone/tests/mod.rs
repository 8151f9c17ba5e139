//! Checks of the backbones: against diffusers' numbers, of what a pass may change, of files, and of bad input.

#![allow(clippy::unwrap_used)]

mod bad_input;
mod files;
pub(crate) mod formula;
mod parity;
mod passes;
pub(crate) mod single_file;
pub(crate) mod unet;
mod unet_files;

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor, Var};

use super::{Backbone, Conditioning, DitConfig, Input, Overlay, Pass};

fn golden(path: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/goldens/dit")).join(path)
}

fn open(path: &str) -> Backbone {
    Backbone::open(&golden(path), &Device::Cpu, DType::F32).unwrap()
}

/// Inputs, and what diffusers makes of them.
struct Case(HashMap<String, Tensor>);

impl Case {
    fn read(path: &str) -> Self {
        Self(candle_core::safetensors::load(golden(path), &Device::Cpu).unwrap())
    }

    /// Inputs that fit the backbone, without a golden answer.
    fn random(backbone: &Backbone, batch: usize) -> Self {
        let (size, channels) = (backbone.info().sample_size, backbone.info().in_channels);
        let info = backbone.info();
        let mut stream = crate::random::Stream::new(1, "case");
        let device = &Device::Cpu;
        let mut case = Self(HashMap::from([
            (
                "latents".to_owned(),
                stream
                    .normal((batch, channels, size, size), device)
                    .unwrap(),
            ),
            (
                "timesteps".to_owned(),
                stream.integers(1000, batch, device).unwrap(),
            ),
            (
                "class_labels".to_owned(),
                stream
                    .integers(info.num_classes.unwrap_or(1), batch, device)
                    .unwrap(),
            ),
        ]));
        for (name, shape) in [
            (
                "encoder_hidden_states",
                info.cross_attention.map(|width| vec![batch, 5, width]),
            ),
            (
                "text_embeds",
                info.text_embeds.map(|width| vec![batch, width]),
            ),
            ("time_ids", info.text_embeds.map(|_| vec![batch, 6])),
        ] {
            if let Some(shape) = shape {
                let tensor = stream.normal(shape, device).unwrap();
                case.0.insert(name.to_owned(), tensor);
            }
        }
        case
    }

    fn tensor(&self, name: &str) -> &Tensor {
        &self.0[name]
    }

    fn run_on(
        &self,
        backbone: &Backbone,
        latents: &Tensor,
        pass: &Pass<'_>,
    ) -> candle_core::Result<Tensor> {
        let reads = backbone.info().reads().into_iter();
        let conditioning = Conditioning {
            tensors: reads
                .map(|name| (name.to_owned(), self.tensor(name).clone()))
                .collect(),
        };
        let input = Input {
            latents,
            timesteps: self.tensor("timesteps"),
            conditioning: &conditioning,
        };
        backbone.forward(&input, pass)
    }

    fn run(&self, backbone: &Backbone, pass: &Pass<'_>) -> Tensor {
        self.run_on(backbone, self.tensor("latents"), pass).unwrap()
    }
}

/// A backbone whose every weight matters: a fresh DiT predicts zero whatever its input.
pub(crate) fn lively(config: DitConfig) -> Backbone {
    let fresh = Backbone::init(config.clone(), 0, &Device::Cpu).unwrap();
    let mut stream = crate::random::Stream::new(0, "lively");
    let tensors = fresh
        .parameters()
        .map(|(name, value)| {
            let noise = stream.normal(value.shape(), &Device::Cpu).unwrap();
            (name.to_owned(), (value + (noise * 0.1).unwrap()).unwrap())
        })
        .collect();
    Backbone::from_parts(config, tensors).unwrap()
}

pub(crate) fn tiny() -> DitConfig {
    DitConfig {
        num_attention_heads: 2,
        attention_head_dim: 8,
        in_channels: 3,
        num_layers: 3,
        sample_size: 8,
        patch_size: 2,
        num_embeds_ada_norm: 4,
        ..DitConfig::default()
    }
}

/// Every parameter as a variable, and the overlay of them.
fn all_trainable(backbone: &Backbone) -> (Vec<(String, Var)>, Overlay) {
    let variables: Vec<(String, Var)> = backbone
        .parameters()
        .map(|(name, value)| (name.to_owned(), Var::from_tensor(value).unwrap()))
        .collect();
    let overlay = variables
        .iter()
        .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
        .collect();
    (variables, overlay)
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor
        .to_dtype(DType::F32)
        .unwrap()
        .flatten_all()
        .unwrap()
        .to_vec1()
        .unwrap()
}

/// The norm of the difference over the norm of what was expected.
fn relative(found: &Tensor, expected: &Tensor) -> f64 {
    assert_eq!(found.dims(), expected.dims());
    let (found, expected) = (values(found), values(expected));
    let squares =
        |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>();
    let difference = squares(&mut found.iter().zip(&expected).map(|(a, b)| f64::from(a - b)));
    (difference / squares(&mut expected.iter().map(|&value| f64::from(value)))).sqrt()
}

#[track_caller]
fn check_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    let error = relative(found, expected);
    assert!(
        error < tolerance,
        "{what}: relative difference {error:.2e}, allowed {tolerance:.0e}"
    );
}
