//! Small trainable changes of chosen layers, beside a backbone that stays frozen: LoRA (Hu, Shen, Wallis, Allen-Zhu, Li, Wang, Wang, Chen; ICLR 2022; arXiv
//! 2106.09685) and its relatives DoRA, LoHa, LoKr and (IA)³.
//!
//! Each kind begins at the pretrained model exactly. The plugin decides what trains and nothing else, so it goes with every method that decides how.

#![deny(unsafe_code)]

mod files;
mod pattern;
mod settings;
mod start;
mod targets;
mod update;

use std::collections::HashMap;
use std::fmt::Write;

use plugin_api::hooks::{LayerHook, PrepareHook};
use plugin_api::{DType, Host, LayerInfo, Plugin, Result, Tensor, export_plugin};

use files::Trained;
pub use settings::{FirstFactor, Format, Kind, LoraSettings};
use start::Start;
use targets::Target;
use update::{Maker, Pass, Update};

/// The plugin.
pub struct Lora {
    settings: LoraSettings,
    /// The layers and their updates, in the backbone's order; filled by `prepare`.
    layers: Vec<(Target, Box<dyn Update>)>,
    /// Places in `layers` by the layer's number.
    places: HashMap<u32, usize>,
}

impl Plugin for Lora {
    type Settings = LoraSettings;
    const ID: &'static str = "lora";
    const SUMMARY: &'static str =
        "Train a low-rank update beside chosen layers of the frozen backbone";

    fn build(settings: LoraSettings, host: &Host) -> Result<Self> {
        settings.check()?;
        // Targets that match nothing are refused before any other plugin begins its preparations.
        targets::choose(&settings, &host.layers()?)?;
        Ok(Self {
            settings,
            layers: Vec::new(),
            places: HashMap::new(),
        })
    }
}

impl PrepareHook for Lora {
    fn prepare(&mut self, host: &Host) -> Result<()> {
        let all = host.layers()?;
        let targets = targets::choose(&self.settings, &all)?;
        let start = match &self.settings.from {
            // Later on, the parameters' values are the checkpoint's.
            Some(path) if host.step() == 0 => Start::read(path, &self.settings, &targets, host)?,
            _ => Start::default(),
        };
        for target in targets {
            let maker = Maker {
                target: &target,
                host,
                start: &start,
            };
            let update = update::make(&self.settings, &maker)?;
            self.places.insert(target.layer.id, self.layers.len());
            self.layers.push((target, update));
        }
        let count: usize = self.layers.iter().map(|(_, update)| size(&**update)).sum();
        tracing::info!(
            "adapts {} of the backbone's {} layers ({}): {count} parameters",
            self.layers.len(),
            all.len(),
            self.settings.kind.name()
        );
        host.artifact("layers.txt", self.listing())?;
        let trained = Trained {
            settings: &self.settings,
            layers: &self.layers,
            part: files::part(&host.backbone()?.architecture),
        };
        trained.declare(host)
    }
}

impl Lora {
    /// The adapted layers, one a line.
    fn listing(&self) -> String {
        let mut text = String::new();
        for (target, update) in &self.layers {
            let Target {
                layer,
                rank,
                alpha,
                feedforward,
            } = target;
            let how = match (self.settings.kind, feedforward) {
                (Kind::Ia3, true) => "inputs scaled".to_owned(),
                (Kind::Ia3, false) => "outputs scaled".to_owned(),
                _ => format!("rank {rank}, alpha {alpha}"),
            };
            let count = size(&**update);
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{} {:?}: {how}, {count} parameters",
                layer.path, layer.weight_shape
            );
        }
        text
    }
}

/// How many numbers of an update train.
fn size(update: &dyn Update) -> usize {
    let parts = update.parts().into_iter();
    parts.map(|(_, tensor)| tensor.elem_count()).sum()
}

impl LayerHook for Lora {
    fn adapts(&self, layer: &LayerInfo) -> bool {
        self.places.contains_key(&layer.id)
    }

    fn layer(
        &mut self,
        layer: &LayerInfo,
        input: &Tensor,
        output: Tensor,
        host: &Host,
    ) -> Result<Tensor> {
        let Some(&place) = self.places.get(&layer.id) else {
            return Ok(output);
        };
        let (_, update) = &self.layers[place];
        let pass = Pass {
            layer,
            input: input.to_dtype(DType::F32)?,
            output: output.to_dtype(DType::F32)?,
            host,
        };
        update.adapt(&pass)?.to_dtype(output.dtype())
    }
}

export_plugin!(Lora: Prepare, Layer);
