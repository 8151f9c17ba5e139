//! Backbones that cannot be used: exit code 2 and one sentence, before anything is written.

use integration_tests::{Lab, goldens};
use serde_json::{Value, json};

const WEIGHTS: &str = "transformer/diffusion_pytorch_model.safetensors";

#[track_caller]
fn check(lab: &Lab, backbone: &str, parts: &[&str]) {
    lab.train(&format!("--backbone {backbone} --steps 1 --out run"))
        .refused(2, parts);
    lab.host(&format!("model inspect {backbone}"))
        .refused(2, parts);
    assert!(!lab.path("run").exists());
}

#[test]
fn a_backbone_that_is_not_there_or_not_whole_is_refused() {
    let lab = Lab::new();
    check(&lab, "nowhere", &["no backbone at", "nowhere"]);
    check(
        &lab,
        "pictures",
        &["pictures", "holds no backbone", "config.json"],
    );
    lab.copy("tiny", "bare");
    std::fs::remove_file(lab.path("bare").join(WEIGHTS)).unwrap();
    check(&lab, "bare", &["bare", "config.json but no weights"]);
}

#[test]
fn corrupt_safetensors_are_refused_at_every_length_and_with_a_torn_header() {
    let lab = Lab::new();
    let whole = std::fs::read(lab.path("tiny").join(WEIGHTS)).unwrap();
    lab.copy("tiny", "torn");
    let torn = lab.path("torn").join(WEIGHTS);
    let mut header = whole.clone();
    header[8] = b'!';
    let mut length = whole.clone();
    length[7] = 0xff;
    let damaged = [
        whole[..0].to_vec(),
        whole[..7].to_vec(),
        whole[..200].to_vec(),
        whole[..whole.len() / 2].to_vec(),
        whole[..whole.len() - 1].to_vec(),
        header,
        length,
    ];
    for bytes in damaged {
        std::fs::write(&torn, bytes).unwrap();
        check(
            &lab,
            "torn",
            &[
                "cannot read the weights in",
                "diffusion_pytorch_model.safetensors",
            ],
        );
    }
}

#[test]
fn a_truncated_pt_is_refused_at_every_length() {
    let lab = Lab::new();
    let whole = std::fs::read(goldens("dit/original/DiT.pt")).unwrap();
    for keep in [0, 10, 300, whole.len() / 2, whole.len() - 1] {
        lab.write("cut.pt", &whole[..keep]);
        check(&lab, "cut.pt", &["cannot read the weights in", "cut.pt"]);
    }
}

/// A copy of the tiny backbone with another configuration.
fn reconfigured(lab: &Lab, name: &str, key: &str, value: Value) {
    lab.copy("tiny", name);
    let file = lab.path(name).join("transformer/config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    config[key] = value;
    std::fs::write(file, config.to_string()).unwrap();
}

#[test]
fn a_configuration_that_does_not_match_the_weights_names_the_first_tensor_and_both_shapes() {
    let lab = Lab::new();
    reconfigured(&lab, "narrow", "attention_head_dim", json!(8));
    check(
        &lab,
        "narrow",
        &[
            "`pos_embed.proj.weight`",
            "[16, 3, 4, 4] by the configuration",
            "[32, 3, 4, 4] in the weights",
        ],
    );
    reconfigured(&lab, "classes", "num_embeds_ada_norm", json!(10));
    check(
        &lab,
        "classes",
        &[
            "embedding_table.weight`",
            "[11, 32] by the configuration",
            "[5, 32] in the weights",
        ],
    );
    reconfigured(&lab, "deep", "num_layers", json!(3));
    check(&lab, "deep", &["transformer_blocks.2."]);
    reconfigured(&lab, "shallow", "num_layers", json!(1));
    check(&lab, "shallow", &["transformer_blocks.1."]);
}

#[test]
fn another_kind_of_model_is_refused() {
    let lab = Lab::new();
    reconfigured(
        &lab,
        "other",
        "_class_name",
        json!("FluxTransformer2DModel"),
    );
    check(
        &lab,
        "other",
        &[
            "config.json describes a `FluxTransformer2DModel`",
            "supported backbones: UNet2DConditionModel, DiTTransformer2DModel",
        ],
    );
    lab.write("other/transformer/config.json", "{ torn");
    check(&lab, "other", &["cannot read", "config.json"]);
}

#[test]
fn a_backbone_that_does_not_draw_pictures_is_refused_for_training() {
    let lab = Lab::new();
    let small = goldens("dit/small").display().to_string();
    lab.train(&format!("--backbone {small} --steps 1 --out run"))
        .refused(2, &["4 channels", "images have 3"]);
    lab.copy("tiny", "latent");
    lab.write("latent/vae/config.json", "{}");
    lab.train("--backbone latent --steps 1 --out run")
        .refused(2, &["autoencoder", "vae/config.json", "no class"]);
    let config = std::fs::read_to_string(goldens("vae/plain/config.json")).unwrap();
    lab.write("latent/vae/config.json", &config);
    lab.train("--backbone latent --steps 1 --out run").refused(
        2,
        &[
            "latents of 4 channels",
            "the network takes 3",
            "not of one model",
        ],
    );
    assert!(!lab.path("run").exists());
}
