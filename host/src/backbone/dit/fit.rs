//! Whether a configuration and a set of stored parameters are the same network.

use std::collections::HashSet;

use candle_core::Tensor;

use super::super::{Error, Source};
use super::config::DitConfig;
use super::layout::{Sharing, copies_of_shared, parameters};

/// The name under which some files store the fixed position embedding.
pub(crate) const POSITION_TABLE: &str = "pos_embed.pos_embed";

/// Checks that the source holds exactly the parameters of the configuration, and says whether the embedders can be shared.
///
/// Shapes come first: one wrong number in a `config.json` shows there as one clear mismatch.
pub(crate) fn fit(config: &DitConfig, source: &dyn Source) -> Result<Sharing, Error> {
    let compact = parameters(config, Sharing::Shared);
    let mut expected = parameters(config, Sharing::PerBlock);
    let copies: Vec<(String, Vec<String>)> = compact
        .iter()
        .map(|(name, _)| (name.clone(), copies_of_shared(name, config.num_layers)))
        .filter(|(_, copies)| !copies.is_empty())
        .collect();
    let stored_once = copies
        .iter()
        .flat_map(|(_, copies)| copies)
        .all(|copy| source.shape(copy).is_none());
    if stored_once {
        expected = compact;
    }
    let mut missing = Vec::new();
    for (name, expected) in &expected {
        match source.shape(name) {
            None => missing.push(name.clone()),
            Some(found) if found != *expected => {
                return Err(Error::Shape {
                    name: name.clone(),
                    expected: expected.clone(),
                    found,
                });
            }
            Some(_) => {}
        }
    }
    let known: HashSet<&str> = expected.iter().map(|(name, _)| name.as_str()).collect();
    let mut unexpected: Vec<String> = source
        .names()
        .into_iter()
        .filter(|name| !known.contains(name.as_str()) && name != POSITION_TABLE)
        .collect();
    unexpected.sort();
    if !missing.is_empty() || !unexpected.is_empty() {
        return Err(Error::Names {
            missing,
            unexpected,
        });
    }
    if stored_once {
        return Ok(Sharing::Shared);
    }
    for (name, copies) in &copies {
        for copy in copies {
            if !source.same(name, copy)? {
                return Ok(Sharing::PerBlock);
            }
        }
    }
    Ok(Sharing::Shared)
}

/// A stored position embedding must be the fixed one, because diffusers' format has no place for another.
pub(super) fn check_stored_positions(source: &dyn Source, positions: &Tensor) -> Result<(), Error> {
    /// Above the rounding of a table stored in bf16.
    const TOLERANCE: f32 = 0.01;
    let Some(found) = source.shape(POSITION_TABLE) else {
        return Ok(());
    };
    if found != positions.dims() {
        return Err(Error::Shape {
            name: POSITION_TABLE.to_owned(),
            expected: positions.dims().to_vec(),
            found,
        });
    }
    let stored = source.load(POSITION_TABLE)?.to_dtype(positions.dtype())?;
    let difference = (stored - positions)?.abs()?.max_all()?.to_scalar::<f32>()?;
    match difference <= TOLERANCE {
        true => Ok(()),
        false => Err(Error::PositionEmbedding { difference }),
    }
}
