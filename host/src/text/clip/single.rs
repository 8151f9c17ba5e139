//! Text encoders in a file of a whole pipeline in the original layout, which states no configuration: shapes say most of it, and its kind the rest.

use std::path::Path;

use candle_core::{DType, Device};

use super::{Activation, ClipConfig, ClipText};
use crate::backbone::ModelFolder;
use crate::backbone::ldm::{self, Catalog, Shapes, TextLayout};
use crate::text::Error;

/// Width of each head of CLIP's attention, in every encoder of Stable Diffusion.
const HEAD: usize = 64;

/// An encoder in a file.
#[derive(Clone, Debug)]
pub(in crate::text) struct Within {
    /// How its names begin.
    prefix: &'static str,
    layout: TextLayout,
    pub(in crate::text) config: ClipConfig,
    /// Whether it is of Stable Diffusion XL.
    pub(in crate::text) xl: bool,
    /// Whether it is the second there.
    pub(in crate::text) second: bool,
}

/// The encoders in a file, in the order of the pipeline.
///
/// # Errors
/// An encoder that lacks what its shape is read from.
pub(in crate::text) fn encoders(file: &Path) -> Result<Vec<Within>, Error> {
    let shapes = ldm::shapes_of(file).unwrap_or_default();
    let found = ldm::text_encoders(&shapes).into_iter();
    found
        .map(|(prefix, layout)| {
            let xl = prefix.starts_with("conditioner.");
            let catalog = ldm::text_catalog(&shapes, prefix, layout);
            let config = config(&catalog, layout, xl).map_err(|missing| Error::Config {
                file: file.display().to_string(),
                reason: format!("its encoder below `{prefix}` has no `{missing}`"),
            })?;
            Ok(Within {
                prefix,
                layout,
                config,
                xl,
                second: xl && layout == TextLayout::OpenClip,
            })
        })
        .collect()
}

impl Within {
    /// Reads the encoder.
    ///
    /// # Errors
    /// Weights that do not fit.
    pub(in crate::text) fn open(
        &self,
        file: &Path,
        device: &Device,
        dtype: DType,
    ) -> Result<ClipText, Error> {
        let catalog = |shapes: &Shapes| {
            let mut catalog = ldm::text_catalog(shapes, self.prefix, self.layout);
            catalog.retain(|name, _| self.keeps(name));
            Ok(catalog)
        };
        let source = ModelFolder::within(file, device, dtype, &catalog)?;
        Ok(ClipText::load(self.config.clone(), &source)?)
    }

    /// Whether the encoder has a parameter of that name: not what the original code loads and does not use.
    fn keeps(&self, name: &str) -> bool {
        let block = name.strip_prefix(BLOCKS).and_then(|rest| {
            let (number, _) = rest.split_once('.')?;
            number.parse::<usize>().ok()
        });
        let is_used = block.is_none_or(|number| number < self.config.num_hidden_layers);
        let projects = self.config.says_projection() || name != "text_projection.weight";
        is_used && projects && super::full_name(name).is_some()
    }
}

const BLOCKS: &str = "text_model.encoder.layers.";

/// The configuration that shapes tell, or the name of the parameter that is missing.
fn config(catalog: &Catalog, layout: TextLayout, xl: bool) -> Result<ClipConfig, String> {
    let shape = |name: &str| match catalog.get(name).map(|part| part.shape.as_slice()) {
        Some(&[rows, columns]) => Ok((rows, columns)),
        _ => Err(name.to_owned()),
    };
    let (vocab_size, hidden_size) = shape("text_model.embeddings.token_embedding.weight")?;
    let (max_position_embeddings, _) = shape("text_model.embeddings.position_embedding.weight")?;
    let (intermediate_size, _) = shape(&format!("{BLOCKS}0.mlp.fc1.weight"))?;
    let has_block =
        |number: &usize| catalog.contains_key(&format!("{BLOCKS}{number}.mlp.fc1.weight"));
    let blocks = (0..).take_while(has_block).count();
    let is_open = layout == TextLayout::OpenClip;
    let projects = is_open && xl;
    let class = match projects {
        true => "CLIPTextModelWithProjection",
        false => "CLIPTextModel",
    };
    Ok(ClipConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        projection_dim: match projects {
            true => shape("text_projection.weight")?.0,
            false => hidden_size,
        },
        // Stable Diffusion 2 reads the states before the last block, after the final norm.
        num_hidden_layers: blocks - usize::from(is_open && !xl && blocks > 1),
        num_attention_heads: (hidden_size / HEAD).max(1),
        max_position_embeddings,
        hidden_act: match is_open {
            true => Activation::Gelu,
            false => Activation::QuickGelu,
        },
        // The token that ends a text is the last of the vocabulary, which 2 stands for.
        eos_token_id: 2,
        architectures: vec![class.to_owned()],
        ..ClipConfig::default()
    })
}
