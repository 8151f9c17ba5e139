//! PEFT's configuration of an adapter: without it, a loader would guess ranks and take every alpha for the rank.

use serde_json::{Map, Value, json};

use super::Trained;
use crate::settings::{FirstFactor, Kind};
use crate::targets::Target;

impl Trained<'_> {
    /// The fields of PEFT 0.21's configuration of this kind.
    pub(super) fn config(&self) -> Map<String, Value> {
        let settings = self.settings;
        let mut config = object(json!({
            "peft_type": settings.kind.name().to_uppercase(),
            "base_model_name_or_path": null,
            "target_modules": self.paths(|_| true),
        }));
        let more = match settings.kind {
            Kind::Lora => json!({
                "lora_alpha": self.alpha(),
                "lora_dropout": settings.dropout,
                "use_rslora": settings.rslora,
                "use_dora": settings.dora,
                "bias": "none",
                "fan_in_fan_out": false,
                "init_lora_weights": match settings.init {
                    FirstFactor::Kaiming => json!(true),
                    FirstFactor::Gaussian => json!("gaussian"),
                },
            }),
            Kind::Loha => json!({
                "alpha": self.alpha(),
                "use_effective_conv2d": settings.effective_conv,
            }),
            Kind::Lokr => json!({
                "alpha": self.alpha(),
                "use_effective_conv2d": settings.effective_conv,
                "decompose_both": settings.decompose_both,
                "decompose_factor": settings.decompose_factor.map_or(json!(-1), |factor| json!(factor)),
            }),
            Kind::Ia3 => json!({
                "feedforward_modules": self.paths(|target| target.feedforward),
                "fan_in_fan_out": false,
            }),
        };
        config.extend(object(more));
        if settings.kind != Kind::Ia3 {
            config.extend(object(json!({
                "r": settings.rank,
                "rank_pattern": self.others(|target| (target.rank != settings.rank).then(|| target.rank.into())),
                "alpha_pattern": self.others(|target| (target.alpha != self.alpha()).then(|| target.alpha.into())),
            })));
        }
        config
    }

    /// The alpha of layers that no pattern names.
    fn alpha(&self) -> f64 {
        self.settings.alpha.unwrap_or(self.settings.rank as f64)
    }

    fn paths(&self, which: impl Fn(&Target) -> bool) -> Vec<&str> {
        let targets = self.layers.iter().map(|(target, _)| target);
        let chosen = targets.filter(|target| which(target));
        chosen.map(|target| target.layer.path.as_str()).collect()
    }

    /// The layers for which there is a value, under patterns that PEFT matches with these layers alone.
    fn others(&self, value: impl Fn(&Target) -> Option<Value>) -> Map<String, Value> {
        let targets = self.layers.iter().map(|(target, _)| target);
        targets
            .filter_map(|target| Some((format!("^{}", target.layer.path), value(target)?)))
            .collect()
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
