//! A layer that all blocks of a backbone share is one here and one a block in diffusers; so what a plugin writes for it is written for every block.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde_json::Value;

/// How the embedders of block 0 begin, with dots and as kohya writes them.
const SHARED: [(&str, &str, &str); 2] = [
    (
        "transformer_blocks.0.norm1.emb.",
        "transformer_blocks.",
        ".norm1.emb.",
    ),
    (
        "transformer_blocks_0_norm1_emb_",
        "transformer_blocks_",
        "_norm1_emb_",
    ),
];

/// The names of the same thing in the blocks after block 0; none for what is no part of a shared layer.
pub fn copies(name: &str, depth: usize) -> Vec<String> {
    let found = SHARED.iter().find(|(first, _, _)| name.contains(first));
    let Some((first, before, after)) = found else {
        return Vec::new();
    };
    (1..depth)
        .map(|block| name.replacen(first, &format!("{before}{block}{after}"), 1))
        .collect()
}

/// A file's tensors, those of shared layers under the name of every block.
pub fn tensors(given: &BTreeMap<String, Tensor>, depth: usize) -> BTreeMap<String, Tensor> {
    let mut all = given.clone();
    for (name, tensor) in given {
        for copy in copies(name, depth) {
            all.entry(copy).or_insert_with(|| tensor.clone());
        }
    }
    all
}

/// A text that belongs to such a file: where it is JSON, shared layers in lists and keys become those of every block.
pub fn text(given: &str, depth: usize) -> String {
    if !SHARED.iter().any(|(first, _, _)| given.contains(first)) {
        return given.to_owned();
    }
    match serde_json::from_str::<Value>(given) {
        Ok(value) => json(value, depth).to_string(),
        Err(_) => given.to_owned(),
    }
}

fn json(value: Value, depth: usize) -> Value {
    match value {
        Value::Array(items) => {
            let mut all = items.clone();
            for copy in items
                .iter()
                .filter_map(Value::as_str)
                .flat_map(|item| copies(item, depth))
            {
                let copy = Value::String(copy);
                if !all.contains(&copy) {
                    all.push(copy);
                }
            }
            Value::Array(all)
        }
        Value::Object(entries) => {
            let mut all = serde_json::Map::new();
            for (key, value) in entries {
                let value = json(value, depth);
                for copy in copies(&key, depth) {
                    all.entry(copy).or_insert_with(|| value.clone());
                }
                all.insert(key, value);
            }
            Value::Object(all)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_blocks_share_is_named_for_each_and_the_rest_stays() {
        let path =
            "transformer.transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.lora_A.weight";
        assert_eq!(
            copies(path, 3),
            [path.replace(".0.", ".1."), path.replace(".0.", ".2.")]
        );
        assert_eq!(
            copies("lora_unet_transformer_blocks_0_norm1_emb_x.alpha", 2),
            ["lora_unet_transformer_blocks_1_norm1_emb_x.alpha"]
        );
        assert!(copies("transformer_blocks.0.norm1.linear", 3).is_empty());
        let config = r#"{"r": 2, "target_modules": ["transformer_blocks.0.norm1.emb.a", "proj_out_1"], "alpha_pattern": {"transformer_blocks.0.norm1.emb.a": 3}}"#;
        let spread: Value = serde_json::from_str(&text(config, 2)).unwrap();
        assert_eq!(
            spread["target_modules"][2],
            "transformer_blocks.1.norm1.emb.a"
        );
        assert_eq!(
            spread["alpha_pattern"]["transformer_blocks.1.norm1.emb.a"],
            3
        );
        assert_eq!(spread["r"], 2);
        assert_eq!(text("not JSON", 2), "not JSON");
    }
}
