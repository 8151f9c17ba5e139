//! The controlnet plugin against diffusers' ControlNetModel: residuals, gradients and configuration, on the host's own UNet, tensors and tape.
//!
//! `tests/goldens/controlnet.py` made the numbers. A program of its own, since two plugins do not link into one.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Tensor, Var};
use controlnet::Controlnet;
use host::backbone::{Backbone, Conditioning, Config, Input, Overlay, Pass};
use host::ops::autograd::Recording;
use host::plugin::tensor_ops::{export, import};
use integration_tests::formula::{numbers, weight};
use integration_tests::{goldens, tensors, values};
use plugin_api::hooks::{PrepareHook, ResidualsHook, ResidualsIn};
use plugin_api::services::{self, CopyBlocksOut, Nothing, RunBlocksOut, TensorOut, Weights};
use plugin_api::testing::TestHost;
use plugin_api::{AdapterFile, BackboneInfo, Batch, Error, Init};
use serde_json::Value;

const TIMESTEPS: [u32; 2] = [3, 871];

/// What the plugin trains, by name, and what it declared to write.
#[derive(Default)]
struct Made {
    vars: BTreeMap<String, Var>,
    files: Vec<AdapterFile>,
}

/// A UNet whose weights follow from their names, a plugin that goes on from a ControlNet whose weights do, and what diffusers makes of both.
struct Rig {
    name: &'static str,
    host: TestHost,
    plugin: Controlnet,
    backbone: Arc<Backbone>,
    made: Arc<Mutex<Made>>,
    factor: usize,
}

fn config_of(folder: &str, name: &str) -> Value {
    let file = goldens(&format!("{folder}/{name}/config.json"));
    serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
}

fn unet(name: &str) -> Backbone {
    let config = Config::from_json(&config_of("unet", name).to_string(), "config.json").unwrap();
    let fresh = Backbone::init(config.clone(), 0, &Device::Cpu).unwrap();
    let parameters = fresh.parameters();
    let filled = parameters.map(|(name, tensor)| (name.to_owned(), weight(name, tensor.dims())));
    Backbone::from_parts(config, filled.collect()).unwrap()
}

fn info(backbone: &Backbone, factor: usize) -> BackboneInfo {
    let info = backbone.info();
    BackboneInfo {
        architecture: info.architecture.clone(),
        parameters: 0,
        in_channels: info.in_channels,
        out_channels: info.out_channels,
        latent_channels: info.in_channels,
        sample_size: info.sample_size,
        image_size: info.sample_size * factor,
        num_classes: None,
        null_class: None,
        learned_variance: false,
        text: true,
        residual_sites: info.residual_sites,
        fingerprint: String::new(),
    }
}

/// The tensors of the golden ControlNet that are not the UNet's.
fn own(backbone: &Backbone, channels: &[usize]) -> BTreeMap<String, Vec<usize>> {
    let front = backbone.front(None).unwrap();
    let mut shapes = BTreeMap::new();
    let mut layer = |name: String, shape: Vec<usize>| {
        shapes.insert(format!("{name}.bias"), vec![shape[0]]);
        shapes.insert(format!("{name}.weight"), shape);
    };
    let embedding = |part: &str| format!("controlnet_cond_embedding.{part}");
    layer(embedding("conv_in"), vec![channels[0], 3, 3, 3]);
    for (stage, pair) in channels.windows(2).enumerate() {
        let name = |place: usize| embedding(&format!("blocks.{}", 2 * stage + place));
        layer(name(0), vec![pair[0], pair[0], 3, 3]);
        layer(name(1), vec![pair[1], pair[0], 3, 3]);
    }
    let last = channels[channels.len() - 1];
    layer(embedding("conv_out"), vec![front.embedding[0], last, 3, 3]);
    let middle = front.features.len() - 1;
    for (site, &features) in front.features.iter().enumerate() {
        let name = match site == middle {
            true => "controlnet_mid_block".to_owned(),
            false => format!("controlnet_down_blocks.{site}"),
        };
        layer(name, vec![features, features, 1, 1]);
    }
    shapes
}

fn rig(name: &'static str, settings: &str) -> Rig {
    let backbone = Arc::new(unet(name));
    let config = config_of("controlnet", name);
    let channels: Vec<usize> =
        serde_json::from_value(config["conditioning_embedding_out_channels"].clone()).unwrap();
    let factor = 1 << (channels.len() - 1);
    let made = Arc::new(Mutex::new(Made::default()));
    let host = TestHost::new();

    let about = info(&backbone, factor);
    host.answer::<services::Backbone>(move |_| Ok(about.clone()));
    let front = backbone.front(None).unwrap();
    let copied = backbone.parameters().filter_map(|(name, tensor)| {
        let shape = tensor.dims().to_vec();
        front
            .parameters
            .contains(name)
            .then(|| (name.to_owned(), shape))
    });
    let stored: BTreeMap<String, Vec<usize>> = own(&backbone, &channels)
        .into_iter()
        .chain(copied)
        .collect();
    host.answer::<services::ReadWeights>(move |_| {
        let tensor =
            |(name, shape): (&String, &Vec<usize>)| (name.clone(), export(&weight(name, shape)));
        Ok(Weights {
            tensors: stored.iter().map(tensor).collect(),
            config: Some(config.to_string()),
        })
    });
    let (network, vars) = (backbone.clone(), made.clone());
    host.answer::<services::CopyBlocks>(move |asked| {
        let front = network.front(asked.sites).map_err(Error::msg)?;
        let mut values = asked.values.unwrap_or_default();
        let mut parameters = BTreeMap::new();
        for name in &front.parameters {
            let start = import(&values.remove(name).unwrap())?;
            let var = Var::from_tensor(&start).unwrap();
            parameters.insert(name.clone(), export(var.as_tensor()));
            vars.lock().unwrap().vars.insert(name.clone(), var);
        }
        assert!(values.is_empty());
        Ok(CopyBlocksOut {
            copy: 0,
            sites: (0..front.features.len()).collect(),
            features: front.features,
            hint: front.embedding,
            parameters: Some(parameters),
            config: Some(network.config().to_json()),
        })
    });
    let vars = made.clone();
    host.answer::<services::Parameter>(move |asked| {
        let Some(Init::Value(start)) = asked.init.decode_init() else {
            panic!("{} begins anew", asked.name);
        };
        let var = Var::from_tensor(&import(&start)?).unwrap();
        assert_eq!(asked.shape, var.dims(), "{}", asked.name);
        let tensor = export(var.as_tensor());
        vars.lock().unwrap().vars.insert(asked.name, var);
        Ok(TensorOut { tensor })
    });
    let (network, vars) = (backbone.clone(), made.clone());
    host.answer::<services::RunBlocks>(move |asked| {
        let made = vars.lock().unwrap();
        let overlay: Overlay = (made.vars.iter())
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()))
            .collect();
        let tensors = asked.batch.tensors.iter();
        let tensors = tensors.map(|(name, tensor)| Ok((name.clone(), import(tensor)?)));
        let conditioning = Conditioning {
            tensors: tensors.collect::<plugin_api::Result<_>>()?,
        };
        let input = Input {
            latents: &import(&asked.latents)?,
            timesteps: &import(&asked.timesteps)?,
            conditioning: &conditioning,
        };
        let pass = Pass {
            overlay: Some(&overlay),
            ..Pass::default()
        };
        let hint = asked.hint.as_ref().map(import).transpose()?;
        let states = network.run_front(usize::MAX, &input, hint.as_ref(), &pass);
        let states = states.map_err(Error::msg)?;
        Ok(RunBlocksOut {
            features: states.iter().map(export).collect(),
        })
    });
    let files = made.clone();
    host.answer::<services::Adapter>(move |file| {
        files.lock().unwrap().files.push(file);
        Ok(Nothing {})
    });
    let settings = format!(r#"{{ "from": "theirs"{settings} }}"#);
    let mut plugin: Controlnet = host.build(&settings).unwrap();
    plugin.prepare(&host).unwrap();
    Rig {
        name,
        host,
        plugin,
        backbone,
        made,
        factor,
    }
}

impl Rig {
    /// The script's inputs, and what the plugin makes of them.
    fn residuals(&mut self) -> Vec<Tensor> {
        let info = self.backbone.info();
        let unit = |name: &str, shape: &[usize]| {
            export(&numbers(name, shape).affine(3f64.sqrt(), 0.0).unwrap())
        };
        let side = info.sample_size * self.factor;
        let mut batch = Batch::new();
        let hint = numbers("hint", &[2, 3, side, side])
            .affine(0.5, 0.5)
            .unwrap();
        batch.set("controlnet.0.hint", export(&hint));
        let text = [2, 5, info.cross_attention.unwrap()];
        batch.set(
            "encoder_hidden_states",
            unit("encoder_hidden_states", &text),
        );
        if let Some(whole) = info.text_embeds {
            batch.set("text_embeds", unit("text_embeds", &[2, whole]));
            let sizes = numbers("time_ids", &[2, 6]).affine(512.0, 0.0).unwrap();
            batch.set("time_ids", export(&sizes.round().unwrap().abs().unwrap()));
        }
        let size = info.sample_size;
        let at = ResidualsIn {
            batch,
            input: unit("latents", &[2, info.in_channels, size, size]),
            timesteps: export(&Tensor::new(&TIMESTEPS, &Device::Cpu).unwrap()),
            unconditional: false,
        };
        let residuals = self.plugin.residuals(&at, &self.host).unwrap();
        let residuals = residuals.iter().map(|one| import(one.as_ref().unwrap()));
        residuals.collect::<plugin_api::Result<_>>().unwrap()
    }
}

/// As many numbers of a tensor as a golden row has, at even distances, against the row.
#[track_caller]
fn check_row(what: &str, found: &Tensor, row: &Tensor, tolerance: f64) {
    let (found, expected) = (values(found), values(row));
    let pairs: Vec<(f64, f64)> = (0..expected.len())
        .map(|at| found[at * found.len() / expected.len()])
        .zip(&expected)
        .map(|(a, b)| (f64::from(a), f64::from(*b)))
        .collect();
    let norm = |of: &dyn Fn(&(f64, f64)) -> f64| {
        pairs
            .iter()
            .map(|pair| of(pair).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let (error, size) = (norm(&|(a, b)| a - b), norm(&|(_, b)| *b));
    assert!(
        error <= tolerance * size.max(0.1),
        "{what}: off by {error:.1e} of {size:.1e}"
    );
}

#[track_caller]
fn check(name: &'static str, settings: &str) {
    let mut rig = rig(name, settings);
    let golden = tensors(&goldens(&format!(
        "controlnet/{}/case.safetensors",
        rig.name
    )));
    let recording = Recording::start();
    let residuals = rig.residuals();
    assert_eq!(residuals.len(), golden["residuals"].dims()[0]);
    let mut loss = Tensor::new(0f32, &Device::Cpu).unwrap();
    for (site, residual) in residuals.iter().enumerate() {
        let row = golden["residuals"].get(site).unwrap();
        check_row(&format!("{name}, site {site}"), residual, &row, 1e-4);
        let weights = numbers(&format!("weights.{site}"), residual.dims());
        loss = (loss + (residual * weights).unwrap().sum_all().unwrap()).unwrap();
    }
    let mut gradients = recording.backward(&loss).unwrap();
    let made = rig.made.lock().unwrap();
    assert_eq!(made.vars.len(), golden["grad"].dims()[0]);
    // In the order of the names, as the script's.
    for (number, (parameter, var)) in made.vars.iter().enumerate() {
        let gradient = gradients.remove(var.as_tensor());
        let gradient = gradient.unwrap_or_else(|| panic!("{parameter} has no gradient"));
        let row = golden["grad"].get(number).unwrap();
        check_row(&format!("{name}, {parameter}"), &gradient, &row, 1e-3);
    }
    for (parameter, frozen) in rig.backbone.parameters() {
        assert!(gradients.remove(frozen).is_none(), "{parameter}");
    }

    // What is written is what was read.
    let [file] = &made.files[..] else {
        panic!("{} files", made.files.len());
    };
    assert_eq!(file.file, "diffusion_pytorch_model.safetensors");
    assert!(file.tensors.keys().eq(made.vars.keys()));
    let ours: Value = serde_json::from_str(&file.texts["config.json"]).unwrap();
    let theirs = config_of("controlnet", name);
    for (key, value) in ours.as_object().unwrap() {
        let same = match (value.as_f64(), theirs[key].as_f64()) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => *value == theirs[key],
        };
        assert!(same, "{key}: {value} and {}", theirs[key]);
    }
}

#[test]
fn residuals_and_gradients_equal_diffusers_as_stable_diffusion_1() {
    check("sd1", "");
}

#[test]
fn residuals_and_gradients_equal_diffusers_as_stable_diffusion_xl() {
    let settings = r#", "embedding_channels": [4, 6, 8], "channel_order": "bgr""#;
    check("sdxl", settings);
}
