//! Whole pipelines in one file of the original layout: names as diffusers' converters read them, and the network behind them.

use std::collections::BTreeMap;

use sha2::{Digest, Sha256};

use super::super::ldm::{self, TextLayout, UnetNames};
use super::super::unet::{Addition, DownBlock, PerLevel, UpBlock, outline};
use super::super::{UnetConfig, inspect};
use super::formula::{numbers, unet};
use super::unet::config;
use super::*;

/// The hash that `tests/goldens/original.py` has of names.
#[track_caller]
pub(crate) fn check_names(model: &str, names: &BTreeMap<String, String>) {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../tests/goldens/original.json"
    );
    let text = std::fs::read_to_string(path).unwrap();
    let golden: BTreeMap<String, String> = serde_json::from_str(&text).unwrap();
    let mut hash = Sha256::new();
    for (name, original) in names {
        hash.update(format!("{name} {original}\n"));
    }
    let found: String = (hash.finalize().iter())
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(found, golden[model], "{names:#?}");
}

fn names(config: &UnetConfig) -> BTreeMap<String, String> {
    let outline = outline(config).unwrap();
    let names = UnetNames::of(&outline.layers).unwrap();
    let original = |(name, _): (String, _)| {
        let original = names.original(&name).unwrap();
        (name, format!("model.diffusion_model.{original}"))
    };
    outline.shapes.into_iter().map(original).collect()
}

#[test]
fn original_names_of_unets_are_those_that_diffusers_converts() {
    for model in ["sd1", "sdxl"] {
        check_names(model, &names(&config(model)));
    }
    let names = names(&config("sdxl"));
    for (name, original) in [
        (
            "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q.weight",
            "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
        ),
        (
            "down_blocks.0.downsamplers.0.conv.bias",
            "input_blocks.3.0.op.bias",
        ),
        (
            "up_blocks.2.resnets.0.conv_shortcut.weight",
            "output_blocks.6.0.skip_connection.weight",
        ),
        (
            "up_blocks.1.upsamplers.0.conv.weight",
            "output_blocks.5.2.conv.weight",
        ),
    ] {
        assert_eq!(names[name], format!("model.diffusion_model.{original}"));
    }
}

/// As Stable Diffusion 1, of channels that a file's shapes can tell heads from.
fn first() -> UnetConfig {
    UnetConfig {
        block_out_channels: vec![32, 64],
        down_block_types: vec![DownBlock::CrossAttention, DownBlock::Plain],
        up_block_types: vec![UpBlock::Plain, UpBlock::CrossAttention],
        layers_per_block: PerLevel::All(1),
        cross_attention_dim: PerLevel::All(12),
        ..UnetConfig::default()
    }
}

/// As Stable Diffusion XL.
fn large() -> UnetConfig {
    UnetConfig {
        sample_size: 128,
        down_block_types: vec![DownBlock::Plain, DownBlock::CrossAttention],
        up_block_types: vec![UpBlock::CrossAttention, UpBlock::Plain],
        block_out_channels: vec![64, 128],
        attention_head_dim: PerLevel::Each(vec![1, 2]),
        transformer_layers_per_block: PerLevel::Each(vec![1, 2]),
        use_linear_projection: true,
        addition_embed_type: Some(Addition::TextTime),
        addition_time_embed_dim: Some(256),
        projection_class_embeddings_input_dim: Some(6 * 256 + 10),
        ..first()
    }
}

/// A file of the UNet's tensors under their original names, and one that belongs to another part.
fn file(dir: &std::path::Path, backbone: &Backbone, config: &UnetConfig) -> PathBuf {
    let names = names(config);
    let mut tensors: HashMap<String, Tensor> = backbone
        .parameters()
        .map(|(name, tensor)| (names[name].clone(), tensor.clone()))
        .collect();
    tensors.insert("model_ema.decay".to_owned(), numbers("decay", &[1]));
    let path = dir.join("model.safetensors");
    candle_core::safetensors::save(&tensors, &path).unwrap();
    path
}

#[test]
fn a_file_of_the_original_layout_is_the_network_that_diffusers_would_make_of_it() {
    for config in [first(), large()] {
        let backbone = unet(config.clone());
        let dir = tempfile::tempdir().unwrap();
        let path = file(dir.path(), &backbone, &config);
        let again = Backbone::open(&path, &Device::Cpu, DType::F32).unwrap();
        assert_eq!(again.config(), config.into());
        assert_eq!(&inspect(&path).unwrap().info, backbone.info());
        let mut case = Case::random(&backbone, 1);
        let latents = case.tensor("latents").narrow(2, 0, 8).unwrap();
        case.0
            .insert("latents".to_owned(), latents.narrow(3, 0, 8).unwrap());
        assert_eq!(
            values(&case.run(&again, &Pass::frozen())),
            values(&case.run(&backbone, &Pass::frozen()))
        );
    }
}

#[test]
fn a_configuration_beside_the_file_says_what_shapes_cannot() {
    let config = UnetConfig {
        attention_head_dim: PerLevel::All(4),
        sample_size: 16,
        ..first()
    };
    let backbone = unet(config.clone());
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &backbone, &config);
    std::fs::write(dir.path().join("config.json"), config.to_json()).unwrap();
    let again = Backbone::open(&path, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(again.config(), config.into());
}

#[test]
fn a_file_that_lacks_or_adds_tensors_is_refused_by_their_names() {
    let config = first();
    let backbone = unet(config.clone());
    let dir = tempfile::tempdir().unwrap();
    let path = file(dir.path(), &backbone, &config);
    let tensors = candle_core::safetensors::load(&path, &Device::Cpu).unwrap();
    let refusal = |change: &dyn Fn(&mut HashMap<String, Tensor>)| {
        let mut changed = tensors.clone();
        change(&mut changed);
        candle_core::safetensors::save(&changed, &path).unwrap();
        let error = Backbone::open(&path, &Device::Cpu, DType::F32).unwrap_err();
        error.to_string()
    };
    let without = |name: &'static str| {
        refusal(&|tensors| drop(tensors.remove(&format!("model.diffusion_model.{name}"))))
    };
    let message = without("middle_block.1.proj_in.weight");
    assert!(
        message.contains("middle_block.1.proj_in.weight"),
        "{message}"
    );
    let message = without("out.0.bias");
    assert!(
        message.contains("missing (conv_norm_out.bias)"),
        "{message}"
    );
    let message = refusal(&|tensors| {
        let gate = "model.diffusion_model.input_blocks.1.1.fuser.weight";
        tensors.insert(gate.to_owned(), numbers("gate", &[2]));
    });
    assert!(
        message.contains("1 unexpected") && message.contains("fuser"),
        "{message}"
    );
}

#[test]
fn text_encoders_are_found_in_a_file_and_open_clips_are_named_as_transformers_does() {
    let shapes: BTreeMap<String, Vec<usize>> = [
        (
            "conditioner.embedders.0.transformer.text_model.final_layer_norm.weight",
            vec![8],
        ),
        ("conditioner.embedders.1.model.ln_final.weight", vec![12]),
        (
            "conditioner.embedders.1.model.transformer.resblocks.0.attn.in_proj_weight",
            vec![36, 12],
        ),
        (
            "conditioner.embedders.1.model.text_projection",
            vec![12, 10],
        ),
        ("conditioner.embedders.1.model.logit_scale", vec![]),
    ]
    .into_iter()
    .map(|(name, shape)| (name.to_owned(), shape))
    .collect();
    let found = ldm::text_encoders(&shapes);
    assert_eq!(
        found.iter().map(|(_, layout)| *layout).collect::<Vec<_>>(),
        [TextLayout::Transformers, TextLayout::OpenClip]
    );
    let (prefix, layout) = found[0];
    let catalog = ldm::text_catalog(&shapes, prefix, layout);
    assert_eq!(
        catalog.into_keys().collect::<Vec<_>>(),
        ["text_model.final_layer_norm.weight"]
    );
    let (prefix, layout) = found[1];
    let catalog = ldm::text_catalog(&shapes, prefix, layout);
    assert_eq!(catalog["text_projection.weight"].shape, [10, 12]);
    assert!(catalog["text_projection.weight"].transposed);
    let value = &catalog["text_model.encoder.layers.0.self_attn.v_proj.weight"];
    assert_eq!(
        (value.third, value.shape.as_slice()),
        (Some(2), &[12, 12][..])
    );
    assert_eq!(catalog.len(), 5);
}
