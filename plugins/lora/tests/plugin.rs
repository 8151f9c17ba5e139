//! The plugin's hooks on the plugin crate's small test host: which parameters it makes, what it adds to a layer, and what it refuses.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use lora::Lora;
use plugin_api::hooks::{LayerHook, PrepareHook};
use plugin_api::services::{self, LayersOut, Nothing};
use plugin_api::testing::TestHost;
use plugin_api::{BackboneInfo, DType, Host, LayerInfo, LayerKind, Result, Tensor};
use serde_json::Value;

const INPUTS: usize = 3;
const OUTPUTS: usize = 2;

fn layer(id: u32, path: &str) -> LayerInfo {
    LayerInfo {
        id,
        path: path.to_owned(),
        kind: LayerKind::LINEAR,
        in_features: INPUTS,
        out_features: OUTPUTS,
        weight_shape: vec![OUTPUTS, INPUTS],
        bias: true,
        conv: Vec::new(),
    }
}

fn layers() -> Vec<LayerInfo> {
    let ends = [
        "attn1.to_q",
        "attn1.to_k",
        "attn1.to_v",
        "attn1.to_out.0",
        "ff.net.2",
    ];
    let paths = (0..2).flat_map(|block| ends.map(|end| format!("blocks.{block}.{end}")));
    (0..)
        .zip(paths)
        .map(|(id, path)| layer(id, &path))
        .collect()
}

/// What the host was told of a file: its path, the shapes by name, the header.
struct Told {
    file: String,
    shapes: BTreeMap<String, Vec<usize>>,
    metadata: BTreeMap<String, String>,
    texts: BTreeMap<String, String>,
    written: BTreeMap<String, Vec<usize>>,
}

fn backbone(architecture: &str) -> BackboneInfo {
    BackboneInfo {
        architecture: architecture.to_owned(),
        parameters: 0,
        in_channels: 3,
        out_channels: 3,
        latent_channels: 3,
        sample_size: 8,
        image_size: 8,
        num_classes: None,
        null_class: None,
        learned_variance: false,
        text: false,
        residual_sites: 0,
        fingerprint: String::new(),
    }
}

/// A host with a backbone of two blocks; it keeps what it was told of the adapter's files.
fn rig() -> (TestHost, Arc<Mutex<Vec<Told>>>) {
    let host = TestHost::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let kept = told.clone();
    host.answer::<services::Layers>(|_| Ok(LayersOut { layers: layers() }));
    host.answer::<services::Backbone>(|_| Ok(backbone("dit")));
    host.answer::<services::CurrentWeight>(|asked| {
        let maker = TestHost::new();
        let shape: &[usize] = match asked.name.ends_with("bias") {
            true => &[OUTPUTS],
            false => &[OUTPUTS, INPUTS],
        };
        let count = shape.iter().product::<usize>();
        let values: Vec<f32> = (0..count).map(|i| 0.1 + (i as f32 * 1.7).sin()).collect();
        Ok(services::TensorOut {
            tensor: tensor(&values, shape, &maker),
        })
    });
    host.answer::<services::Adapter>(move |adapter| {
        let shapes = adapter.tensors.iter();
        kept.lock().unwrap().push(Told {
            file: adapter.file,
            shapes: shapes.map(|(name, x)| (name.clone(), x.dims())).collect(),
            metadata: adapter.metadata,
            texts: adapter.texts,
            written: adapter.shapes.unwrap_or_default(),
        });
        Ok(Nothing {})
    });
    (host, told)
}

fn prepared(host: &TestHost, settings: &str) -> Lora {
    let mut lora: Lora = host.build(settings).unwrap();
    lora.prepare(host).unwrap();
    lora
}

fn tensor(values: &[f32], shape: &[usize], host: &Host) -> Tensor {
    Tensor::from_slice(values, shape, host).unwrap()
}

/// `scale * B A x` of one sample.
fn update(scale: f32, a: &[f32], b: &[f32], x: &[f32; INPUTS]) -> [f32; OUTPUTS] {
    let rank = a.len() / INPUTS;
    let low: Vec<f32> = (0..rank)
        .map(|r| (0..INPUTS).map(|i| a[r * INPUTS + i] * x[i]).sum())
        .collect();
    std::array::from_fn(|o| scale * (0..rank).map(|r| b[o * rank + r] * low[r]).sum::<f32>())
}

#[test]
fn the_default_targets_are_the_attention_projections_under_stable_names() {
    let (host, _) = rig();
    let lora = prepared(&host, "{}");
    let adapted: Vec<u32> = layers()
        .iter()
        .filter(|layer| lora.adapts(layer))
        .map(|layer| layer.id)
        .collect();
    assert_eq!(adapted, [0, 1, 2, 3, 5, 6, 7, 8]);
    let made = host.made_parameters();
    assert_eq!(made.len(), 16);
    assert_eq!(
        made["blocks.1.attn1.to_out.0.lora_A.weight"].dims(),
        [16, INPUTS]
    );
    assert_eq!(
        made["blocks.1.attn1.to_out.0.lora_B.weight"].dims(),
        [OUTPUTS, 16]
    );
}

#[test]
fn step_zero_is_the_backbone_because_b_is_zero_and_a_is_not() {
    let (host, _) = rig();
    let mut lora = prepared(&host, r#"{ "rank": 4, "alpha": 9 }"#);
    // PyTorch's bound for a linear layer: 1 / sqrt(fan in).
    let bound = (1.0 / INPUTS as f32).sqrt();
    for (name, values) in host.made_parameters() {
        let values = values.to_vec::<f32>().unwrap();
        if name.ends_with("lora_A.weight") {
            assert!(values.iter().all(|value| value.abs() <= bound), "{name}");
            assert!(
                values.iter().any(|value| value.abs() > bound / 2.0),
                "{name}"
            );
        } else {
            assert_eq!(values, vec![0.0; values.len()], "{name}");
        }
    }
    let output = [0.1 + 0.2, -1.0e-40, 3.0e30, -7.0];
    let input = tensor(&[1.0, -2.0, 3.0, 4.0, 5.0, -6.0], &[2, 1, INPUTS], &host);
    let given = tensor(&output, &[2, 1, OUTPUTS], &host);
    let adapted = lora.layer(&layers()[0], &input, given, &host).unwrap();
    assert_eq!(adapted.dims(), [2, 1, OUTPUTS]);
    assert_eq!(adapted.to_vec::<f32>().unwrap(), output);
}

fn check_update(settings: &str, scale: f32) -> Result<()> {
    let (host, _) = rig();
    // Parameters that have been trained: the host answers with values of its own.
    let (a, b) = ([0.5, -1.0, 2.0, 1.0, 0.25, -0.5], [2.0, 1.0, -1.0, 3.0]);
    let values = TestHost::new();
    let (given_a, given_b) = (
        tensor(&a, &[2, INPUTS], &values),
        tensor(&b, &[OUTPUTS, 2], &values),
    );
    host.answer::<services::Parameter>(move |asked| {
        let tensor = if asked.name.ends_with("lora_A.weight") {
            &given_a
        } else {
            &given_b
        };
        assert_eq!(tensor.dims(), asked.shape);
        Ok(services::TensorOut {
            tensor: tensor.clone(),
        })
    });
    let mut lora = prepared(&host, settings);
    let samples = [[1.0, 2.0, 3.0], [-4.0, 0.0, 0.5]];
    let input = tensor(samples.as_flattened(), &[2, INPUTS], &host);
    let base = tensor(&[10.0, 20.0, 30.0, 40.0], &[2, OUTPUTS], &host);
    let adapted = lora
        .layer(&layers()[3], &input, base, &host)?
        .to_vec::<f32>()?;
    let expected: Vec<f32> = samples
        .iter()
        .flat_map(|x| update(scale, &a, &b, x))
        .zip([10.0, 20.0, 30.0, 40.0])
        .map(|(update, base)| base + update)
        .collect();
    for (adapted, expected) in adapted.iter().zip(&expected) {
        assert!(
            (adapted - expected).abs() < 1e-5,
            "{adapted} and {expected}"
        );
    }
    Ok(())
}

#[test]
fn an_update_counts_alpha_over_rank_and_once_without_alpha() {
    check_update(r#"{ "rank": 2 }"#, 1.0).unwrap();
    check_update(r#"{ "rank": 2, "alpha": 3 }"#, 1.5).unwrap();
}

#[test]
fn a_backbone_of_another_type_gets_its_output_in_that_type() {
    let (host, _) = rig();
    let mut lora = prepared(&host, r#"{ "rank": 2 }"#);
    let half = |values: &[f32], shape: &[usize]| {
        tensor(values, shape, &host).to_dtype(DType::BF16).unwrap()
    };
    let (input, output) = (
        half(&[1.0; INPUTS], &[1, INPUTS]),
        half(&[2.0; OUTPUTS], &[1, OUTPUTS]),
    );
    let adapted = lora.layer(&layers()[0], &input, output, &host).unwrap();
    assert_eq!(adapted.dtype(), DType::BF16);
}

#[test]
fn a_layer_that_no_target_names_is_left_alone() {
    let (host, _) = rig();
    let mut lora = prepared(&host, r#"{ "targets": ["**.ff.net.2"] }"#);
    assert!(!lora.adapts(&layers()[0]) && lora.adapts(&layers()[4]));
    let input = tensor(&[1.0; INPUTS], &[1, INPUTS], &host);
    let output = tensor(&[5.0; OUTPUTS], &[1, OUTPUTS], &host);
    let same = lora.layer(&layers()[0], &input, output, &host).unwrap();
    assert_eq!(same.to_vec::<f32>().unwrap(), [5.0; OUTPUTS]);
}

#[test]
fn a_target_that_matches_nothing_is_refused_while_the_plugin_is_built() {
    let (host, _) = rig();
    let error = host
        .build::<Lora>(r#"{ "targets": ["**.to_qq"] }"#)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("`**.to_qq`") && error.contains("blocks.0.attn1.to_q"),
        "{error}"
    );
}

#[test]
fn settings_out_of_range_are_refused() {
    let (host, _) = rig();
    for settings in [
        r#"{ "rank": 0 }"#,
        r#"{ "alpha": 0 }"#,
        r#"{ "alpha": -1 }"#,
        r#"{ "ranks": 4 }"#,
        r#"{ "dropout": 1 }"#,
        r#"{ "rank_pattern": { "**.to_q": 0 } }"#,
        r#"{ "formats": [] }"#,
    ] {
        assert!(host.build::<Lora>(settings).is_err(), "{settings}");
    }
}

#[test]
fn what_a_kind_has_no_use_for_is_refused() {
    let (host, _) = rig();
    for (settings, parts) in [
        (r#"{ "kind": "ia3", "rank": 4 }"#, ["`rank`", "ia3"]),
        (
            r#"{ "kind": "loha", "dora": true }"#,
            ["`dora`", "kind lora"],
        ),
        (
            r#"{ "kind": "lokr", "dropout": 0.1 }"#,
            ["`dropout`", "kind lora"],
        ),
        (
            r#"{ "effective_conv": true }"#,
            ["`effective_conv`", "loha or lokr"],
        ),
        (
            r#"{ "feedforward": ["**.ff.net.2"] }"#,
            ["`feedforward`", "kind ia3"],
        ),
        (
            r#"{ "kind": "loha", "formats": ["diffusers"] }"#,
            ["diffusers", "peft"],
        ),
        (
            r#"{ "kind": "ia3", "formats": ["kohya"] }"#,
            ["kohya", "peft"],
        ),
    ] {
        let error = host.build::<Lora>(settings).err().unwrap().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[test]
fn every_kind_begins_at_the_backbone_to_the_bit() {
    for settings in [
        r#""rank": 4, "alpha": 9, "rslora": true, "init": "gaussian", "dropout": 0.5"#,
        r#""rank": 2, "dora": true"#,
        r#""kind": "loha", "rank": 2"#,
        r#""kind": "lokr", "rank": 1"#,
        r#""kind": "lokr", "rank": 1, "decompose_both": true"#,
        r#""kind": "ia3""#,
    ] {
        let (host, _) = rig();
        let mut lora = prepared(
            &host,
            &format!(r#"{{ {settings}, "targets": ["**.to_q", "**.ff.net.2"] }}"#),
        );
        let output = [0.1 + 0.2, -1.0e-30, 3.0e30, -7.0];
        let input = tensor(&[1.0, -2.0, 3.0, 4.0, 5.0, -6.0], &[2, INPUTS], &host);
        for place in [0, 4] {
            let given = tensor(&output, &[2, OUTPUTS], &host);
            let adapted = lora.layer(&layers()[place], &input, given, &host).unwrap();
            assert_eq!(adapted.to_vec::<f32>().unwrap(), output, "{settings}");
        }
    }
}

#[test]
fn dora_refuses_an_output_without_a_direction() {
    let (host, _) = rig();
    host.answer::<services::CurrentWeight>(|_| {
        let values = [1.0, 2.0, 3.0, 0.0, 0.0, 0.0];
        Ok(services::TensorOut {
            tensor: tensor(&values, &[OUTPUTS, INPUTS], &TestHost::new()),
        })
    });
    let mut lora: Lora = host.build(r#"{ "rank": 2, "dora": true }"#).unwrap();
    let error = lora.prepare(&host).unwrap_err().to_string();
    assert!(
        error.contains("`blocks.0.attn1.to_q`") && error.contains("exclude"),
        "{error}"
    );
}

#[test]
fn the_host_is_told_how_peft_calls_it() {
    let (host, told) = rig();
    prepared(
        &host,
        r#"{ "rank": 8, "alpha": 4, "targets": ["**.to_q"] }"#,
    );
    let told = told.lock().unwrap();
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].file, "pytorch_lora_weights.safetensors");
    let shapes = &told[0].shapes;
    assert_eq!(shapes.len(), 4);
    for block in 0..2 {
        let name = |part: &str| format!("transformer.blocks.{block}.attn1.to_q.lora_{part}.weight");
        assert_eq!(shapes[&name("A")], [8, INPUTS]);
        assert_eq!(shapes[&name("B")], [OUTPUTS, 8]);
    }
    let config = &told[0].metadata["lora_adapter_metadata"];
    let config: Value = serde_json::from_str(config).unwrap();
    assert_eq!(config["transformer.r"], 8);
    assert_eq!(config["transformer.lora_alpha"], 4.0);
    assert_eq!(
        config["transformer.target_modules"],
        serde_json::json!(["blocks.0.attn1.to_q", "blocks.1.attn1.to_q"])
    );
}

#[test]
fn the_file_is_named_for_the_part_of_the_pipeline_that_the_backbone_is() {
    let (host, told) = rig();
    host.answer::<services::Backbone>(|_| Ok(backbone("unet")));
    prepared(&host, r#"{ "targets": ["**.to_q"] }"#);
    let told = told.lock().unwrap();
    assert!(told[0].shapes.keys().all(|name| name.starts_with("unet.")));
    let config: Value = serde_json::from_str(&told[0].metadata["lora_adapter_metadata"]).unwrap();
    assert_eq!(config["unet.r"], 16);
}

#[test]
fn peft_is_told_of_other_ranks_and_alphas_and_kohya_of_each_layers_alpha() {
    let (host, told) = rig();
    prepared(
        &host,
        r#"{ "rank": 8, "alpha": 4, "rslora": true, "dora": true, "dropout": 0.5, "targets": ["**.to_q"], "formats": ["peft", "kohya"],
            "rank_pattern": { "blocks.1.**": 4 }, "alpha_pattern": { "blocks.0.**": 2 } }"#,
    );
    let told = told.lock().unwrap();
    let files: Vec<&str> = told.iter().map(|told| told.file.as_str()).collect();
    assert_eq!(files, ["adapter_model.safetensors", "kohya.safetensors"]);
    let (peft, kohya) = (&told[0], &told[1]);

    assert_eq!(
        peft.shapes["base_model.model.blocks.1.attn1.to_q.lora_A.weight"],
        [4, INPUTS]
    );
    assert_eq!(
        peft.shapes["base_model.model.blocks.0.attn1.to_q.lora_magnitude_vector"],
        [OUTPUTS]
    );
    let config: Value = serde_json::from_str(&peft.texts["adapter_config.json"]).unwrap();
    for (key, value) in [
        ("peft_type", serde_json::json!("LORA")),
        ("r", serde_json::json!(8)),
        ("lora_alpha", serde_json::json!(4.0)),
        ("lora_dropout", serde_json::json!(0.5)),
        ("use_rslora", serde_json::json!(true)),
        ("use_dora", serde_json::json!(true)),
        (
            "rank_pattern",
            serde_json::json!({ "^blocks.1.attn1.to_q": 4 }),
        ),
        (
            "alpha_pattern",
            serde_json::json!({ "^blocks.0.attn1.to_q": 2.0 }),
        ),
    ] {
        assert_eq!(config[key], value, "{key}");
    }

    let name = |part: &str| format!("lora_unet_blocks_1_attn1_to_q.{part}");
    assert_eq!(kohya.shapes[&name("lora_down.weight")], [4, INPUTS]);
    assert_eq!(kohya.shapes[&name("lora_up.weight")], [OUTPUTS, 4]);
    assert_eq!(kohya.written[&name("dora_scale")], [OUTPUTS, 1]);
    assert_eq!(kohya.shapes[&name("alpha")], [0usize; 0]);
}

#[test]
fn peft_is_told_which_inputs_ia3_scales() {
    let (host, told) = rig();
    prepared(
        &host,
        r#"{ "kind": "ia3", "targets": ["blocks.0.attn1.to_k", "blocks.0.ff.net.2"] }"#,
    );
    let told = told.lock().unwrap();
    let config: Value = serde_json::from_str(&told[0].texts["adapter_config.json"]).unwrap();
    assert_eq!(config["peft_type"], "IA3");
    assert_eq!(
        config["feedforward_modules"],
        serde_json::json!(["blocks.0.ff.net.2"])
    );
    assert_eq!(
        told[0].shapes["base_model.model.blocks.0.attn1.to_k.ia3_l"],
        [OUTPUTS, 1]
    );
    assert_eq!(
        told[0].shapes["base_model.model.blocks.0.ff.net.2.ia3_l"],
        [1, INPUTS]
    );
}
