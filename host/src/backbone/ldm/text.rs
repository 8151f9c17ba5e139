//! The text encoders' names in files of the original layout: those of the first are transformers' own behind a prefix, OpenCLIP's have others, and stack
//! queries, keys and values.

/// Where a parameter by its name in transformers is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    /// The name in the file.
    pub(crate) name: String,
    /// Which third of its rows, for one of the stacked query, key and value.
    pub(crate) third: Option<usize>,
    /// Whether the file has rows and columns the other way round.
    pub(crate) transposed: bool,
}

/// Layers of a block of OpenCLIP's: transformers' names and its own.
const LAYERS: [(&str, &str); 5] = [
    ("self_attn.out_proj.", "attn.out_proj."),
    ("layer_norm1.", "ln_1."),
    ("layer_norm2.", "ln_2."),
    ("mlp.fc1.", "mlp.c_fc."),
    ("mlp.fc2.", "mlp.c_proj."),
];

/// Where OpenCLIP's file has a parameter of transformers' `CLIPTextModel` or `CLIPTextModelWithProjection`; nothing for one that it does not have.
pub(crate) fn open_clip(name: &str) -> Option<Stored> {
    let plain = |name: String| Stored {
        name,
        third: None,
        transposed: false,
    };
    if name == "text_projection.weight" {
        return Some(Stored {
            transposed: true,
            ..plain("text_projection".to_owned())
        });
    }
    let rest = name.strip_prefix("text_model.")?;
    Some(match rest {
        "embeddings.token_embedding.weight" => plain("token_embedding.weight".to_owned()),
        "embeddings.position_embedding.weight" => plain("positional_embedding".to_owned()),
        _ => {
            if let Some(parameter) = rest.strip_prefix("final_layer_norm.") {
                return Some(plain(format!("ln_final.{parameter}")));
            }
            let (index, rest) = rest.strip_prefix("encoder.layers.")?.split_once('.')?;
            let block = format!("transformer.resblocks.{index}");
            let stacked = ["q_proj", "k_proj", "v_proj"].iter().position(|part| {
                let own = rest.strip_prefix("self_attn.");
                own.is_some_and(|own| own.starts_with(part))
            });
            match stacked {
                Some(third) => Stored {
                    third: Some(third),
                    ..plain(format!("{block}.attn.in_proj_{}", rest.rsplit_once('.')?.1))
                },
                None => {
                    let (known, original) =
                        LAYERS.iter().find(|(known, _)| rest.starts_with(known))?;
                    plain(format!("{block}.{original}{}", &rest[known.len()..]))
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn open_clips_names_stack_queries_keys_and_values() {
        let check = |name: &str, stored: &str, third: Option<usize>, transposed: bool| {
            let found = open_clip(name).unwrap();
            assert_eq!(
                (found.name.as_str(), found.third, found.transposed),
                (stored, third, transposed)
            );
        };
        let layer = |rest: &str| format!("text_model.encoder.layers.11.{rest}");
        let block = |rest: &str| format!("transformer.resblocks.11.{rest}");
        check(
            &layer("self_attn.k_proj.bias"),
            &block("attn.in_proj_bias"),
            Some(1),
            false,
        );
        check(
            &layer("self_attn.v_proj.weight"),
            &block("attn.in_proj_weight"),
            Some(2),
            false,
        );
        check(
            &layer("self_attn.out_proj.weight"),
            &block("attn.out_proj.weight"),
            None,
            false,
        );
        check(&layer("mlp.fc1.bias"), &block("mlp.c_fc.bias"), None, false);
        check(
            &layer("layer_norm2.weight"),
            &block("ln_2.weight"),
            None,
            false,
        );
        check(
            "text_model.embeddings.position_embedding.weight",
            "positional_embedding",
            None,
            false,
        );
        check(
            "text_model.final_layer_norm.bias",
            "ln_final.bias",
            None,
            false,
        );
        check("text_projection.weight", "text_projection", None, true);
        assert_eq!(open_clip("logit_scale"), None);
    }
}
