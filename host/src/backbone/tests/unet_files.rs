//! A UNet in files: what is written reads back, and what is not computed is refused by name.

use super::super::{Config, inspect, layers_of};
use super::formula::unet;
use super::unet::{config, tiny_unets};
use super::*;

#[test]
fn a_saved_unet_predicts_the_same_bits_from_the_pipeline_and_from_its_folder() {
    for backbone in tiny_unets() {
        let case = Case::random(&backbone, 2);
        let dir = tempfile::tempdir().unwrap();
        backbone
            .save(dir.path(), &Overlay::new(), DType::F32)
            .unwrap();
        let expected = values(&case.run(&backbone, &Pass::frozen()));
        for path in [dir.path().to_owned(), dir.path().join("unet")] {
            let again = Backbone::open(&path, &Device::Cpu, DType::F32).unwrap();
            assert_eq!(values(&case.run(&again, &Pass::frozen())), expected);
            assert_eq!(again.info(), backbone.info());
            assert_eq!(again.config(), backbone.config());
            let inspection = inspect(&path).unwrap();
            assert_eq!(&inspection.info, backbone.info());
            assert_eq!(inspection.layers, backbone.layers());
            assert_eq!(layers_of(&path).unwrap(), backbone.layers());
        }
    }
}

#[test]
fn half_precision_variants_are_found_and_the_overlay_is_merged() {
    let backbone = unet(config("sd1"));
    let name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight";
    let (_, frozen) = backbone.parameters().find(|(own, _)| *own == name).unwrap();
    let overlay = Overlay::from([(name.to_owned(), frozen.zeros_like().unwrap())]);
    let dir = tempfile::tempdir().unwrap();
    backbone.save(dir.path(), &overlay, DType::F16).unwrap();
    let folder = dir.path().join("unet");
    let stem = folder.join("diffusion_pytorch_model");
    std::fs::rename(
        stem.with_extension("safetensors"),
        stem.with_extension("fp16.safetensors"),
    )
    .unwrap();
    let again = Backbone::open(dir.path(), &Device::Cpu, DType::F32).unwrap();
    let case = Case::random(&backbone, 2);
    let pass = Pass {
        overlay: Some(&overlay),
        ..Pass::frozen()
    };
    let expected = case.run(&backbone, &pass);
    check_close("f16", &case.run(&again, &Pass::frozen()), &expected, 2e-3);
}

#[test]
fn a_file_of_inputs_holds_what_a_unet_is_told() {
    use super::super::forward_file::forward_file;
    let backbone = unet(config("sdxl"));
    let case = Case::random(&backbone, 2);
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name);
    let (given, output) = (file("in.safetensors"), file("out.safetensors"));
    candle_core::safetensors::save(&case.0, &given).unwrap();
    let prediction = forward_file(&backbone, &given, &output).unwrap();
    let expected = case.run(&backbone, &Pass::frozen());
    assert_eq!(values(&prediction), values(&expected));
    let mut lacking = case.0.clone();
    lacking.remove("time_ids");
    candle_core::safetensors::save(&lacking, &given).unwrap();
    let error = forward_file(&backbone, &given, &output).unwrap_err();
    assert!(error.to_string().contains("no `time_ids`"), "{error}");
}

/// The sentence about a `config.json` with one field changed.
fn refusal(field: &str, value: &str) -> String {
    let mut text: serde_json::Value = serde_json::from_str(&config("sdxl").to_json()).unwrap();
    text[field] = serde_json::from_str(value).unwrap();
    Config::from_json(&text.to_string(), "config.json")
        .unwrap_err()
        .to_string()
}

#[test]
fn a_configuration_that_is_not_computed_is_refused_by_its_field() {
    for (field, value, expected) in [
        ("center_input_sample", "true", "false"),
        ("only_cross_attention", "[true, false, false]", "false"),
        ("dual_cross_attention", "true", "false"),
        ("num_attention_heads", "4", "null"),
        ("class_embed_type", "\"timestep\"", "null"),
        ("num_class_embeds", "10", "null"),
        ("encoder_hid_dim_type", "\"text_proj\"", "null"),
        ("resnet_time_scale_shift", "\"scale_shift\"", "default"),
        ("time_cond_proj_dim", "256", "null"),
        ("attention_type", "\"gated\"", "default"),
        ("conv_in_kernel", "1", "3"),
        ("act_fn", "\"gelu\"", "silu"),
        (
            "down_block_types",
            "[\"DownBlock2D\", \"SimpleCrossAttnDownBlock2D\", \"DownBlock2D\"]",
            "CrossAttnDownBlock2D or DownBlock2D",
        ),
        (
            "up_block_types",
            "[\"UpBlock2D\"]",
            "3, as block_out_channels",
        ),
        (
            "mid_block_type",
            "\"UNetMidBlock2DSimpleCrossAttn\"",
            "null",
        ),
        ("addition_embed_type", "\"image\"", "text_time"),
        ("addition_time_embed_dim", "null", "beside it"),
        (
            "projection_class_embeddings_input_dim",
            "36",
            "more than 36",
        ),
        ("cross_attention_dim", "[12, 12, 16]", "one for all levels"),
        ("cross_attention_dim", "null", "a number"),
        ("attention_head_dim", "[2, 2]", "each of 3 levels"),
        ("attention_head_dim", "3", "a multiple of 3"),
        ("norm_num_groups", "3", "a multiple of norm_num_groups, 3"),
        ("layers_per_block", "0", "at least 1"),
        (
            "transformer_layers_per_block",
            "[1, [1, 2], [2, 2]]",
            "one number a level",
        ),
        ("sample_size", "[8, 16]", "a square"),
    ] {
        let message = refusal(field, value);
        let named = message.contains(field)
            || field.starts_with("attention_head") && message.contains("attention_head_dim")
            || field == "addition_time_embed_dim" && message.contains("addition_embed_type");
        assert!(named && message.contains(expected), "{field}: {message}");
    }
}

#[test]
fn a_configuration_may_leave_out_or_spell_differently_what_changes_nothing() {
    let mut text: serde_json::Value = serde_json::from_str(&config("sd1").to_json()).unwrap();
    for (field, value) in [
        ("sample_size", "[8, 8]"),
        ("only_cross_attention", "[false, false, false]"),
        ("act_fn", "\"swish\""),
        ("mid_block_scale_factor", "1.0"),
        ("time_embedding_type", "null"),
        ("cross_attention_dim", "[12, 12, 12]"),
    ] {
        text[field] = serde_json::from_str(value).unwrap();
    }
    let Config::Unet(read) = Config::from_json(&text.to_string(), "config.json").unwrap() else {
        panic!("a UNet")
    };
    assert_eq!((read.sample_size, read.text_width()), (8, 12));
    text["sample_size"] = serde_json::Value::Null;
    let Config::Unet(read) = Config::from_json(&text.to_string(), "config.json").unwrap() else {
        panic!("a UNet")
    };
    assert_eq!(read.sample_size, 64);
}

#[test]
fn a_fresh_unet_predicts_zero_and_starts_as_pytorch_and_the_original_code_do() {
    let fresh = Backbone::init(config("sd2"), 3, &Device::Cpu).unwrap();
    let weight = |name: &str| {
        let (_, tensor) = fresh.parameters().find(|(own, _)| *own == name).unwrap();
        values(tensor)
    };
    // 4 channels, a kernel of 3 x 3.
    let bound = 1.0 / 36f32.sqrt();
    let top = (weight("conv_in.weight").into_iter()).fold(0f32, |top, value| top.max(value.abs()));
    assert!(top <= bound && top > 0.9 * bound, "{top} against {bound}");
    assert_eq!(weight("conv_norm_out.weight"), [1.0; 8]);
    for name in ["resnets.0.conv2", "attentions.0.proj_out"] {
        let all = weight(&format!("mid_block.{name}.weight"));
        assert!(all.iter().all(|&value| value == 0.0), "{name}");
    }
    let case = Case::random(&fresh, 1);
    let prediction = values(&case.run(&fresh, &Pass::frozen()));
    assert!(prediction.iter().all(|&value| value == 0.0));
}
