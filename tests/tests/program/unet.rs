//! A UNet through the whole program: looked into, run raw, and trained with a plugin's layers, with and without kept activations.

use candle_core::{DType, Device};
use host::backbone::unet::{DownBlock, PerLevel, UpBlock};
use host::backbone::{Backbone, Overlay, UnetConfig};
use host::random::Stream;
use integration_tests::{Lab, goldens};

/// Writes a UNet of two levels of which every weight matters.
fn write_unet(lab: &Lab) {
    let config = UnetConfig {
        sample_size: 8,
        block_out_channels: vec![32, 64],
        down_block_types: vec![DownBlock::CrossAttention, DownBlock::Plain],
        up_block_types: vec![UpBlock::Plain, UpBlock::CrossAttention],
        layers_per_block: PerLevel::All(1),
        cross_attention_dim: PerLevel::All(12),
        attention_head_dim: PerLevel::All(4),
        ..UnetConfig::default()
    };
    let fresh = Backbone::init(config, 1, &Device::Cpu).unwrap();
    let mut overlay = Overlay::new();
    for (name, tensor) in fresh.parameters() {
        let zero = tensor.abs().unwrap().max_all().unwrap();
        if zero.to_scalar::<f32>().unwrap() == 0.0 {
            let random = Stream::new(2, name).normal(tensor.shape(), &Device::Cpu);
            overlay.insert(name.to_owned(), (random.unwrap() * 0.05).unwrap());
        }
    }
    fresh
        .save(&lab.path("tiny-unet"), &overlay, DType::F32)
        .unwrap();
}

fn losses(lab: &Lab, further: &str) -> (Vec<f64>, u64) {
    let measured = lab
        .host(&format!(
            "bench --backbone tiny-unet --batch-size 2 --steps 2 --json {further}"
        ))
        .done()
        .json();
    let losses = measured["losses"].as_array().unwrap().iter();
    let losses = losses.map(|loss| loss.as_f64().unwrap()).collect();
    (losses, measured["trainable"].as_u64().unwrap())
}

#[test]
fn lora_starts_at_the_backbone_and_trains_the_same_without_kept_activations() {
    let lab = Lab::new();
    write_unet(&lab);
    let (full, all) = losses(&lab, "");
    let (lora, some) = losses(&lab, "--plugin lora --set lora.rank=2");
    assert_eq!(full[0], lora[0], "an update that is zero changes nothing");
    assert_ne!(full[2], lora[2]);
    // Four layers of each of four transformers' two attentions, from 32, 64 or the text's 12 to 32 or 64 features.
    assert!(some > 0 && some < all / 10, "{some} of {all}");
    let everywhere = r#"--plugin lora --set lora.rank=2 --set lora.targets=["**.to_q","**.conv1","**.downsamplers.0.conv","**.proj_in"]"#;
    let (kept, _) = losses(&lab, everywhere);
    assert_eq!(kept[0], full[0]);
    let again = format!("{everywhere} --set train.gradient_checkpointing=true");
    let (computed, _) = losses(&lab, &again);
    for (kept, computed) in kept.iter().zip(&computed) {
        assert!(
            (kept - computed).abs() < 1e-6 * kept,
            "{kept} and {computed}"
        );
    }
    let (diffit, few) = losses(&lab, "--set train.trainable=\"diffit\"");
    assert_eq!(diffit[0], full[0]);
    assert!(few > some / 10 && few < all / 10, "{few} of {all}");
}

#[test]
fn a_unet_is_told_from_a_dit_and_wants_its_text() {
    let lab = Lab::new();
    write_unet(&lab);
    let text = lab.host("model inspect tiny-unet").done().stdout;
    for part in [
        "unet",
        "2, width 32, 4 heads",
        "tokens 12 wide",
        "up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_k",
    ] {
        assert!(text.contains(part), "`{part}` is not in\n{text}");
    }
    let info = &lab.host("model inspect tiny-unet --json").done().json()["info"];
    assert_eq!(info["residual_sites"], 5);
    assert_eq!(info["cross_attention"], 12);
    lab.host("run --backbone tiny-unet --data scenes:studio --steps 1 --out run")
        .refused(2, &["4 channels", "without a `vae/`"]);
    super::latent::copy(&goldens("vae/plain"), &lab.path("tiny-unet/vae"));
    lab.host("run --backbone tiny-unet --data scenes:studio --steps 1 --out run")
        .refused(2, &["12 wide", "no text encoder"]);
}
