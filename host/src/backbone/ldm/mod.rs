//! Whole pipelines in one file, in the layout of the original code of latent diffusion: Stable Diffusion 1, 2 and XL as `.safetensors` or `.ckpt`.

pub(crate) mod text;
mod unet;
mod vae;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

pub(crate) use unet::{UnetNames, count};
pub(crate) use vae::original as vae_original;

use super::checkpoint::{self, Part};
use super::unet::outline;
use super::{Error, UnetConfig};
use text::{Stored, open_clip};

/// Names and shapes of a file's tensors.
pub(crate) type Shapes = BTreeMap<String, Vec<usize>>;
/// Where each parameter by its diffusers name lies in a file.
pub(crate) type Catalog = BTreeMap<String, Part>;

/// How the names of a UNet's tensors begin.
const UNET: &str = "model.diffusion_model.";
/// How the names of the autoencoder's tensors begin.
pub(crate) const VAE: &str = "first_stage_model.";

/// Whether a file is in this layout.
pub(crate) fn is_single_file(shapes: &Shapes) -> bool {
    shapes.contains_key(&format!("{UNET}input_blocks.0.0.weight"))
}

/// Names and shapes of a file's tensors, if the path is that of a file in this layout; nothing for any other.
pub(crate) fn shapes_of(path: &Path) -> Option<Shapes> {
    let shapes = path.is_file().then(|| checkpoint::shapes_of(path))?;
    shapes.ok().filter(is_single_file)
}

/// The tensors below a prefix, without it.
pub(crate) fn below(shapes: &Shapes, prefix: &str) -> Shapes {
    let inside = shapes.iter().filter_map(|(name, shape)| {
        let name = name.strip_prefix(prefix)?;
        Some((name.to_owned(), shape.clone()))
    });
    inside.collect()
}

/// The configuration of the UNet in a file.
///
/// # Errors
/// A UNet of no layout that is known.
pub(crate) fn unet_config(shapes: &Shapes) -> Result<UnetConfig, Error> {
    let config = unet::config(&below(shapes, UNET))?;
    config.check()?;
    Ok(config)
}

/// Where the parameters of the UNet lie.
///
/// # Errors
/// A configuration that makes no network.
pub(crate) fn unet_catalog(shapes: &Shapes, config: &UnetConfig) -> Result<Catalog, Error> {
    let outline = outline(config)?;
    let names = UnetNames::of(&outline.layers).unwrap_or_default();
    Ok(catalog(shapes, UNET, &outline.shapes, &|name| {
        names.original(name)
    }))
}

/// Where parameters lie whose original names `original` gives. Tensors below the prefix that nothing asks for keep their own names, to be reported as unexpected.
pub(crate) fn catalog(
    shapes: &Shapes,
    prefix: &str,
    expected: &[(String, Vec<usize>)],
    original: &dyn Fn(&str) -> Option<String>,
) -> Catalog {
    let mut catalog = Catalog::new();
    let mut used = BTreeSet::new();
    for (name, shape) in expected {
        let Some(stored) = original(name).map(|name| format!("{prefix}{name}")) else {
            continue;
        };
        let Some(found) = shapes.get(&stored) else {
            continue;
        };
        // A 1x1 convolution may stand for a linear layer.
        let same = trimmed(found) == trimmed(shape);
        let shape = if same { shape } else { found };
        used.insert(stored.clone());
        catalog.insert(name.clone(), Part::whole(stored, shape.clone()));
    }
    for (stored, shape) in shapes.range(prefix.to_owned()..) {
        if !stored.starts_with(prefix) {
            break;
        }
        if !used.contains(stored) {
            let part = Part::whole(stored.clone(), shape.clone());
            catalog.insert(stored.clone(), part);
        }
    }
    catalog
}

/// A shape without the ones at its end.
fn trimmed(shape: &[usize]) -> &[usize] {
    let end = shape.iter().rposition(|&side| side != 1);
    &shape[..end.map_or(0, |last| last + 1)]
}

/// A text encoder in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextLayout {
    /// The names of transformers.
    Transformers,
    /// The names of OpenCLIP.
    OpenClip,
}

/// The text encoders of a file, in the order of the pipeline: how their names begin and in which layout they are.
pub(crate) fn text_encoders(shapes: &Shapes) -> Vec<(&'static str, TextLayout)> {
    const KNOWN: [(&str, TextLayout, &str); 4] = [
        (
            "cond_stage_model.transformer.",
            TextLayout::Transformers,
            "text_model.final_layer_norm.weight",
        ),
        (
            "cond_stage_model.model.",
            TextLayout::OpenClip,
            "ln_final.weight",
        ),
        (
            "conditioner.embedders.0.transformer.",
            TextLayout::Transformers,
            "text_model.final_layer_norm.weight",
        ),
        (
            "conditioner.embedders.1.model.",
            TextLayout::OpenClip,
            "ln_final.weight",
        ),
    ];
    let there = KNOWN
        .iter()
        .filter(|(prefix, _, sign)| shapes.contains_key(&format!("{prefix}{sign}")));
    there
        .map(|(prefix, layout, _)| (*prefix, *layout))
        .collect()
}

/// Where the parameters of a text encoder lie, by transformers' names.
pub(crate) fn text_catalog(shapes: &Shapes, prefix: &str, layout: TextLayout) -> Catalog {
    let inside = below(shapes, prefix);
    if layout == TextLayout::Transformers {
        let part = |(name, shape): (String, Vec<usize>)| {
            let part = Part::whole(format!("{prefix}{name}"), shape);
            (name, part)
        };
        return inside.into_iter().map(part).collect();
    }
    let mut catalog = Catalog::new();
    for name in text_names(&inside) {
        let Some(Stored {
            name: stored,
            third,
            transposed,
        }) = open_clip(&name)
        else {
            continue;
        };
        let Some(mut shape) = inside.get(&stored).cloned() else {
            continue;
        };
        if let (Some(_), Some(rows)) = (third, shape.first_mut()) {
            *rows /= 3;
        }
        if transposed {
            shape.reverse();
        }
        let part = Part {
            stored: format!("{prefix}{stored}"),
            third,
            transposed,
            shape,
        };
        catalog.insert(name, part);
    }
    catalog
}

/// transformers' names of all that an OpenCLIP text encoder has.
fn text_names(inside: &Shapes) -> Vec<String> {
    let mut names = vec![
        "text_model.embeddings.token_embedding.weight".to_owned(),
        "text_model.embeddings.position_embedding.weight".to_owned(),
        "text_projection.weight".to_owned(),
    ];
    let mut both = |path: String| {
        names.push(format!("{path}.weight"));
        names.push(format!("{path}.bias"));
    };
    both("text_model.final_layer_norm".to_owned());
    for layer in 0..count(inside, "transformer.resblocks.") {
        for part in [
            "self_attn.q_proj",
            "self_attn.k_proj",
            "self_attn.v_proj",
            "self_attn.out_proj",
            "layer_norm1",
            "layer_norm2",
            "mlp.fc1",
            "mlp.fc2",
        ] {
            both(format!("text_model.encoder.layers.{layer}.{part}"));
        }
    }
    names
}
