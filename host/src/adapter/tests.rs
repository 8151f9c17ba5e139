//! Adapters that PEFT, diffusers and kohya wrote: with each, the network predicts what diffusers and PEFT do; and what is no adapter is told from one.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::backbone::{Backbone, Conditioning, Input, Pass};

fn goldens() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens")
}

fn small() -> PathBuf {
    goldens().join("dit/small")
}

fn file(name: &str) -> PathBuf {
    goldens().join("adapters").join(name)
}

fn opened(adapters: &[(PathBuf, f64)], dtype: DType) -> (Backbone, Vec<Report>) {
    let read: Vec<_> = adapters
        .iter()
        .map(|(path, strength)| (AdapterWeights::read(path).unwrap(), *strength))
        .collect();
    Backbone::open_adapted(&small(), &read, &Device::Cpu, dtype).unwrap()
}

fn prediction(backbone: &Backbone) -> Tensor {
    let case =
        candle_core::safetensors::load(small().join("case.safetensors"), &Device::Cpu).unwrap();
    let conditioning = Conditioning::classes(case["class_labels"].clone());
    let input = Input {
        latents: &case["latents"],
        timesteps: &case["timesteps"],
        conditioning: &conditioning,
    };
    backbone.forward(&input, &Pass::frozen()).unwrap()
}

fn difference(one: &Tensor, two: &Tensor) -> f32 {
    let largest = (one - two).unwrap().abs().unwrap().max_all().unwrap();
    largest.to_scalar().unwrap()
}

fn predictions() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file("predictions.safetensors"), &Device::Cpu).unwrap()
}

#[test]
fn every_kind_of_file_predicts_what_diffusers_and_peft_do() {
    let predictions = predictions();
    assert!(predictions.len() > 18, "{}", predictions.len());
    for (name, expected) in &predictions {
        let (path, strength) = match name.split_once('@') {
            Some((path, strength)) => (path, strength.parse().unwrap()),
            None => (name.as_str(), 1.0),
        };
        let (backbone, reports) = opened(&[(file(path), strength)], DType::F32);
        let largest = difference(&prediction(&backbone), expected);
        assert!(largest < 1e-4, "{name}: off by {largest}");
        assert_eq!(reports[0].unmatched, Vec::<String>::new(), "{name}");
    }
}

#[test]
fn a_strength_of_zero_is_the_backbone_and_two_adapters_are_both_there() {
    let plain = prediction(&opened(&[], DType::F32).0);
    for name in [
        "lora",
        "loha",
        "lokr",
        "ia3",
        "biases",
        "kohya_lora.safetensors",
    ] {
        let (backbone, _) = opened(&[(file(name), 0.0)], DType::F32);
        assert!(difference(&prediction(&backbone), &plain) < 1e-6, "{name}");
    }
    // Updates of different layers, or that add up, do not mind the order.
    let (one, two) = ((file("lora"), 1.0), (file("lokr"), 0.7));
    let both = prediction(&opened(&[one.clone(), two.clone()], DType::F32).0);
    let turned = prediction(&opened(&[two, one.clone()], DType::F32).0);
    assert!(difference(&both, &turned) < 1e-5);
    assert!(difference(&both, &prediction(&opened(&[one], DType::F32).0)) > 1e-2);
}

#[test]
fn doras_norms_are_of_the_weight_that_it_was_trained_beside() {
    let layers = crate::backbone::layers_of(&small()).unwrap();
    let dora = AdapterWeights::read(&file("dora")).unwrap();
    let updates = dora.matched(&layers).unwrap().updates;
    let to_q = |update: &&LayerUpdate| update.path.ends_with("to_q");
    let update = updates.iter().find(to_q).unwrap();
    let plain = opened(&[], DType::F32).0;
    let name = format!("{}.weight", update.path);
    let found = plain.parameters().find(|(known, _)| *known == name);
    let base = found.unwrap().1.clone();
    let moved = |by: f64| (&base + by).unwrap();
    // With norms that stay, what another adapter adds counts in proportion.
    let over = |by: f64| update.weight_over(&moved(by), &base, 1.0).unwrap();
    let one = (over(1.0) - over(0.0)).unwrap();
    let two = (over(2.0) - over(1.0)).unwrap();
    assert!(difference(&one, &two) < 1e-5);
    assert_eq!(
        difference(&over(0.0), &update.weight(&base, 1.0).unwrap()),
        0.0
    );
    assert!(difference(&over(1.0), &update.weight(&moved(1.0), 1.0).unwrap()) > 1e-2);
}

#[test]
fn adapters_of_several_plugins_are_asked_to_be_named() {
    let run = tempfile::tempdir().unwrap();
    for plugin in ["style", "subject"] {
        let folder = run.path().join("adapter").join(plugin);
        std::fs::create_dir_all(&folder).unwrap();
        let from = file("diffusers/pytorch_lora_weights.safetensors");
        std::fs::copy(from, folder.join("pytorch_lora_weights.safetensors")).unwrap();
    }
    let message = refused(run.path());
    assert!(
        message.contains("several plugins") && message.contains("adapter/subject"),
        "{message}"
    );
}

#[test]
fn a_merged_weight_is_rounded_once() {
    let lora = [(file("lora"), 1.0)];
    let exact = opened(&lora, DType::F32).0;
    let rounded = opened(&lora, DType::BF16).0;
    let rounded: HashMap<&str, &Tensor> = rounded.parameters().collect();
    for (name, tensor) in exact.parameters() {
        let once = tensor
            .to_dtype(DType::BF16)
            .unwrap()
            .to_dtype(DType::F32)
            .unwrap();
        let found = rounded[name].to_dtype(DType::F32).unwrap();
        assert_eq!(difference(&once, &found), 0.0, "{name}");
    }
}

#[test]
fn an_update_of_one_blocks_embedder_ends_the_sharing_and_the_same_one_for_all_keeps_it() {
    // A model whose blocks share their embedders, stored in full and in the compact form.
    let fresh =
        Backbone::init(opened(&[], DType::F32).0.config().clone(), 3, &Device::Cpu).unwrap();
    assert!(fresh.info().shared_embedders);
    let dir = tempfile::tempdir().unwrap();
    let (full, compact) = (dir.path().join("full"), dir.path().join("compact"));
    fresh.save(&full, &Default::default(), DType::F32).unwrap();
    fresh
        .save_compact(&compact, &Default::default(), DType::F32)
        .unwrap();
    let width = fresh.info().width;
    let lora = |blocks: &[usize]| {
        let mut tensors = HashMap::new();
        for block in blocks {
            let path = format!("transformer_blocks.{block}.norm1.emb.timestep_embedder.linear_2");
            let ones =
                |shape: (usize, usize)| Tensor::ones(shape, DType::F32, &Device::Cpu).unwrap();
            tensors.insert(format!("{path}.lora_A.weight"), ones((1, width)));
            tensors.insert(format!("{path}.lora_B.weight"), ones((width, 1)));
        }
        let path = dir.path().join("lora.safetensors");
        candle_core::safetensors::save(&tensors, &path).unwrap();
        [(AdapterWeights::read(&path).unwrap(), 1.0)]
    };
    for folder in [&full, &compact] {
        let open = |blocks: &[usize]| {
            Backbone::open_adapted(folder, &lora(blocks), &Device::Cpu, DType::F32).unwrap()
        };
        let (one, report) = open(&[1]);
        assert!(!one.info().shared_embedders);
        assert_eq!(report[0].matched, 2);
        let weight = |block: usize| {
            let name =
                format!("transformer_blocks.{block}.norm1.emb.timestep_embedder.linear_2.weight");
            let found = one.parameters().find(|(known, _)| *known == name);
            found.unwrap().1.clone()
        };
        assert!((difference(&weight(1), &weight(0)) - 1.0).abs() < 1e-6);
        assert!(open(&[0, 1]).0.info().shared_embedders);
    }
}

/// The message of what is refused while it is read or matched.
fn refused(path: &Path) -> String {
    let layers = crate::backbone::layers_of(&small()).unwrap();
    let outcome = AdapterWeights::read(path).and_then(|weights| weights.matched(&layers));
    outcome.err().unwrap().to_string()
}

#[test]
fn what_is_no_adapter_or_does_not_fit_is_told_in_one_sentence() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    let check = |path: &Path, parts: &[&str]| {
        let message = refused(path);
        for part in parts {
            assert!(message.contains(part), "`{part}` is not in: {message}");
        }
    };
    let good = std::fs::read(file("lora/adapter_model.safetensors")).unwrap();
    let write = |name: &str, bytes: &[u8]| {
        std::fs::write(place(name), bytes).unwrap();
        place(name)
    };
    check(&place("none"), &["no adapter at", "no such file"]);
    check(
        &write("cut.safetensors", &good[..good.len() - 100]),
        &["cut.safetensors", "safetensors file"],
    );
    check(
        &write("header.safetensors", &good[..20]),
        &["header.safetensors", "no complete safetensors file"],
    );
    check(&write("empty.safetensors", b""), &["the file is empty"]);
    check(
        &write("adapter.bin", &good),
        &["is a pickle", "save_file(torch.load"],
    );
    check(
        &write("zip.safetensors", b"PK\x03\x04 and so on"),
        &["is a pickle"],
    );
    check(
        &small().join("transformer/diffusion_pytorch_model.safetensors"),
        &["whole model", "--backbone"],
    );
    check(&small(), &["whole model", "--backbone"]);
    check(dir.path(), &["holds 4 .safetensors files", "name one"]);

    let tensors = |name: &str, tensors: &[(&str, &[usize])]| {
        let tensors: HashMap<&str, Tensor> = tensors
            .iter()
            .map(|(key, shape)| {
                (
                    *key,
                    Tensor::ones(*shape, DType::F32, &Device::Cpu).unwrap(),
                )
            })
            .collect();
        candle_core::safetensors::save(&tensors, place(name)).unwrap();
        place(name)
    };
    let lora = |path: &str, part: &str| format!("{path}.lora_{part}.weight");
    let (to_q, other) = (
        "transformer_blocks.0.attn1.to_q",
        "down_blocks.0.attentions.0.to_q",
    );
    check(
        &tensors(
            "unet.safetensors",
            &[(&lora(other, "A"), &[2, 32]), (&lora(other, "B"), &[32, 2])],
        ),
        &[
            "none of the 2 keys",
            other,
            "the backbone has `",
            "attn1.to_q`",
        ],
    );
    check(
        &tensors(
            "wide.safetensors",
            &[(&lora(to_q, "A"), &[2, 64]), (&lora(to_q, "B"), &[32, 2])],
        ),
        &["attn1.to_q.lora_A`", "[2, 64]", "[32, 32]", "takes [2, 32]"],
    );
    check(
        &tensors("half.safetensors", &[(&lora(to_q, "A"), &[2, 32])]),
        &["lacks `lora_B`", to_q],
    );
    check(
        &tensors(
            "text.safetensors",
            &[("text_encoder.x.lora_A.weight", &[2, 32])],
        ),
        &["none of the 1 keys"],
    );
    check(
        &tensors(
            "mixed.safetensors",
            &[
                (&lora(to_q, "A"), &[2, 32]),
                (&format!("{to_q}.ia3_l"), &[32, 1]),
            ],
        ),
        &["parts of both lora and ia3"],
    );
    let folder = place("boft");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("adapter_model.safetensors"), &good).unwrap();
    std::fs::write(
        folder.join("adapter_config.json"),
        r#"{"peft_type": "BOFT"}"#,
    )
    .unwrap();
    check(&folder, &["adapter of type BOFT", "LOHA"]);
    std::fs::write(folder.join("adapter_config.json"), "{").unwrap();
    check(&folder, &["adapter_config.json", "not JSON"]);
}

#[test]
fn keys_that_fit_nothing_are_counted_and_named() {
    let (_, reports) = opened(&[(file("down_up.safetensors"), 1.0)], DType::F32);
    assert_eq!((reports[0].matched, reports[0].other_parts), (8, 1));
    let tensors = candle_core::safetensors::load(file("halves.safetensors"), &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let mut more = tensors.clone();
    let stray = tensors.values().next().unwrap().clone();
    for block in 7..11 {
        more.insert(
            format!("transformer.transformer_blocks.{block}.attn1.to_q.lora_A.weight"),
            stray.clone(),
        );
    }
    let path = dir.path().join("more.safetensors");
    candle_core::safetensors::save(&more, &path).unwrap();
    let (_, reports) = opened(&[(path, 1.0)], DType::F32);
    let sentence = reports[0].sentence();
    assert_eq!(reports[0].unmatched.len(), 4);
    for part in [
        "lora for 4 layers",
        "4 fit no layer",
        "blocks.7.",
        "and 1 more",
    ] {
        assert!(sentence.contains(part), "`{part}` is not in: {sentence}");
    }
}

#[test]
fn what_is_rewritten_in_another_format_means_the_same_or_is_refused() {
    use super::write::{Format, write};
    let layers = crate::backbone::layers_of(&small()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, formats: &[Format], refused: &[Format]| {
        let weights = AdapterWeights::read(&file(name)).unwrap();
        let updates = weights.matched(&layers).unwrap().updates;
        for &format in formats {
            let written = write(&updates, &layers, "transformer", format).unwrap();
            let folder = dir.path().join(format!("{name} {format:?}"));
            std::fs::create_dir(&folder).unwrap();
            let tensors = written
                .tensors
                .iter()
                .map(|(key, tensor)| (key.clone(), tensor))
                .collect();
            let mut out = std::fs::File::create(folder.join(written.file)).unwrap();
            crate::fs::tensors::write(&mut out, &written.metadata, &tensors, |_| DType::F32)
                .unwrap();
            if let Some((text, content)) = written.text {
                std::fs::write(folder.join(text), content).unwrap();
            }
            let (backbone, _) = opened(&[(folder, 1.0)], DType::F32);
            let expected = &predictions()[name];
            let largest = difference(&prediction(&backbone), expected);
            assert!(largest < 1e-4, "{name} as {format:?}: off by {largest}");
        }
        for &format in refused {
            assert!(
                write(&updates, &layers, "transformer", format).is_err(),
                "{name} as {format:?}"
            );
        }
    };
    use Format::{Diffusers, Kohya, Peft};
    for name in [
        "lora",
        "dora",
        "diffusers",
        "kohya_lora.safetensors",
        "kohya_dora.safetensors",
    ] {
        check(name, &[Peft, Diffusers, Kohya], &[]);
    }
    for name in [
        "loha",
        "loha_conv",
        "lokr",
        "lokr_conv",
        "lokr_whole",
        "lycoris_lokr.safetensors",
    ] {
        check(name, &[Peft, Kohya], &[Diffusers]);
    }
    for name in ["rslora", "conv_and_table"] {
        check(name, &[Peft, Diffusers], &[Kohya]);
    }
    for name in ["ia3", "ia3_inputs"] {
        check(name, &[Peft], &[Diffusers, Kohya]);
    }
    check("biases", &[], &[Peft, Diffusers, Kohya]);
}
