//! LoRA (Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen; ICLR 2022; arXiv 2106.09685), section 4.1.
//!
//! A chosen linear layer `y = W x + b` stays frozen, and `(alpha / rank) * B A x` is added to what it gives: `A [rank, in]` is drawn at random, `B [out, rank]`
//! starts at zero, so that the first step begins at the pretrained model exactly. Only `A` and `B` train.
//!
//! It decides what trains and nothing else, so it goes with every method that decides how.

#![deny(unsafe_code)]

mod settings;
mod targets;

use std::collections::HashMap;

use plugin_api::hooks::{LayerHook, PrepareHook};
use plugin_api::{DType, Host, Init, LayerInfo, Plugin, Result, Tensor, export_plugin};
use serde_json::json;

pub use settings::LoraSettings;

/// Negative slope of the initialisation of `A`: PyTorch's for a linear layer, and PEFT's.
const SLOPE: f64 = 2.236_067_977_499_79; // sqrt(5)

/// The plugin.
pub struct Lora {
    settings: LoraSettings,
    /// The updates by the layer's number; filled by `prepare`.
    updates: HashMap<u32, Update>,
}

/// One layer's trainable update.
struct Update {
    /// `[rank, in]`.
    a: Tensor,
    /// `[out, rank]`.
    b: Tensor,
}

impl Plugin for Lora {
    type Settings = LoraSettings;
    const ID: &'static str = "lora";
    const SUMMARY: &'static str =
        "Train a low-rank update beside chosen layers of the frozen backbone";

    fn build(settings: LoraSettings, host: &Host) -> Result<Self> {
        // Targets that match nothing are refused before any other plugin begins its preparations.
        targets::matched(&settings.targets, &host.layers()?)?;
        Ok(Self {
            settings,
            updates: HashMap::new(),
        })
    }
}

impl PrepareHook for Lora {
    fn prepare(&mut self, host: &Host) -> Result<()> {
        let layers = host.layers()?;
        let adapted = targets::matched(&self.settings.targets, &layers)?;
        let rank = self.settings.rank;
        let mut count = 0;
        for layer in &adapted {
            let (inputs, outputs) = (layer.in_features, layer.out_features);
            let name = |part: &str| format!("{}.lora_{part}.weight", layer.path);
            let a = host.parameter(
                &name("A"),
                [rank, inputs],
                Init::KaimingUniform { a: SLOPE },
            )?;
            let b = host.parameter(&name("B"), [outputs, rank], Init::Zeros)?;
            count += rank * (inputs + outputs);
            self.updates.insert(layer.id, Update { a, b });
        }
        tracing::info!(
            "adapts {} of the backbone's {} layers at rank {rank}: {count} parameters",
            adapted.len(),
            layers.len()
        );
        host.adapter("peft-lora", &self.peft_config(&adapted), "{}")
    }
}

impl Lora {
    /// What PEFT's `adapter_config.json` says of the updates.
    fn peft_config(&self, adapted: &[&LayerInfo]) -> String {
        let paths: Vec<&str> = adapted.iter().map(|layer| layer.path.as_str()).collect();
        json!({
            "peft_type": "LORA",
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha(),
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": paths,
        })
        .to_string()
    }
}

impl LayerHook for Lora {
    fn adapts(&self, layer: &LayerInfo) -> bool {
        self.updates.contains_key(&layer.id)
    }

    fn layer(
        &mut self,
        layer: &LayerInfo,
        input: &Tensor,
        output: Tensor,
        _host: &Host,
    ) -> Result<Tensor> {
        let Some(Update { a, b }) = self.updates.get(&layer.id) else {
            return Ok(output);
        };
        // Parameters are f32 whatever the backbone computes in.
        let low = input.to_dtype(DType::F32)?.linear(a, None)?; // [.., rank]
        let base = output.to_dtype(DType::F32)?;
        let sum = base.add_linear(&low, b, self.settings.scale())?; // [.., out]
        sum.to_dtype(output.dtype())
    }
}

export_plugin!(Lora: Prepare, Layer);
