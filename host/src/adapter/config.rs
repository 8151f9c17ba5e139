//! What PEFT's configuration says of an adapter: in `adapter_config.json` beside it, or in the header of a diffusers file.

use regex::Regex;
use serde::Deserialize;
use serde_json::Value;

use crate::config::Pairs;

/// Rank, alpha and what else decides how tensors are meant; empty where nothing says so.
#[derive(Debug, Default)]
pub(super) struct PeftConfig {
    pub(super) peft_type: Option<String>,
    rank: Option<usize>,
    alpha: Option<f64>,
    pub(super) rslora: bool,
    /// In the order of the file: the first that matches counts.
    rank_pattern: Vec<(Regex, f64)>,
    alpha_pattern: Vec<(Regex, f64)>,
    feedforward: Feedforward,
}

/// Which modules scale their inputs under (IA)³.
#[derive(Debug, Default)]
enum Feedforward {
    #[default]
    None,
    Endings(Vec<String>),
    Pattern(Regex),
}

/// A value of the configuration; an object of numbers keeps its order.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Item {
    Numbers(Pairs<f64>),
    Value(Value),
}

impl PeftConfig {
    /// Reads the text of a configuration. In a diffusers header the keys of each part of the pipeline stand under its name, as in `transformer.r`.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let Pairs(items) = serde_json::from_str::<Pairs<Item>>(text).map_err(|error| {
            format!("its configuration is not JSON as PEFT writes it ({error})")
        })?;
        let prefix = ["transformer.", "unet."]
            .into_iter()
            .find(|prefix| items.iter().any(|(key, _)| key.starts_with(prefix)))
            .unwrap_or_default();
        let mut config = Self::default();
        for (key, item) in items {
            let Some(key) = key.strip_prefix(prefix) else {
                continue;
            };
            match (key, item) {
                ("peft_type", Item::Value(Value::String(kind))) => config.peft_type = Some(kind),
                ("r", Item::Value(value)) => config.rank = value.as_u64().map(|rank| rank as usize),
                ("lora_alpha" | "alpha", Item::Value(value)) => config.alpha = value.as_f64(),
                ("use_rslora", Item::Value(value)) => config.rslora = value == Value::Bool(true),
                ("rank_pattern", Item::Numbers(pairs)) => config.rank_pattern = patterns(pairs)?,
                ("alpha_pattern", Item::Numbers(pairs)) => config.alpha_pattern = patterns(pairs)?,
                ("feedforward_modules", Item::Value(value)) => {
                    config.feedforward = feedforward(value)?;
                }
                _ => {}
            }
        }
        Ok(config)
    }

    /// The rank that the configuration gives a module.
    pub(super) fn rank(&self, module: &str) -> Option<usize> {
        first(&self.rank_pattern, module)
            .map(|rank| rank as usize)
            .or(self.rank)
    }

    /// The alpha that the configuration gives a module.
    pub(super) fn alpha(&self, module: &str) -> Option<f64> {
        first(&self.alpha_pattern, module).or(self.alpha)
    }

    /// Whether (IA)³ scales the module's inputs; its outputs otherwise.
    pub(super) fn is_feedforward(&self, module: &str) -> bool {
        match &self.feedforward {
            Feedforward::None => false,
            Feedforward::Endings(endings) => endings.iter().any(|ending| module.ends_with(ending)),
            Feedforward::Pattern(pattern) => pattern.is_match(module),
        }
    }
}

fn first(patterns: &[(Regex, f64)], module: &str) -> Option<f64> {
    let found = patterns
        .iter()
        .find(|(pattern, _)| pattern.is_match(module));
    found.map(|(_, value)| *value)
}

/// PEFT matches a pattern against a module's path or any end of it that begins at a dot.
fn patterns(Pairs(pairs): Pairs<f64>) -> Result<Vec<(Regex, f64)>, String> {
    let pattern =
        |(key, value): (String, f64)| Ok((regex(&format!(r"^(?:.*\.)?(?:{key})$"))?, value));
    pairs.into_iter().map(pattern).collect()
}

fn feedforward(value: Value) -> Result<Feedforward, String> {
    Ok(match value {
        Value::String(pattern) => Feedforward::Pattern(regex(&format!("^(?:{pattern})$"))?),
        Value::Array(endings) => Feedforward::Endings(
            endings
                .iter()
                .filter_map(|ending| ending.as_str().map(str::to_owned))
                .collect(),
        ),
        _ => Feedforward::None,
    })
}

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern)
        .map_err(|_| format!("its configuration has the pattern `{pattern}`, which cannot be read"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_pattern_of_the_file_that_matches_an_end_of_the_path_counts() {
        let config = PeftConfig::parse(
            r#"{"transformer.r": 4, "transformer.lora_alpha": 8, "transformer.use_rslora": true,
                "transformer.alpha_pattern": {"transformer_blocks.1.attn1.to_q": 3, "to_q": 5, "^proj_out_1": 7},
                "text_encoder.r": 99}"#,
        )
        .unwrap();
        assert!(config.rslora);
        assert_eq!(config.rank("proj_out_2"), Some(4));
        assert_eq!(config.alpha("transformer_blocks.1.attn1.to_q"), Some(3.0));
        assert_eq!(config.alpha("transformer_blocks.0.attn1.to_q"), Some(5.0));
        assert_eq!(
            config.alpha("transformer_blocks.0.attn1.not_to_q"),
            Some(8.0)
        );
        assert_eq!(config.alpha("proj_out_1"), Some(7.0));
    }

    #[test]
    fn feed_forward_modules_are_endings_or_one_pattern() {
        let config = PeftConfig::parse(r#"{"feedforward_modules": ["ff.net.2"]}"#).unwrap();
        assert!(config.is_feedforward("transformer_blocks.0.ff.net.2"));
        assert!(!config.is_feedforward("transformer_blocks.0.attn1.to_q"));
        let config = PeftConfig::parse(r#"{"feedforward_modules": ".*ff.*"}"#).unwrap();
        assert!(config.is_feedforward("transformer_blocks.0.ff.net.2"));
        assert!(PeftConfig::parse(r#"{"rank_pattern": {"(": 3}}"#).is_err());
        assert!(PeftConfig::parse("[]").is_err());
    }
}
