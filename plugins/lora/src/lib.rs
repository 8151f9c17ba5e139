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
use plugin_api::{
    AdapterFile, DType, Host, Init, LayerInfo, Plugin, Result, Tensor, export_plugin,
};
use serde_json::json;

pub use settings::LoraSettings;

/// The part of a diffusers pipeline whose layers are adapted.
const PART: &str = "transformer";

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
        host.adapter(self.weights_file(&adapted))
    }
}

impl Lora {
    /// The updates as diffusers keeps LoRA weights: PEFT's names below the part of the pipeline, and PEFT's configuration in the header.
    fn weights_file(&self, adapted: &[&LayerInfo]) -> AdapterFile {
        let mut file = AdapterFile::new("pytorch_lora_weights.safetensors")
            .metadata("lora_adapter_metadata", self.peft_config(adapted));
        for layer in adapted {
            if let Some(Update { a, b }) = self.updates.get(&layer.id) {
                for (part, weight) in [("A", a), ("B", b)] {
                    let name = format!("{PART}.{}.lora_{part}.weight", layer.path);
                    file = file.tensor(name, weight);
                }
            }
        }
        file
    }

    /// What PEFT's `LoraConfig` says of the updates, each key below the part of the pipeline.
    fn peft_config(&self, adapted: &[&LayerInfo]) -> String {
        let paths: Vec<&str> = adapted.iter().map(|layer| layer.path.as_str()).collect();
        let config = json!({
            "peft_type": "LORA",
            "r": self.settings.rank,
            "lora_alpha": self.settings.alpha(),
            "lora_dropout": 0.0,
            "bias": "none",
            "target_modules": paths,
        });
        let prefixed: serde_json::Map<String, serde_json::Value> = config
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, value)| (format!("{PART}.{key}"), value.clone()))
            .collect();
        json!(prefixed).to_string()
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
