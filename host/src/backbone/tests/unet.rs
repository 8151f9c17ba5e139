//! The UNet against diffusers' numbers, and what its passes may change.

use candle_core::{DType, Device, Var};

use super::super::{Config, UnetConfig};
use super::formula::{numbers, unet};
use super::*;
use crate::ops::autograd::Recording;

const FORWARD: f64 = 1e-4;
const BACKWARD: f64 = 1e-3;
const TIMESTEPS: [u32; 2] = [3, 871];
/// Numbers kept of each parameter's gradient.
const KEPT: usize = 4;

pub(crate) fn config(name: &str) -> UnetConfig {
    let file = folder(name).join("config.json");
    let text = std::fs::read_to_string(file).unwrap();
    match Config::from_json(&text, "config.json").unwrap() {
        Config::Unet(config) => config,
        Config::Dit(_) => panic!("{name} is no UNet"),
    }
}

fn folder(name: &str) -> PathBuf {
    PathBuf::from(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/unet"
    ))
    .join(name)
}

pub(super) fn tiny_unets() -> Vec<Backbone> {
    let names = ["sd1", "sd2", "sdxl", "odd"];
    names.map(|name| unet(config(name))).into()
}

fn answers(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(folder(name).join("case.safetensors"), &Device::Cpu).unwrap()
}

/// The inputs that the script computes.
fn inputs(backbone: &Backbone, height: usize, width: usize) -> Case {
    let info = backbone.info();
    let unit = |name: &str, shape: &[usize]| numbers(name, shape).affine(3f64.sqrt(), 0.0).unwrap();
    let mut case = HashMap::from([
        (
            "latents".to_owned(),
            unit("latents", &[2, info.in_channels, height, width]),
        ),
        (
            "timesteps".to_owned(),
            Tensor::new(&TIMESTEPS, &Device::Cpu).unwrap(),
        ),
        (
            "encoder_hidden_states".to_owned(),
            unit(
                "encoder_hidden_states",
                &[2, 5, info.cross_attention.unwrap()],
            ),
        ),
    ]);
    if let Some(whole) = info.text_embeds {
        case.insert("text_embeds".to_owned(), unit("text_embeds", &[2, whole]));
        let sizes = numbers("time_ids", &[2, 6]).affine(512.0, 0.0).unwrap();
        let sizes = sizes.round().unwrap().abs().unwrap();
        case.insert("time_ids".to_owned(), sizes);
    }
    Case(case)
}

/// The prediction for these inputs.
pub(crate) fn golden_prediction(backbone: &Backbone) -> Tensor {
    inputs(backbone, 8, 8).run(backbone, &Pass::frozen())
}

#[track_caller]
fn check_forward(name: &str) {
    let backbone = unet(config(name));
    let prediction = inputs(&backbone, 8, 8).run(&backbone, &Pass::frozen());
    check_close(name, &prediction, &answers(name)["prediction"], FORWARD);
}

#[test]
fn forward_equals_diffusers_as_stable_diffusion_1() {
    check_forward("sd1");
}

#[test]
fn forward_equals_diffusers_as_stable_diffusion_2() {
    check_forward("sd2");
}

#[test]
fn forward_equals_diffusers_as_stable_diffusion_xl() {
    check_forward("sdxl");
}

#[test]
fn forward_equals_diffusers_for_uneven_levels_and_a_plain_middle() {
    check_forward("odd");
}

#[test]
fn forward_equals_diffusers_at_sides_that_do_not_halve() {
    let backbone = unet(config("sd1"));
    let prediction = inputs(&backbone, 9, 7).run(&backbone, &Pass::frozen());
    let expected = &answers("sd1")["odd_size"];
    check_close("9 x 7", &prediction, expected, FORWARD);
}

/// Shapes of the residuals of a batch of two 8 x 8 latents, from the input inwards, then of the middle.
fn sites() -> [[usize; 4]; 7] {
    [
        [2, 8, 8, 8],
        [2, 8, 8, 8],
        [2, 8, 4, 4],
        [2, 16, 4, 4],
        [2, 16, 2, 2],
        [2, 16, 2, 2],
        [2, 16, 2, 2],
    ]
}

#[test]
fn residuals_are_added_where_diffusers_adds_those_of_a_control_net() {
    let backbone = unet(config("sd1"));
    assert_eq!(backbone.info().residual_sites, sites().len());
    let residuals: Vec<Option<Tensor>> = (0..)
        .zip(sites())
        .map(|(site, shape): (usize, _)| Some(numbers(&format!("residual.{site}"), &shape)))
        .collect();
    let case = inputs(&backbone, 8, 8);
    let run = |residuals: &[Option<Tensor>]| {
        let pass = Pass {
            residuals: Some(residuals),
            ..Pass::frozen()
        };
        case.run(&backbone, &pass)
    };
    let expected = &answers("sd1")["with_residuals"];
    check_close("all", &run(&residuals), expected, FORWARD);
    let frozen = values(&case.run(&backbone, &Pass::frozen()));
    assert_eq!(values(&run(&vec![None; residuals.len()])), frozen);
    for site in 0..residuals.len() {
        let mut one = vec![None; residuals.len()];
        one[site] = residuals[site].clone();
        assert_ne!(values(&run(&one)), frozen, "site {site}");
    }
}

#[track_caller]
fn check_gradients(name: &str) {
    let (backbone, answers) = (unet(config(name)), answers(name));
    let (variables, overlay) = all_trainable(&backbone);
    let mut case = inputs(&backbone, 8, 8);
    let given = ["latents", "encoder_hidden_states"]
        .map(|name| (name, Var::from_tensor(case.tensor(name)).unwrap()));
    for (name, variable) in &given {
        let tensor = variable.as_tensor().clone();
        case.0.insert((*name).to_owned(), tensor);
    }
    let pass = Pass {
        overlay: Some(&overlay),
        ..Pass::frozen()
    };
    let recording = Recording::start();
    let prediction = case.run(&backbone, &pass);
    let target = numbers("target", prediction.dims());
    let loss = (prediction - target).unwrap().sqr().unwrap();
    let mut gradients = recording.backward(&loss.mean_all().unwrap()).unwrap();
    for (name, variable) in &given {
        let found = gradients.remove(variable).unwrap();
        check_close(name, &found, &answers[&format!("grad.{name}")], BACKWARD);
    }
    let mut variables: Vec<_> = variables.into_iter().collect();
    variables.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(answers["grad"].dims(), [variables.len(), KEPT]);
    for (row, (name, variable)) in variables.iter().enumerate() {
        let found = gradients.remove(variable);
        let found = values(&found.unwrap_or_else(|| panic!("{name} has no gradient")));
        let kept: Vec<f32> = (0..KEPT).map(|i| found[i * found.len() / KEPT]).collect();
        let kept = Tensor::new(kept, &Device::Cpu).unwrap();
        check_close(name, &kept, &answers["grad"].get(row).unwrap(), BACKWARD);
    }
}

#[test]
fn gradients_equal_diffusers_as_stable_diffusion_1() {
    check_gradients("sd1");
}

#[test]
fn gradients_equal_diffusers_as_stable_diffusion_2() {
    check_gradients("sd2");
}

#[test]
fn gradients_equal_diffusers_as_stable_diffusion_xl() {
    check_gradients("sdxl");
}

#[test]
fn half_precision_compute_stays_near_single_precision() {
    let exact = unet(config("sd2"));
    let dir = tempfile::tempdir().unwrap();
    exact.save(dir.path(), &Overlay::new(), DType::F32).unwrap();
    let case = inputs(&exact, 8, 8);
    let expected = &answers("sd2")["prediction"];
    for (dtype, tolerance) in [(DType::BF16, 5e-2), (DType::F16, 1e-2)] {
        let backbone = Backbone::open(dir.path(), &Device::Cpu, dtype).unwrap();
        let prediction = case.run(&backbone, &Pass::frozen());
        assert_eq!(prediction.dtype(), DType::F32);
        check_close(&format!("{dtype:?}"), &prediction, expected, tolerance);
    }
}

#[test]
fn what_a_unet_is_not_told_or_told_wrongly_is_named() {
    let backbone = unet(config("sdxl"));
    let refusal = |change: &dyn Fn(&mut Conditioning)| {
        let case = inputs(&backbone, 8, 8);
        let mut conditioning = Conditioning {
            tensors: case.0.clone().into_iter().collect(),
        };
        change(&mut conditioning);
        let input = Input {
            latents: case.tensor("latents"),
            timesteps: case.tensor("timesteps"),
            conditioning: &conditioning,
        };
        let output = backbone.forward(&input, &Pass::frozen());
        output.map_err(|error| error.to_string())
    };
    assert!(refusal(&|_| {}).is_ok());
    for name in ["encoder_hidden_states", "text_embeds", "time_ids"] {
        let missing = refusal(&|conditioning| drop(conditioning.tensors.remove(name)));
        assert!(missing.unwrap_err().contains(name));
        let misshapen = refusal(&|conditioning| {
            let tensor = conditioning.tensors.get_mut(name).unwrap();
            *tensor = tensor.narrow(tensor.rank() - 1, 0, 3).unwrap();
        });
        assert!(misshapen.unwrap_err().contains(name));
    }
    let case = inputs(&backbone, 8, 8);
    let narrow = case.tensor("latents").narrow(1, 0, 3).unwrap();
    let error = case.run_on(&backbone, &narrow, &Pass::frozen());
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("3 channels") && error.contains("takes 4"),
        "{error}"
    );
    let pass = Pass {
        residuals: Some(&[None, None]),
        ..Pass::frozen()
    };
    let error = case.run_on(&backbone, case.tensor("latents"), &pass);
    let error = error.unwrap_err().to_string();
    assert!(error.contains("2 residuals"), "{error}");
}
