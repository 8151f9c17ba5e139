//! LoRA files for UNets: with each, the network predicts what diffusers does with it, and what is rewritten means the same.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::write::{Format, kohya_named, write};
use super::*;
use crate::backbone::tests::formula::unet;
use crate::backbone::tests::unet::{config, golden_prediction};
use crate::backbone::{Backbone, Overlay};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/unet_adapters")
}

/// The prediction of a model with an adapter merged in, and the paths of the layers that it is for.
fn merged(model: &str, path: &Path) -> (Tensor, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let plain = unet(config(model));
    plain.save(dir.path(), &Overlay::new(), DType::F32).unwrap();
    let weights = AdapterWeights::read(path).unwrap();
    let matched = weights.matched(plain.layers()).unwrap();
    assert!(matched.report.unmatched.is_empty(), "{:?}", matched.report);
    let paths = matched
        .updates
        .into_iter()
        .map(|update| update.path)
        .collect();
    let opened = Backbone::open_adapted(dir.path(), &[(weights, 1.0)], &Device::Cpu, DType::F32);
    (golden_prediction(&opened.unwrap().0), paths)
}

fn difference(one: &Tensor, two: &Tensor) -> f32 {
    let largest = |tensor: Tensor| tensor.abs().unwrap().max_all().unwrap();
    let off = largest((one - two).unwrap()).to_scalar::<f32>().unwrap();
    off / largest(two.clone()).to_scalar::<f32>().unwrap()
}

#[test]
fn files_of_diffusers_and_kohya_for_unets_predict_what_diffusers_does_and_survive_rewriting() {
    let predictions =
        candle_core::safetensors::load(goldens().join("predictions.safetensors"), &Device::Cpu)
            .unwrap();
    for (name, model, layer) in [
        ("diffusers", "sd1", "down_blocks.0.downsamplers.0.conv"),
        (
            "kohya",
            "sdxl",
            "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
        ),
    ] {
        let path = goldens().join(format!("{name}.safetensors"));
        let (found, paths) = merged(model, &path);
        assert!(paths.iter().any(|path| path == layer), "{paths:?}");
        let off = difference(&found, &predictions[name]);
        assert!(off < 1e-4, "{name}: off by {off}");

        let backbone = unet(config(model));
        let updates = AdapterWeights::read(&path).unwrap();
        let updates = updates.matched(backbone.layers()).unwrap().updates;
        for format in [Format::Diffusers, Format::Peft, Format::Kohya] {
            let written = write(&updates, backbone.layers(), "unet", format).unwrap();
            let keys: Vec<&String> = written.tensors.keys().collect();
            let begins = match (format, model) {
                (Format::Diffusers, _) => "unet.",
                (Format::Peft, _) => "base_model.model.",
                (Format::Kohya, "sdxl") => "lora_unet_input_blocks_4_1_",
                (Format::Kohya, _) => "lora_unet_down_blocks_0_",
            };
            assert!(keys.iter().any(|key| key.starts_with(begins)), "{keys:?}");
            let dir = tempfile::tempdir().unwrap();
            let file = dir.path().join(written.file);
            let tensors = (written.tensors.iter())
                .map(|(key, tensor)| (key.clone(), tensor))
                .collect();
            let mut out = std::fs::File::create(&file).unwrap();
            crate::fs::tensors::write(&mut out, &written.metadata, &tensors, |_| DType::F32)
                .unwrap();
            if let Some((text, content)) = written.text {
                std::fs::write(dir.path().join(text), content).unwrap();
            }
            let (again, _) = merged(model, &file);
            let off = difference(&again, &predictions[name]);
            assert!(off < 1e-4, "{name} as {format:?}: off by {off}");
        }
    }
}

#[test]
fn plain_names_of_kohyas_format_become_those_that_its_tools_read() {
    let plain = [
        "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "lora_unet_down_blocks_0_downsamplers_0_conv.alpha",
        "unet.down_blocks.0.resnets.0.conv1.lora_A.weight",
    ];
    let original = [
        "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k.lora_down.weight",
        "lora_unet_input_blocks_3_0_op.alpha",
        plain[2],
    ];
    for (model, expected) in [("sdxl", original), ("sd1", plain)] {
        let tensor = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        let given = plain.map(|key| (key.to_owned(), tensor.clone()));
        let named = kohya_named(BTreeMap::from(given), unet(config(model)).layers());
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(named.keys().collect::<Vec<_>>(), expected, "{model}");
    }
}
