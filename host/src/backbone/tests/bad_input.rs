//! Every refusal says what is wrong and where.

use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::super::forward_file::forward_file;
use super::super::inspect;
use super::*;

#[track_caller]
fn check_message(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "`{message}` does not say `{part}`");
    }
}

/// The message of opening what cannot be opened; inspecting it must say the same.
#[track_caller]
fn refusal(path: &Path) -> String {
    let opened = Backbone::open(path, &Device::Cpu, DType::F32)
        .unwrap_err()
        .to_string();
    assert_eq!(inspect(path).unwrap_err().to_string(), opened);
    opened
}

/// A folder with a model that reads, to be spoilt.
fn model() -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    lively(tiny())
        .save(dir.path(), &Overlay::new(), DType::F32)
        .unwrap();
    let transformer = dir.path().join("transformer");
    (dir, transformer)
}

fn edit_config(dir: &Path, from: &str, to: &str) {
    let file = dir.join("config.json");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.contains(from), "{text}");
    std::fs::write(file, text.replace(from, to)).unwrap();
}

#[test]
fn a_missing_folder_is_named() {
    check_message(
        &refusal(Path::new("/nowhere/dit")),
        &["/nowhere/dit", "no such file or folder"],
    );
}

#[test]
fn a_folder_without_a_model_lists_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    check_message(
        &refusal(dir.path()),
        &["holds no backbone", "transformer/config.json"],
    );
}

#[test]
fn a_config_without_weights_lists_what_was_looked_for() {
    let (_dir, transformer) = model();
    std::fs::remove_file(transformer.join("diffusion_pytorch_model.safetensors")).unwrap();
    check_message(
        &refusal(&transformer),
        &[
            "no weights",
            "diffusion_pytorch_model.safetensors.index.json",
        ],
    );
}

#[test]
fn a_truncated_or_corrupt_safetensors_file_is_named() {
    let (_dir, transformer) = model();
    let file = transformer.join("diffusion_pytorch_model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for broken in [
        &bytes[..bytes.len() - 100],
        &bytes[..50],
        &bytes[..3],
        &[],
        &[0xff; 200][..],
    ] {
        std::fs::write(&file, broken).unwrap();
        check_message(
            &refusal(&transformer),
            &[
                "cannot read the weights",
                "diffusion_pytorch_model.safetensors",
            ],
        );
    }
}

#[test]
fn a_truncated_pt_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("DiT.pt");
    let bytes = std::fs::read(golden("original/DiT.pt")).unwrap();
    for broken in [
        &bytes[..bytes.len() / 2],
        &bytes[..10],
        b"not a zip archive",
    ] {
        std::fs::write(&file, broken).unwrap();
        check_message(
            &refusal(&file),
            &["cannot read the weights", "DiT.pt", "truncated"],
        );
    }
}

#[test]
fn a_config_of_other_shapes_names_the_first_tensor_with_both() {
    let (_dir, transformer) = model();
    edit_config(
        &transformer,
        "\"attention_head_dim\": 8",
        "\"attention_head_dim\": 16",
    );
    let message = refusal(&transformer);
    check_message(
        &message,
        &["pos_embed.proj.weight", "[32, 3, 2, 2]", "[16, 3, 2, 2]"],
    );
}

#[test]
fn missing_and_unexpected_tensors_are_counted_and_named() {
    let (_dir, transformer) = model();
    edit_config(&transformer, "\"num_layers\": 3", "\"num_layers\": 4");
    let message = refusal(&transformer);
    check_message(
        &message,
        &[
            "19 tensor(s) missing",
            "transformer_blocks.3.norm1.emb",
            "and 16 more",
        ],
    );
    edit_config(&transformer, "\"num_layers\": 4", "\"num_layers\": 2");
    check_message(
        &refusal(&transformer),
        &["19 unexpected", "transformer_blocks.2.", "and 16 more"],
    );
}

#[test]
fn another_class_of_model_is_named() {
    let (_dir, transformer) = model();
    edit_config(
        &transformer,
        "DiTTransformer2DModel",
        "PixArtTransformer2DModel",
    );
    check_message(
        &refusal(&transformer),
        &["PixArtTransformer2DModel", "DiTTransformer2DModel"],
    );
    edit_config(
        &transformer,
        "PixArtTransformer2DModel",
        "Transformer2DModel",
    );
    edit_config(&transformer, "ada_norm_zero", "ada_norm_single");
    check_message(
        &refusal(&transformer),
        &["Transformer2DModel with norm_type ada_norm_single"],
    );
    let pipeline = tempfile::tempdir().unwrap();
    let index = r#"{"_class_name": "StableCascadePriorPipeline", "prior": ["diffusers", "StableCascadeUNet"]}"#;
    std::fs::write(pipeline.path().join("model_index.json"), index).unwrap();
    check_message(
        &refusal(pipeline.path()),
        &["model_index.json", "StableCascadePriorPipeline"],
    );
}

#[test]
fn impossible_settings_are_named() {
    for (from, to, parts) in [
        (
            "\"patch_size\": 2",
            "\"patch_size\": 3",
            ["sample_size", "8", "a multiple of patch_size, 3"],
        ),
        (
            "\"num_layers\": 3",
            "\"num_layers\": 0",
            ["num_layers", "0", "at least 1"],
        ),
        (
            "gelu-approximate",
            "swiglu",
            ["activation_fn", "swiglu", "gelu-approximate, gelu or geglu"],
        ),
        (
            "\"num_embeds_ada_norm\": 4",
            "\"num_embeds_ada_norm\": null",
            ["num_embeds_ada_norm", "null", "classes"],
        ),
        (
            "\"num_layers\": 3",
            "\"num_layers\": \"three\"",
            ["config.json", "three", "usize"],
        ),
        ("{", "", ["config.json", "cannot read", "line 2"]),
    ] {
        let (_dir, transformer) = model();
        edit_config(&transformer, from, to);
        check_message(&refusal(&transformer), &parts);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(golden("sharded")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_owned();
        if !name.to_string_lossy().contains("00002-of") {
            std::fs::copy(&path, dir.path().join(name)).unwrap();
        }
    }
    check_message(
        &refusal(dir.path()),
        &["index.fp16.json", "00002-of-00002.safetensors"],
    );
}

#[test]
fn weights_of_another_network_are_described() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("other.safetensors");
    let tensors = HashMap::from([(
        "conv_in.weight",
        Tensor::zeros((4, 4), DType::F32, &Device::Cpu).unwrap(),
    )]);
    candle_core::safetensors::save(&tensors, &file).unwrap();
    check_message(
        &refusal(&file),
        &["other.safetensors", "not a DiT's", "conv_in.weight"],
    );
}

#[test]
fn a_learned_position_embedding_is_refused() {
    let backbone = lively(tiny());
    let mut tensors: HashMap<String, Tensor> = backbone
        .parameters()
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .collect();
    let table = Tensor::full(0.3f32, (1, 16, 16), &Device::Cpu).unwrap();
    tensors.insert("pos_embed.pos_embed".to_owned(), table);
    let error = Backbone::from_parts(tiny(), tensors)
        .unwrap_err()
        .to_string();
    check_message(&error, &["position embedding", "1.2"]);
}

#[test]
fn an_overlay_that_does_not_fit_is_refused() {
    let backbone = lively(tiny());
    let tensor = Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap();
    let unknown = Overlay::from([("proj_out_9.weight".to_owned(), tensor.clone())]);
    check_message(
        &backbone.check_overlay(&unknown).unwrap_err().to_string(),
        &["1 parameter(s)", "proj_out_9.weight"],
    );
    let misshapen = Overlay::from([("proj_out_1.bias".to_owned(), tensor)]);
    check_message(
        &backbone.check_overlay(&misshapen).unwrap_err().to_string(),
        &["proj_out_1.bias", "[32]", "[3]"],
    );
    let dir = tempfile::tempdir().unwrap();
    assert!(backbone.save(dir.path(), &misshapen, DType::F32).is_err());
    let case = Case::random(&backbone, 1);
    let pass = Pass {
        overlay: Some(&misshapen),
        ..Pass::frozen()
    };
    let error = case
        .run_on(&backbone, case.tensor("latents"), &pass)
        .unwrap_err()
        .to_string();
    check_message(&error, &["proj_out_1.bias", "[32]", "[3]"]);
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let backbone = lively(tiny());
    let run = |latents: &[usize], timesteps: &[f32], labels: &[i64], residuals: usize| {
        let device = &Device::Cpu;
        let residual = Tensor::zeros((1, 16, 16), DType::F32, device).unwrap();
        let residuals = vec![Some(residual); residuals];
        let conditioning = Conditioning::classes(Tensor::new(labels, device).unwrap());
        let input = Input {
            latents: &Tensor::zeros(latents, DType::F32, device).unwrap(),
            timesteps: &Tensor::new(timesteps, device).unwrap(),
            conditioning: &conditioning,
        };
        let pass = Pass {
            residuals: Some(&residuals),
            ..Pass::frozen()
        };
        backbone
            .forward(&input, &pass)
            .map_err(|error| error.to_string())
    };
    assert!(run(&[1, 3, 8, 8], &[0.5], &[4], 3).is_ok());
    for (latents, timesteps, labels, residuals, parts) in [
        (
            &[1, 3, 8, 7][..],
            &[0.0][..],
            &[0][..],
            3,
            ["8x7", "patch size, 2"],
        ),
        (&[1, 4, 8, 8], &[0.0], &[0], 3, ["4 channels", "takes 3"]),
        (&[3, 8, 8], &[0.0], &[0], 3, ["[B, C, H, W]", "[3, 8, 8]"]),
        (
            &[1, 3, 8, 8],
            &[0.0, 1.0],
            &[0],
            3,
            ["timesteps must be [1]", "[2]"],
        ),
        (
            &[1, 3, 8, 8],
            &[0.0],
            &[0, 1],
            3,
            ["class_labels must be [1]", "[2]"],
        ),
        (&[1, 3, 8, 8], &[0.0], &[5], 3, ["class label 5", "0..=4"]),
        (&[1, 3, 8, 8], &[0.0], &[-1], 3, ["class label -1", "0..=4"]),
        (
            &[1, 3, 8, 8],
            &[0.0],
            &[0],
            2,
            ["2 residuals", "3 residual sites"],
        ),
        (&[1, 3, 4, 4], &[0.0], &[0], 3, ["residual 0", "[1, 4, 16]"]),
    ] {
        check_message(
            &run(latents, timesteps, labels, residuals).unwrap_err(),
            &parts,
        );
    }
}

#[test]
fn a_file_of_inputs_that_lacks_one_is_refused() {
    let backbone = lively(tiny());
    let dir = tempfile::tempdir().unwrap();
    let (inputs, output) = (
        dir.path().join("in.safetensors"),
        dir.path().join("out.safetensors"),
    );
    let error = forward_file(&backbone, &inputs, &output)
        .unwrap_err()
        .to_string();
    check_message(&error, &["in.safetensors"]);
    let tensors = HashMap::from([(
        "latents",
        Tensor::zeros((1, 3, 8, 8), DType::F32, &Device::Cpu).unwrap(),
    )]);
    candle_core::safetensors::save(&tensors, &inputs).unwrap();
    let error = forward_file(&backbone, &inputs, &output)
        .unwrap_err()
        .to_string();
    check_message(
        &error,
        &["in.safetensors", "no `timesteps`", "there is: latents"],
    );
    assert!(!output.exists());
}
