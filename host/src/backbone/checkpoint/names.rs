//! Translates the original DiT layout into diffusers' names, and infers a configuration from its shapes.

use std::collections::BTreeMap;

use super::super::dit::{POSITION_TABLE, invalid};
use super::super::{DitConfig, Error};

/// Where a parameter by its diffusers name is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The name in the file.
    pub(crate) stored: String,
    /// Which third of its rows, for one of the stacked query, key and value.
    pub(crate) third: Option<usize>,
    /// Whether rows and columns are the other way round in the file.
    pub(crate) transposed: bool,
    /// The shape of the parameter.
    pub(crate) shape: Vec<usize>,
}

impl Part {
    /// A parameter that is a tensor of the file.
    pub(crate) fn whole(stored: String, shape: Vec<usize>) -> Self {
        Self {
            stored,
            third: None,
            transposed: false,
            shape,
        }
    }
}

type Shapes = BTreeMap<String, Vec<usize>>;

/// Whether a file is in the layout of the original code.
pub(super) fn is_original(shapes: &Shapes) -> bool {
    shapes.contains_key("x_embedder.proj.weight")
}

/// Why a file that is neither the original layout nor beside a `config.json` cannot be read.
pub(super) fn describe_foreign(shapes: &Shapes) -> String {
    let first = shapes.keys().next().map_or("none", String::as_str);
    let diffusers = ["pos_embed.proj.weight", "time_embedding.linear_1.weight"];
    match diffusers.iter().any(|name| shapes.contains_key(*name)) {
        true => {
            "the weights are in diffusers' layout, which needs a config.json beside them".to_owned()
        }
        false => format!(
            "the {} tensors are not a DiT's, nor a whole Stable Diffusion's in its original layout (the first is `{first}`)",
            shapes.len()
        ),
    }
}

/// The catalog of a file whose names are diffusers' already.
pub(super) fn from_diffusers(shapes: Shapes) -> BTreeMap<String, Part> {
    shapes
        .into_iter()
        .map(|(name, shape)| (name.clone(), Part::whole(name, shape)))
        .collect()
}

/// The catalog of a file in the original layout. Names of no known place keep their own, to be reported as unexpected. The embedders, stored once, become block 0's.
pub(super) fn from_original(shapes: Shapes) -> BTreeMap<String, Part> {
    let mut catalog = BTreeMap::new();
    for (stored, shape) in shapes {
        if let Some((layer, parameter)) = stored.split_once(".attn.qkv.") {
            for (third, target) in ["to_q", "to_k", "to_v"].into_iter().enumerate() {
                let mut shape = shape.clone();
                if let Some(rows) = shape.first_mut() {
                    *rows /= 3;
                }
                let block = layer.replacen("blocks.", "transformer_blocks.", 1);
                let part = Part {
                    third: Some(third),
                    ..Part::whole(stored.clone(), shape)
                };
                catalog.insert(format!("{block}.attn1.{target}.{parameter}"), part);
            }
            continue;
        }
        let name = diffusers_name(&stored);
        catalog.insert(name, Part::whole(stored, shape));
    }
    catalog
}

/// The diffusers name of an original name, for tensors that correspond one to one.
fn diffusers_name(original: &str) -> String {
    const OUTSIDE: [(&str, &str); 6] = [
        ("x_embedder.proj.", "pos_embed.proj."),
        (
            "t_embedder.mlp.0.",
            "transformer_blocks.0.norm1.emb.timestep_embedder.linear_1.",
        ),
        (
            "t_embedder.mlp.2.",
            "transformer_blocks.0.norm1.emb.timestep_embedder.linear_2.",
        ),
        (
            "y_embedder.embedding_table.",
            "transformer_blocks.0.norm1.emb.class_embedder.embedding_table.",
        ),
        ("final_layer.adaLN_modulation.1.", "proj_out_1."),
        ("final_layer.linear.", "proj_out_2."),
    ];
    const INSIDE: [(&str, &str); 4] = [
        ("adaLN_modulation.1.", "norm1.linear."),
        ("attn.proj.", "attn1.to_out.0."),
        ("mlp.fc1.", "ff.net.0.proj."),
        ("mlp.fc2.", "ff.net.2."),
    ];
    if original == "pos_embed" {
        return POSITION_TABLE.to_owned();
    }
    for (from, to) in OUTSIDE {
        if let Some(rest) = original.strip_prefix(from) {
            return format!("{to}{rest}");
        }
    }
    if let Some((index, rest)) = original
        .strip_prefix("blocks.")
        .and_then(|rest| rest.split_once('.'))
    {
        for (from, to) in INSIDE {
            if let Some(parameter) = rest.strip_prefix(from) {
                return format!("transformer_blocks.{index}.{to}{parameter}");
            }
        }
    }
    original.to_owned()
}

/// The configuration of a file in the original layout.
///
/// Shapes say everything but the number of heads. The published widths fix it (1152 is XL: 16 heads of 72; 384, 768 and 1024 are S, B and L: heads of 64); any other width is taken to
/// have heads of 64. The table of classes is taken to end with the null class, as it does unless a model was trained without label dropout. What the original code computes differently from diffusers (epsilon 1e-6 in one norm) is read as diffusers' own converter reads it.
pub(super) fn infer_config(shapes: &Shapes) -> Result<DitConfig, Error> {
    let shape = |name: &'static str, rank: usize| -> Result<&Vec<usize>, Error> {
        let Some(shape) = shapes.get(name) else {
            return Err(Error::Names {
                missing: vec![name.to_owned()],
                unexpected: Vec::new(),
            });
        };
        match shape.len() == rank {
            true => Ok(shape),
            false => Err(invalid(
                "weights",
                &format!("`{name}` {shape:?}"),
                &format!("{rank} dimensions"),
            )),
        }
    };
    let patch = shape("x_embedder.proj.weight", 4)?;
    let (width, in_channels, patch_size) = (patch[0], patch[1], patch[2]);
    let tokens = shape("pos_embed", 3)?[1];
    let grid = tokens.isqrt();
    if grid * grid != tokens {
        return Err(invalid(
            "pos_embed",
            &format!("{tokens} positions"),
            "a square number",
        ));
    }
    let rows = shape("y_embedder.embedding_table.weight", 2)?[0];
    let outputs = shape("final_layer.linear.weight", 2)?[0];
    let area = patch_size * patch_size;
    if area == 0 || !outputs.is_multiple_of(area) {
        let expected = format!("a multiple of the patch area, {area}");
        return Err(invalid(
            "final_layer.linear",
            &format!("{outputs} outputs"),
            &expected,
        ));
    }
    let depth = shapes
        .keys()
        .filter_map(|name| {
            name.strip_prefix("blocks.")?
                .split('.')
                .next()?
                .parse::<usize>()
                .ok()
        })
        .max()
        .map_or(0, |last| last + 1);
    let head_dim = if width == 1152 { 72 } else { 64 };
    if !width.is_multiple_of(head_dim) {
        let expected = format!(
            "a multiple of {head_dim}, the size of a head (the original layout does not say it)"
        );
        return Err(invalid("width", &width.to_string(), &expected));
    }
    Ok(DitConfig {
        num_attention_heads: width / head_dim,
        attention_head_dim: head_dim,
        in_channels,
        out_channels: Some(outputs / area),
        num_layers: depth,
        sample_size: grid * patch_size,
        patch_size,
        num_embeds_ada_norm: rows.saturating_sub(1),
        ..DitConfig::default()
    })
}
