//! The keys of adapter files: which part of which module a tensor is, in every spelling there is.

/// The endings that name a part, and the part's name in PEFT. diffusers' `lora.down` and `to_q_lora.down` are turned to `lora_down` before,
/// and PEFT's `base_layer`, under which it keeps trained biases, is left out.
const MARKERS: [(&str, &str); 24] = [
    ("lora_A", "lora_A"),
    ("lora_B", "lora_B"),
    ("lora_down", "lora_A"),
    ("lora_up", "lora_B"),
    ("lora_mid", "lora_mid"),
    ("lora_embedding_A", "lora_embedding_A"),
    ("lora_embedding_B", "lora_embedding_B"),
    ("lora_magnitude_vector", MAGNITUDE),
    ("dora_scale", MAGNITUDE),
    ("alpha", ALPHA),
    ("hada_w1_a", "hada_w1_a"),
    ("hada_w1_b", "hada_w1_b"),
    ("hada_w2_a", "hada_w2_a"),
    ("hada_w2_b", "hada_w2_b"),
    ("hada_t1", "hada_t1"),
    ("hada_t2", "hada_t2"),
    ("lokr_w1", "lokr_w1"),
    ("lokr_w1_a", "lokr_w1_a"),
    ("lokr_w1_b", "lokr_w1_b"),
    ("lokr_w2", "lokr_w2"),
    ("lokr_w2_a", "lokr_w2_a"),
    ("lokr_w2_b", "lokr_w2_b"),
    ("lokr_t2", "lokr_t2"),
    ("ia3_l", "ia3_l"),
];

/// DoRA's magnitudes.
pub(super) const MAGNITUDE: &str = "lora_magnitude_vector";
/// The number alpha, kept as a tensor.
pub(super) const ALPHA: &str = "alpha";
/// The bias of PEFT's `lora_bias`.
pub(super) const LORA_BIAS: &str = "lora_B.bias";

/// What a key names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Key {
    /// The module it belongs to.
    pub(super) module: Module,
    /// The part's name in PEFT; `weight` or `bias` for a tensor of the module itself.
    pub(super) part: &'static str,
}

/// A module of a pipeline as a key names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Module {
    /// Of the denoiser, by its dotted path.
    Path(String),
    /// Of the denoiser, by its path with `_` for every dot.
    Flat(String),
    /// Of another part of the pipeline.
    Elsewhere,
}

/// Reads a key; nothing for one that names neither a part of an adapter nor a weight or bias.
pub(super) fn parse(key: &str) -> Option<Key> {
    let key = key
        .replace("_lora.down.", ".lora_down.")
        .replace("_lora.up.", ".lora_up.")
        .replace(".lora.down.", ".lora_down.")
        .replace(".lora.up.", ".lora_up.")
        .replace(".processor.", ".")
        .replace(".base_layer.", ".");
    let words: Vec<&str> = key.split('.').collect();
    let found = words.iter().enumerate().rev().find_map(|(at, word)| {
        let (_, part) = MARKERS.iter().find(|(marker, _)| marker == word)?;
        Some((at, *part))
    });
    let (at, part) = match found {
        Some((at, part)) => {
            // What follows: nothing, `weight` or `bias`, and before these the name that PEFT gives an adapter in memory.
            let rest = &words[at + 1..];
            match (part, rest) {
                ("lora_B", [.., "bias"]) if rest.len() <= 2 => (at, LORA_BIAS),
                (_, [] | [_] | [_, "weight"]) => (at, part),
                _ => return None,
            }
        }
        None => match words.as_slice() {
            [.., "weight"] => (words.len() - 1, "weight"),
            [.., "bias"] => (words.len() - 1, "bias"),
            _ => return None,
        },
    };
    Some(Key {
        module: module(&words[..at].join(".")),
        part,
    })
}

/// Whether a part is of an adapter and not of the model itself.
pub(super) fn is_adapter(part: &str) -> bool {
    !matches!(part, "weight" | "bias")
}

fn module(name: &str) -> Module {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    if !name.contains('.') {
        // kohya numbers the text encoders of pipelines that have several.
        for prefix in ["lora_te_", "lora_te1_", "lora_te2_", "lora_te3_"] {
            if name.starts_with(prefix) {
                return Module::Elsewhere;
            }
        }
        for prefix in ["lora_unet_", "lora_transformer_", "lycoris_"] {
            if let Some(rest) = name.strip_prefix(prefix) {
                return Module::Flat(rest.to_owned());
            }
        }
    }
    match name.split_once('.') {
        Some(("transformer" | "unet" | "diffusion_model", path)) => Module::Path(path.to_owned()),
        Some((part, _)) if part.starts_with("text_encoder") || part == "vae" => Module::Elsewhere,
        _ => Module::Path(name.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_names_the_same_part_of_the_same_module() {
        let path = || Module::Path("transformer_blocks.0.attn1.to_q".to_owned());
        let flat = || Module::Flat("transformer_blocks_0_attn1_to_q".to_owned());
        let cases = [
            (
                "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight",
                path(),
                "lora_A",
            ),
            (
                "transformer_blocks.0.attn1.to_q.lora_B.weight",
                path(),
                "lora_B",
            ),
            (
                "base_model.model.transformer_blocks.0.attn1.to_q.lora_B.bias",
                path(),
                "lora_B.bias",
            ),
            (
                "base_model.model.transformer_blocks.0.attn1.to_q.lora_A.default.weight",
                path(),
                "lora_A",
            ),
            (
                "unet.transformer_blocks.0.attn1.to_q.lora.down.weight",
                path(),
                "lora_A",
            ),
            (
                "unet.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
                path(),
                "lora_B",
            ),
            (
                "transformer_blocks.0.attn1.to_q.lora_magnitude_vector",
                path(),
                "lora_magnitude_vector",
            ),
            (
                "transformer_blocks.0.attn1.to_q.lora_magnitude_vector.weight",
                path(),
                "lora_magnitude_vector",
            ),
            (
                "diffusion_model.transformer_blocks.0.attn1.to_q.lora_up.weight",
                path(),
                "lora_B",
            ),
            (
                "lora_unet_transformer_blocks_0_attn1_to_q.lora_down.weight",
                flat(),
                "lora_A",
            ),
            (
                "lora_transformer_transformer_blocks_0_attn1_to_q.alpha",
                flat(),
                "alpha",
            ),
            (
                "lycoris_transformer_blocks_0_attn1_to_q.hada_w1_a",
                flat(),
                "hada_w1_a",
            ),
            (
                "lora_unet_transformer_blocks_0_attn1_to_q.dora_scale",
                flat(),
                "lora_magnitude_vector",
            ),
            (
                "base_model.model.transformer_blocks.0.attn1.to_q.ia3_l",
                path(),
                "ia3_l",
            ),
            (
                "base_model.model.transformer_blocks.0.attn1.to_q.weight",
                path(),
                "weight",
            ),
            (
                "text_encoder_2.layers.0.q_proj.lora_A.weight",
                Module::Elsewhere,
                "lora_A",
            ),
            (
                "lora_te1_layers_0_q_proj.lora_down.weight",
                Module::Elsewhere,
                "lora_A",
            ),
        ];
        for (key, module, part) in cases {
            assert_eq!(parse(key), Some(Key { module, part }), "{key}");
        }
        assert_eq!(parse("transformer_blocks.0.attn1.to_q.lora_A.a.b.c"), None);
        assert_eq!(parse("step"), None);
    }
}
