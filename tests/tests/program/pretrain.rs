//! What `host pretrain` makes from nothing.

use integration_tests::{Lab, goldens, tensors, values};

/// Follows `recipe.toml` for as many steps at once and in two halves, and finds the same weights in both.
fn made_at_once_and_in_halves(lab: &Lab, steps: usize, weights: &str) {
    let half = steps / 2;
    lab.host("pretrain --config recipe.toml --out whole").done();
    lab.host(&format!(
        "pretrain --config recipe.toml --out halves --steps {half}"
    ))
    .done();
    lab.host(&format!("pretrain --resume --out halves --steps {steps}"))
        .done();
    let made = |run: &str| tensors(&lab.path(run).join(weights));
    let (whole, halves) = (made("whole"), made("halves"));
    assert_eq!(whole.len(), halves.len());
    for (name, tensor) in &whole {
        assert_eq!(values(tensor), values(&halves[name]), "{name}");
    }
}

const RECIPE: &str = r#"
[autoencoder]
block_out_channels = [8, 16]
down_block_types = ["DownEncoderBlock2D", "DownEncoderBlock2D"]
up_block_types = ["UpDecoderBlock2D", "UpDecoderBlock2D"]
norm_num_groups = 4

[data]
source = "scenes:studio,neon"
size = 16
count = 40

[train]
steps = 6
batch_size = 4
lr = 3e-3
warmup_steps = 0
checkpoint_every = 3
ema_decay = 0.5
threads = 1
"#;

#[test]
fn an_autoencoder_learns_resumes_bit_for_bit_and_serves_a_latent_model() {
    let lab = Lab::new();
    lab.write("recipe.toml", RECIPE);
    made_at_once_and_in_halves(&lab, 6, "vae/diffusion_pytorch_model.safetensors");
    assert_eq!(
        lab.json("whole/vae/config.json"),
        lab.json("halves/vae/config.json")
    );
    let metrics = lab.metrics("whole");
    assert!(metrics[5]["loss"] < metrics[0]["loss"], "{metrics:?}");
    assert!(metrics[0]["loss/absolute"] > 0.0 && metrics[0]["loss/divergence"] > 0.0);

    super::latent::copy(&goldens("dit/small"), &lab.path("latent"));
    super::latent::copy(&lab.path("whole/vae"), &lab.path("latent/vae"));
    lab.host("run --backbone latent --data pictures --batch-size 2 --steps 1 --set sample.count=0 --out run")
        .done();

    lab.host("pretrain --config recipe.toml --set data.size=17 --out odd")
        .refused(2, &["data.size", "a multiple of 2"]);
    lab.host("pretrain --config recipe.toml --set loss.edges=-1 --out odd")
        .refused(2, &["loss.edges", "0 or more"]);
    lab.host("pretrain --config recipe.toml --set autoencoder.norm_num_groups=3 --out odd")
        .refused(2, &["do not divide into 3 groups"]);
}

const TEXT_RECIPE: &str = r#"
[text_encoder]
hidden_size = 16
intermediate_size = 32
num_hidden_layers = 2
num_attention_heads = 2
max_position_embeddings = 12

[data]
source = "scenes:studio,neon"
size = 16
count = 60

[train]
steps = 12
batch_size = 12
lr = 1e-2
warmup_steps = 0
checkpoint_every = 6
ema_decay = 0.5
threads = 1
"#;

#[test]
fn a_text_encoder_learns_from_captions_and_resumes_bit_for_bit() {
    let lab = Lab::new();
    lab.write("recipe.toml", TEXT_RECIPE);
    made_at_once_and_in_halves(&lab, 12, "text_encoder/model.safetensors");
    let metrics = lab.metrics("whole");
    assert!(metrics[11]["loss"] < metrics[0]["loss"], "{metrics:?}");

    let config = lab.json("whole/text_encoder/config.json");
    let vocabulary = lab.json("whole/tokenizer/vocab.json");
    let end = &vocabulary["<|endoftext|>"];
    assert_eq!(config["eos_token_id"], *end);
    assert_eq!(config["bos_token_id"], vocabulary["<|startoftext|>"]);
    assert_eq!(config["vocab_size"], vocabulary.as_object().unwrap().len());
    assert!(vocabulary["sphere</w>"].is_number());

    lab.host(
        "pretrain --config recipe.toml --set data.source=pictures --set data.count=6 --out no",
    )
    .refused(2, &["data.source", "captions"]);
    lab.host("pretrain --config recipe.toml --set text_encoder.num_attention_heads=3 --out no")
        .refused(2, &["does not divide into 3 heads"]);
}
