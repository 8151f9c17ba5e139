//! Against transformers' numbers (`tests/goldens/text.py`), and what is refused.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use super::{EMBEDS, Error, STATES, TextEncoders, Tokenizer, inspect};

fn golden() -> Value {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/text/case.json");
    serde_json::from_str(&fs::read_to_string(file).unwrap()).unwrap()
}

fn prompts(golden: &Value) -> Vec<String> {
    serde_json::from_value(golden["prompts"].clone()).unwrap()
}

/// The script's `weights`: numbers that depend on a parameter's name, its shape and their place alone.
pub(crate) fn weights(name: &str, shape: &[usize]) -> Tensor {
    let seed = name.bytes().fold(0xCBF2_9CE4_8422_2325_u64, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3)
    });
    let inner: usize = shape[1..].iter().product();
    let is_norm = ["norm.weight", "norm1.weight", "norm2.weight"]
        .iter()
        .any(|ending| name.ends_with(ending));
    let value = |place: u64| {
        let mut x = seed.wrapping_add(place.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        let uniform = ((x ^ (x >> 31)) >> 40) as f64 / f64::from(1 << 24) * 2.0 - 1.0;
        match shape.len() {
            1 => (uniform * 0.2 + f64::from(u8::from(is_norm))) as f32,
            _ => (uniform * (3.0 / inner as f64).sqrt()) as f32,
        }
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>() as u64)
        .map(value)
        .collect();
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
}

/// Names and shapes of a text model's parameters.
fn shapes(config: &Value) -> Vec<(String, Vec<usize>)> {
    let number = |key: &str| config[key].as_u64().unwrap() as usize;
    let (width, inner) = (number("hidden_size"), number("intermediate_size"));
    let mut all = vec![
        (
            "text_model.embeddings.token_embedding.weight".to_owned(),
            vec![number("vocab_size"), width],
        ),
        (
            "text_model.embeddings.position_embedding.weight".to_owned(),
            vec![number("max_position_embeddings"), width],
        ),
    ];
    let mut layer = |path: String, outputs: usize, inputs: usize| {
        all.push((format!("{path}.weight"), vec![outputs, inputs]));
        all.push((format!("{path}.bias"), vec![outputs]));
    };
    let mut norms = vec!["text_model.final_layer_norm".to_owned()];
    for index in 0..number("num_hidden_layers") {
        let block = format!("text_model.encoder.layers.{index}");
        for name in ["q", "k", "v", "out"] {
            layer(format!("{block}.self_attn.{name}_proj"), width, width);
        }
        layer(format!("{block}.mlp.fc1"), inner, width);
        layer(format!("{block}.mlp.fc2"), width, inner);
        norms.extend([
            format!("{block}.layer_norm1"),
            format!("{block}.layer_norm2"),
        ]);
    }
    for norm in norms {
        all.push((format!("{norm}.weight"), vec![width]));
        all.push((format!("{norm}.bias"), vec![width]));
    }
    if config["architectures"][0] == "CLIPTextModelWithProjection" {
        all.push((
            "text_projection.weight".to_owned(),
            vec![number("projection_dim"), width],
        ));
    }
    all
}

fn write_json(file: &Path, value: &Value) {
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, value.to_string()).unwrap();
}

/// Writes an encoder's folder; `stored` gives the name in the file.
fn write_encoder(dir: &Path, config: &Value, dtype: DType, stored: &dyn Fn(&str) -> String) {
    write_json(&dir.join("config.json"), config);
    let tensors: HashMap<String, Tensor> = (shapes(config).into_iter())
        .map(|(name, shape)| {
            let tensor = weights(&name, &shape).to_dtype(dtype).unwrap();
            (stored(&name), tensor)
        })
        .collect();
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
}

/// Writes a tokenizer's folder in the form of transformers 4.
fn write_tokenizer(dir: &Path, golden: &Value, pad: &str) {
    let tokens = golden["tokens"].as_array().unwrap();
    let vocab: serde_json::Map<String, Value> = (tokens.iter().enumerate())
        .map(|(number, token)| (token.as_str().unwrap().to_owned(), json!(number)))
        .collect();
    write_json(&dir.join("vocab.json"), &Value::Object(vocab));
    let merges: Vec<String> = serde_json::from_value(golden["merges"].clone()).unwrap();
    fs::write(
        dir.join("merges.txt"),
        format!("#version: 0.2\n{}\n", merges.join("\n")),
    )
    .unwrap();
    write_json(
        &dir.join("tokenizer_config.json"),
        &json!({ "model_max_length": golden["length"], "pad_token": "<|endoftext|>" }),
    );
    let pad = match pad {
        "mark" => json!({ "content": "!", "lstrip": false }),
        _ => json!("<|endoftext|>"),
    };
    write_json(
        &dir.join("special_tokens_map.json"),
        &json!({ "pad_token": pad }),
    );
}

/// Writes the text parts of a pipeline with these of the golden's models.
pub(crate) fn write_pipeline(dir: &Path, models: &[&str]) {
    let golden = golden();
    let parts = [
        ("text_encoder", "tokenizer"),
        ("text_encoder_2", "tokenizer_2"),
    ];
    let mut index = json!({ "_class_name": "StableDiffusionPipeline" });
    for (model, (encoder, tokenizer)) in models.iter().zip(parts) {
        let case = &golden["models"][model];
        let plain = |name: &str| name.to_owned();
        write_encoder(&dir.join(encoder), &case["config"], DType::F32, &plain);
        let pad = case["padding"].as_str().unwrap();
        write_tokenizer(&dir.join(tokenizer), &golden, pad);
        index[encoder] = json!(["transformers", "CLIPTextModel"]);
        index[tokenizer] = json!(["transformers", "CLIPTokenizer"]);
    }
    if models.len() > 1 {
        index["_class_name"] = json!("StableDiffusionXLPipeline");
    }
    write_json(&dir.join("model_index.json"), &index);
}

fn open(dir: &Path) -> Result<TextEncoders, Error> {
    TextEncoders::open(dir, &Device::Cpu, DType::F32)
}

/// The largest difference between every seventh number and the golden's, as a share of the largest of those.
fn difference(found: &Tensor, expected: &Value) -> f32 {
    let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
    let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
    let found: Vec<f32> = found.into_iter().step_by(7).collect();
    assert_eq!(found.len(), expected.len());
    let largest = expected
        .iter()
        .fold(0f32, |most, value| most.max(value.abs()));
    let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
    apart.fold(0f32, f32::max) / largest
}

#[test]
fn tokens_equal_those_of_transformers() {
    let golden = golden();
    for pad in ["end", "mark"] {
        let dir = tempfile::tempdir().unwrap();
        write_tokenizer(dir.path(), &golden, pad);
        let tokenizer = Tokenizer::open(dir.path(), 77).unwrap();
        let found: Vec<Vec<u32>> = (prompts(&golden).iter())
            .map(|prompt| tokenizer.encode(prompt).unwrap().ids)
            .collect();
        assert_eq!(json!(found), golden["ids"][pad], "padding {pad}");
    }
}

#[test]
fn what_does_not_fit_is_told_and_cut() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    write_tokenizer(dir.path(), &golden, "end");
    let tokenizer = Tokenizer::open(dir.path(), 8).unwrap();
    assert_eq!(tokenizer.length(), 8);
    let tokens = tokenizer
        .encode("a red cone on the floor and more")
        .unwrap();
    assert_eq!(tokens.ids.len(), 8);
    assert_eq!(tokens.cut.as_deref(), Some("and more"));
    assert_eq!(tokenizer.encode("a red cone").unwrap().cut, None);
}

#[test]
fn encoders_equal_those_of_transformers() {
    let golden = golden();
    let prompts = prompts(&golden);
    for model in ["plain", "open", "projected"] {
        let dir = tempfile::tempdir().unwrap();
        write_pipeline(dir.path(), &[model]);
        let encoders = open(dir.path()).unwrap();
        let rows = encoders.encode(&prompts).unwrap();
        let case = &golden["models"][model];
        let ids: Vec<Vec<u32>> =
            serde_json::from_value(golden["ids"][case["padding"].as_str().unwrap()].clone())
                .unwrap();
        let ids = Tensor::new(ids, &Device::Cpu).unwrap();
        let (_, outputs) = encoders.forward(&[ids]).unwrap();
        for (found, expected) in [
            (&rows[STATES], &case["last"]),
            (&outputs[0].last, &case["last"]),
            (&outputs[0].penultimate, &case["penultimate"]),
            (&outputs[0].pooled, &case["pooled"]),
        ] {
            let apart = difference(found, expected);
            assert!(apart < 1e-4, "{model}: {apart}");
        }
        assert!(!rows.contains_key(EMBEDS));
    }
}

#[test]
fn two_encoders_stand_side_by_side_without_their_last_blocks() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    write_pipeline(dir.path(), &["plain", "projected"]);
    let file = dir.path().join("model_index.json");
    let mut index: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    index["force_zeros_for_empty_prompt"] = json!(false);
    write_json(&file, &index);
    let encoders = open(dir.path()).unwrap();
    let rows = encoders.encode(&prompts(&golden)).unwrap();
    let states = &rows[STATES];
    assert_eq!(states.dims(), [5, 20, 24 + 32]);
    for (model, from, width) in [("plain", 0, 24), ("projected", 24, 32)] {
        let own = states.narrow(2, from, width).unwrap();
        let apart = difference(&own, &golden["models"][model]["penultimate"]);
        assert!(apart < 1e-4, "{model}: {apart}");
    }
    let apart = difference(&rows[EMBEDS], &golden["models"]["projected"]["pooled"]);
    assert!(apart < 1e-4, "{apart}");
    assert_eq!(encoders.info(), inspect(dir.path()).unwrap());
    // diffusers takes zeros for "no text" of this kind of pipeline, unless its index says otherwise.
    let sum = |rows: &super::TextRows| {
        let total = rows[STATES].abs().unwrap().sum_all().unwrap();
        total.to_scalar::<f32>().unwrap()
    };
    assert!(sum(&encoders.unconditional().unwrap()) > 0.0);
    index["force_zeros_for_empty_prompt"] = Value::Null;
    write_json(&file, &index);
    assert_eq!(
        sum(&open(dir.path()).unwrap().unconditional().unwrap()),
        0.0
    );
}

#[test]
fn newer_names_half_precision_and_old_buffers_are_read() {
    let golden = golden();
    let dir = tempfile::tempdir().unwrap();
    write_pipeline(dir.path(), &["open"]);
    let config = &golden["models"]["open"]["config"];
    let prompts = prompts(&golden);
    let whole = open(dir.path()).unwrap().encode(&prompts).unwrap();
    let encoder = dir.path().join("text_encoder");
    write_encoder(&encoder, config, DType::F16, &|name| {
        name.trim_start_matches("text_model.").to_owned()
    });
    fs::rename(
        encoder.join("model.safetensors"),
        encoder.join("model.fp16.safetensors"),
    )
    .unwrap();
    let halves = open(dir.path()).unwrap().encode(&prompts).unwrap();
    let apart = (&whole[STATES] - &halves[STATES]).unwrap();
    let apart = apart.abs().unwrap().max_all().unwrap();
    let apart = apart.to_scalar::<f32>().unwrap();
    assert!(apart > 0.0 && apart < 0.02, "{apart}");
    assert_eq!(halves[STATES].dtype(), DType::F32);
}

#[test]
fn a_text_has_the_same_numbers_whatever_stands_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    write_pipeline(dir.path(), &["plain"]);
    let texts = ["a red cone".to_owned(), "a floor".to_owned()];
    let together = open(dir.path()).unwrap().encode(&texts).unwrap();
    let encoders = open(dir.path()).unwrap();
    let values = |rows: &Tensor| rows.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    for (row, text) in texts.iter().enumerate() {
        let alone = encoders.encode(std::slice::from_ref(text)).unwrap();
        let own = together[STATES].get(row).unwrap();
        assert_eq!(values(&alone[STATES]), values(&own));
    }
}

#[test]
fn parts_that_are_missing_or_of_another_model_are_named() {
    let refusal = |change: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        write_pipeline(dir.path(), &["plain", "projected"]);
        change(dir.path());
        open(dir.path()).unwrap_err().to_string()
    };
    let second = refusal(&|dir| fs::remove_dir_all(dir.join("text_encoder_2")).unwrap());
    assert!(
        second.contains("second text encoder") && second.contains("text_encoder_2/"),
        "{second}"
    );
    let tokenizer = refusal(&|dir| fs::remove_dir_all(dir.join("tokenizer_2")).unwrap());
    assert!(tokenizer.contains("second tokenizer"), "{tokenizer}");
    let merges = refusal(&|dir| fs::remove_file(dir.join("tokenizer/merges.txt")).unwrap());
    assert!(merges.contains("no merges.txt"), "{merges}");
    let other = refusal(&|dir| {
        let config = json!({ "model_type": "t5", "architectures": ["T5EncoderModel"] });
        write_json(&dir.join("text_encoder/config.json"), &config);
    });
    assert!(other.contains("`T5EncoderModel`"), "{other}");
    let masked = refusal(&|dir| {
        let mut config = golden()["models"]["plain"]["config"].clone();
        config["use_attention_mask"] = json!(true);
        write_json(&dir.join("text_encoder/config.json"), &config);
    });
    assert!(masked.contains("use_attention_mask"), "{masked}");
    let activation = refusal(&|dir| {
        let file = dir.join("text_encoder/config.json");
        let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        config["hidden_act"] = json!("relu");
        write_json(&file, &config);
    });
    assert!(activation.contains("relu"), "{activation}");
    let small = refusal(&|dir| {
        let mut config = golden()["models"]["plain"]["config"].clone();
        config["vocab_size"] = json!(100);
        write_encoder(&dir.join("text_encoder"), &config, DType::F32, &|name| {
            name.to_owned()
        });
    });
    assert!(
        small.contains("knows 526 tokens and its encoder 100"),
        "{small}"
    );
}
