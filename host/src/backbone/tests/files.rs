//! What is written reads back as the same model, in every form.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use super::super::forward_file::forward_file;
use super::super::{LayerInfo, inspect};
use super::*;

#[test]
fn a_saved_model_predicts_the_same_bits() {
    for backbone in [open("small"), open("sharded"), lively(tiny())] {
        let case = Case::random(&backbone, 2);
        let dir = tempfile::tempdir().unwrap();
        backbone
            .save(dir.path(), &Overlay::new(), DType::F32)
            .unwrap();
        let again = Backbone::open(dir.path(), &Device::Cpu, DType::F32).unwrap();
        let direct =
            Backbone::open(&dir.path().join("transformer"), &Device::Cpu, DType::F32).unwrap();
        let expected = values(&case.run(&backbone, &Pass::frozen()));
        assert_eq!(values(&case.run(&again, &Pass::frozen())), expected);
        assert_eq!(values(&case.run(&direct, &Pass::frozen())), expected);
        assert_eq!(again.info(), backbone.info());
        assert_eq!(again.layers(), backbone.layers());
    }
}

#[test]
fn saving_merges_the_overlay_and_repeats_shared_embedders_in_every_block() {
    let backbone = lively(tiny());
    assert!(backbone.info().shared_embedders);
    let name = "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2.bias";
    let overlay = Overlay::from([(
        name.to_owned(),
        Tensor::full(0.5f32, 16, &Device::Cpu).unwrap(),
    )]);
    let dir = tempfile::tempdir().unwrap();
    backbone.save(dir.path(), &overlay, DType::F32).unwrap();
    let file = dir
        .path()
        .join("transformer/diffusion_pytorch_model.safetensors");
    let tensors = candle_core::safetensors::load(file, &Device::Cpu).unwrap();
    for block in 0..3 {
        let name = name.replacen('0', &block.to_string(), 1);
        assert_eq!(values(&tensors[&name]), vec![0.5; 16], "{name}");
    }
    let case = Case::random(&backbone, 2);
    let pass = Pass {
        overlay: Some(&overlay),
        ..Pass::frozen()
    };
    let again = Backbone::open(dir.path(), &Device::Cpu, DType::F32).unwrap();
    assert!(again.info().shared_embedders);
    assert_eq!(
        values(&case.run(&again, &Pass::frozen())),
        values(&case.run(&backbone, &pass))
    );
}

#[test]
fn embedders_that_train_apart_are_kept_apart() {
    let backbone = open("small");
    assert!(!backbone.info().shared_embedders);
    let own = |block: usize| {
        format!("transformer_blocks.{block}.norm1.emb.class_embedder.embedding_table.weight")
    };
    let names: Vec<&str> = backbone.parameters().map(|(name, _)| name).collect();
    assert!(names.contains(&own(0).as_str()) && names.contains(&own(1).as_str()));
}

#[test]
fn half_precision_files_hold_rounded_values() {
    let backbone = lively(tiny());
    let case = Case::random(&backbone, 2);
    let expected = case.run(&backbone, &Pass::frozen());
    for (dtype, tolerance) in [(DType::F16, 2e-3), (DType::BF16, 2e-2)] {
        let dir = tempfile::tempdir().unwrap();
        backbone.save(dir.path(), &Overlay::new(), dtype).unwrap();
        let again = Backbone::open(dir.path(), &Device::Cpu, DType::F32).unwrap();
        check_close(
            &format!("{dtype:?}"),
            &case.run(&again, &Pass::frozen()),
            &expected,
            tolerance,
        );
        let (_, rounded) = again.parameters().next().unwrap();
        let (_, exact) = backbone.parameters().next().unwrap();
        assert_eq!(values(rounded), values(&exact.to_dtype(dtype).unwrap()));
    }
}

#[test]
fn the_compact_form_stores_shared_embedders_once_and_reads_from_memory() {
    let backbone = lively(tiny());
    let case = Case::random(&backbone, 2);
    let dir = tempfile::tempdir().unwrap();
    backbone
        .save_compact(dir.path(), &Overlay::new(), DType::F32)
        .unwrap();
    let config = std::fs::read_to_string(dir.path().join("config.json")).unwrap();
    let weights = std::fs::read(dir.path().join("diffusion_pytorch_model.safetensors")).unwrap();
    assert!(weights.len() < 4 * backbone.info().parameters + 16_384);
    let expected = values(&case.run(&backbone, &Pass::frozen()));
    let again = Backbone::from_bytes(&config, &weights, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(values(&case.run(&again, &Pass::frozen())), expected);
    let opened = Backbone::open(dir.path(), &Device::Cpu, DType::F32).unwrap();
    assert_eq!(values(&case.run(&opened, &Pass::frozen())), expected);
}

#[test]
fn the_original_layout_is_one_model_as_pt_as_safetensors_and_saved_for_diffusers() {
    let backbone = open("original/DiT.pt");
    assert_eq!(backbone.info().num_classes, Some(7));
    assert!(backbone.info().learned_variance);
    let case = Case::read("original/case.safetensors");
    let tensors =
        candle_core::pickle::read_all_with_key(golden("original/DiT.pt"), Some("ema")).unwrap();
    let tensors: HashMap<String, Tensor> = tensors.into_iter().collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("DiT.safetensors");
    candle_core::safetensors::save(&tensors, &file).unwrap();
    let again = Backbone::open(&file, &Device::Cpu, DType::F32).unwrap();
    let expected = values(&case.run(&backbone, &Pass::frozen()));
    assert_eq!(values(&case.run(&again, &Pass::frozen())), expected);
    again.save(dir.path(), &Overlay::new(), DType::F32).unwrap();
    let diffusers = Backbone::open(dir.path(), &Device::Cpu, DType::F32).unwrap();
    assert_eq!(values(&case.run(&diffusers, &Pass::frozen())), expected);
}

#[test]
fn inspection_agrees_with_the_open_model() {
    for path in [
        "small",
        "small/transformer",
        "sharded",
        "pickled",
        "original/DiT.pt",
    ] {
        let (inspection, backbone) = (inspect(&golden(path)).unwrap(), open(path));
        assert_eq!(&inspection.info, backbone.info(), "{path}");
        assert_eq!(inspection.layers, backbone.layers(), "{path}");
    }
    let inspection = inspect(&golden("small")).unwrap();
    let json = serde_json::to_value(&inspection.layers).unwrap();
    assert_eq!(json[0]["path"], "pos_embed.proj");
    assert_eq!(json[0]["kind"], "conv2d");
    let back: Vec<LayerInfo> = serde_json::from_value(json).unwrap();
    assert_eq!(back, inspection.layers);
}

#[test]
fn a_config_survives_being_written_and_read() {
    let config = DitConfig {
        out_channels: Some(6),
        norm_elementwise_affine: true,
        norm_eps: 1e-6,
        ..tiny()
    };
    assert_eq!(
        DitConfig::from_json(&config.to_json(), "config.json").unwrap(),
        config
    );
    let legacy = r#"{"_class_name": "Transformer2DModel", "norm_type": "ada_norm_zero", "patch_size": 2, "num_layers": 12, "num_vector_embeds": null,
        "num_attention_heads": 6, "attention_head_dim": 64, "in_channels": 4, "out_channels": 8, "sample_size": 32, "activation_fn": "gelu-approximate", "dropout": 0.0}"#;
    let config = DitConfig::from_json(legacy, "config.json").unwrap();
    assert_eq!(
        (config.num_layers, config.width(), config.learned_variance()),
        (12, 384, true)
    );
}

#[test]
fn a_file_of_inputs_becomes_a_file_of_predictions() {
    let backbone = open("small");
    let case = Case::read("small/case.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let (inputs, output) = (
        dir.path().join("in.safetensors"),
        dir.path().join("out.safetensors"),
    );
    for (timesteps, labels) in [
        (DType::I64, DType::I64),
        (DType::F32, DType::I32),
        (DType::I32, DType::U32),
    ] {
        let tensors = BTreeMap::from([
            ("latents", case.tensor("latents").clone()),
            (
                "timesteps",
                case.tensor("timesteps").to_dtype(timesteps).unwrap(),
            ),
            (
                "class_labels",
                case.tensor("class_labels").to_dtype(labels).unwrap(),
            ),
        ]);
        candle_core::safetensors::save(&tensors.into_iter().collect(), &inputs).unwrap();
        forward_file(&backbone, &inputs, &output).unwrap();
        let written = candle_core::safetensors::load(&output, &Device::Cpu).unwrap();
        check_close(
            "prediction",
            &written["prediction"],
            case.tensor("prediction"),
            1e-4,
        );
    }
}

#[test]
fn inputs_without_labels_mean_the_null_class() {
    let backbone = open("small");
    let case = Case::read("small/case.safetensors");
    let dir = tempfile::tempdir().unwrap();
    let (inputs, output) = (
        dir.path().join("in.safetensors"),
        dir.path().join("out.safetensors"),
    );
    let tensors = HashMap::from([
        ("latents", case.tensor("latents").clone()),
        ("timesteps", case.tensor("timesteps").clone()),
    ]);
    candle_core::safetensors::save(&tensors, &inputs).unwrap();
    let prediction = forward_file(&backbone, &inputs, &output).unwrap();
    let null = Tensor::full(10u32, 3, &Device::Cpu).unwrap();
    let conditioning = Conditioning::classes(null);
    let input = Input {
        latents: case.tensor("latents"),
        timesteps: case.tensor("timesteps"),
        conditioning: &conditioning,
    };
    let expected = backbone.forward(&input, &Pass::frozen()).unwrap();
    assert_eq!(values(&prediction), values(&expected));
}
