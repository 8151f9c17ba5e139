//! Which layers the settings mean, and with which rank and alpha.

use std::collections::BTreeMap;

use plugin_api::{LayerInfo, LayerKind, Result, bail};

use crate::pattern::{Pattern, near};
use crate::settings::{Kind, LoraSettings};

/// The projections of attention, in the names that the DiTs and UNets of diffusers share.
const ATTENTION: [&str; 4] = ["**.to_q", "**.to_k", "**.to_v", "**.to_out.0"];

/// The last layer of a feed-forward part, in the same names.
const FEEDFORWARD: &str = "**.ff.net.2";

/// What (IA)³ scales (section 3.3 of its paper): keys, values, and what is inside of feed-forward parts.
const SCALED: [&str; 3] = ["**.to_k", "**.to_v", FEEDFORWARD];

/// One layer that is adapted.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) layer: LayerInfo,
    pub(crate) rank: usize,
    pub(crate) alpha: f64,
    /// (IA)³: whether the layer's input is scaled instead of its output.
    pub(crate) feedforward: bool,
}

impl Target {
    /// The layer's path with the name of something that belongs to it.
    pub(crate) fn name(&self, part: &str) -> String {
        format!("{}.{part}", self.layer.path)
    }
}

/// The layers that the settings mean, in the backbone's order.
///
/// # Errors
/// A pattern that cannot be read or changes nothing, and a layer that cannot be adapted.
pub(crate) fn choose(settings: &LoraSettings, layers: &[LayerInfo]) -> Result<Vec<Target>> {
    let mut chosen = match &settings.targets {
        Some(targets) => named(targets, layers)?,
        None => usual(settings.kind, layers)?,
    };
    for text in &settings.exclude {
        let before = chosen.len();
        let pattern = Pattern::new("exclude", text)?;
        let left: Vec<_> = chosen
            .iter()
            .copied()
            .filter(|layer| !pattern.matches(&layer.path))
            .collect();
        if left.len() == before {
            bail!(
                "`exclude` has `{text}`, which matches none of the targets{}",
                near(text, chosen.into_iter())
            );
        }
        chosen = left;
    }
    if chosen.is_empty() {
        bail!("`exclude` leaves none of the targets");
    }
    if let Some(layer) = chosen.iter().find(|layer| layer.conv.get(3) > Some(&1)) {
        bail!(
            "`{}` is a convolution in {} groups, which this plugin does not adapt: add it to `exclude`",
            layer.path,
            layer.conv[3]
        );
    }
    let ranks = valued("rank_pattern", &settings.rank_pattern, &chosen)?;
    let alphas = valued("alpha_pattern", &settings.alpha_pattern, &chosen)?;
    let feedforward = feedforward(settings, &chosen)?;
    let places = chosen.into_iter().enumerate();
    Ok(places
        .map(|(place, layer)| {
            let rank = ranks[place].unwrap_or(settings.rank);
            let alpha = alphas[place].or(settings.alpha).unwrap_or(rank as f64);
            Target {
                layer: layer.clone(),
                rank,
                alpha,
                feedforward: feedforward[place],
            }
        })
        .collect())
}

/// The layers that any of the user's patterns matches.
fn named<'a>(targets: &[String], layers: &'a [LayerInfo]) -> Result<Vec<&'a LayerInfo>> {
    if targets.is_empty() {
        bail!(
            "`targets` is empty, so there is no layer to adapt: leave it out for the attention layers, or name some"
        );
    }
    let mut chosen = vec![false; layers.len()];
    for target in targets {
        let pattern = Pattern::new("targets", target)?;
        let (mut matched, mut other) = (0, None);
        for (layer, chosen) in layers.iter().zip(&mut chosen) {
            if !pattern.matches(&layer.path) {
                continue;
            }
            if adaptable(layer) {
                *chosen = true;
                matched += 1;
            } else {
                other = Some(&layer.path);
            }
        }
        match (matched, other) {
            (0, Some(path)) => bail!(
                "`targets` has `{target}`, which matches no linear layer and no convolution (`{path}` is of another kind, which this plugin does not adapt)"
            ),
            (0, None) => bail!(
                "`targets` has `{target}`, which matches none of the backbone's {} layers{}",
                layers.len(),
                near(target, layers.iter())
            ),
            (_, Some(path)) => {
                tracing::warn!(
                    "`{target}` also matches `{path}`, which is neither linear nor a convolution and stays as it is"
                );
            }
            (_, None) => {}
        }
    }
    let pairs = layers.iter().zip(chosen);
    Ok(pairs
        .filter_map(|(layer, chosen)| chosen.then_some(layer))
        .collect())
}

/// The layers that a kind adapts when the user names none.
fn usual(kind: Kind, layers: &[LayerInfo]) -> Result<Vec<&LayerInfo>> {
    let patterns: &[&str] = match kind {
        Kind::Ia3 => &SCALED,
        Kind::Lora | Kind::Loha | Kind::Lokr => &ATTENTION,
    };
    let patterns: Vec<Pattern> = patterns
        .iter()
        .map(|text| Pattern::new("targets", text))
        .collect::<Result<_>>()?;
    let linear = || {
        layers
            .iter()
            .filter(|layer| layer.kind == LayerKind::LINEAR)
    };
    let matched = |layer: &&LayerInfo| patterns.iter().any(|text| text.matches(&layer.path));
    let usual: Vec<_> = linear().filter(matched).collect();
    if !usual.is_empty() {
        return Ok(usual);
    }
    let all: Vec<_> = linear().collect();
    if all.is_empty() {
        bail!("the backbone has no linear layer: name the layers to adapt in `targets`");
    }
    tracing::info!(
        "the backbone has no layers named as those of attention are, so every linear layer is adapted"
    );
    Ok(all)
}

fn adaptable(layer: &LayerInfo) -> bool {
    matches!(layer.kind, LayerKind::LINEAR | LayerKind::CONV2D)
}

/// For each chosen layer the value that a table of patterns has for it.
fn valued<T: Copy + PartialEq>(
    setting: &str,
    table: &BTreeMap<String, T>,
    chosen: &[&LayerInfo],
) -> Result<Vec<Option<T>>> {
    let mut values = vec![None; chosen.len()];
    for (text, value) in table {
        let pattern = Pattern::new(setting, text)?;
        let mut matched = false;
        for (layer, known) in chosen.iter().zip(&mut values) {
            if !pattern.matches(&layer.path) {
                continue;
            }
            matched = true;
            // A table has no order that could decide.
            if known.is_some_and(|known| known != *value) {
                bail!(
                    "`{setting}` has two values for `{}`, one of them by `{text}`: let its entries match different layers",
                    layer.path
                );
            }
            *known = Some(*value);
        }
        if !matched {
            bail!(
                "`{setting}` has `{text}`, which matches none of the targets{}",
                near(text, chosen.iter().copied())
            );
        }
    }
    Ok(values)
}

/// For each chosen layer whether (IA)³ scales its input.
fn feedforward(settings: &LoraSettings, chosen: &[&LayerInfo]) -> Result<Vec<bool>> {
    let usual = vec![FEEDFORWARD.to_owned()];
    let texts = match (settings.kind, &settings.feedforward) {
        (Kind::Ia3, Some(texts)) => texts,
        (Kind::Ia3, None) => &usual,
        _ => return Ok(vec![false; chosen.len()]),
    };
    let mut scaled = vec![false; chosen.len()];
    for text in texts {
        let pattern = Pattern::new("feedforward", text)?;
        let matched: Vec<bool> = chosen
            .iter()
            .map(|layer| pattern.matches(&layer.path))
            .collect();
        if settings.feedforward.is_some() && !matched.contains(&true) {
            bail!(
                "`feedforward` has `{text}`, which matches none of the targets{}",
                near(text, chosen.iter().copied())
            );
        }
        for (scaled, matched) in scaled.iter_mut().zip(matched) {
            *scaled |= matched;
        }
    }
    Ok(scaled)
}

#[cfg(test)]
mod tests;
