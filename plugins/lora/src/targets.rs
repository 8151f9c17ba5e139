//! Which layers a list of globs means.

use globset::{GlobBuilder, GlobMatcher};
use plugin_api::{LayerInfo, LayerKind, Result, bail};

/// The linear layers that any of `targets` matches, in the backbone's order.
///
/// # Errors
/// No glob at all, one that cannot be read, and one that matches no linear layer: a target that does nothing is a mistake.
pub(crate) fn matched<'a>(
    targets: &[String],
    layers: &'a [LayerInfo],
) -> Result<Vec<&'a LayerInfo>> {
    if targets.is_empty() {
        bail!(
            "`targets` is empty, so there is no layer to adapt: leave it out for the attention layers, or name some"
        );
    }
    let mut chosen = vec![false; layers.len()];
    for target in targets {
        let matcher = matcher(target)?;
        let (mut linear, mut other) = (0, None);
        for (layer, chosen) in layers.iter().zip(&mut chosen) {
            if !matcher.is_match(slashed(&layer.path)) {
                continue;
            }
            if layer.kind == LayerKind::LINEAR {
                *chosen = true;
                linear += 1;
            } else {
                other = Some(&layer.path);
            }
        }
        match (linear, other) {
            (0, Some(path)) => bail!(
                "`targets` has `{target}`, which matches no linear layer (`{path}` is of another kind, which this plugin does not adapt)"
            ),
            (0, None) => bail!(
                "`targets` has `{target}`, which matches none of the backbone's {} layers{}",
                layers.len(),
                near(target, layers)
            ),
            (_, Some(path)) => {
                tracing::warn!(
                    "`{target}` also matches `{path}`, which is no linear layer and stays as it is"
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

/// Dotted paths as file paths, the form in which globs tell `*` from `**`.
fn slashed(path: &str) -> String {
    path.replace('.', "/")
}

fn matcher(target: &str) -> Result<GlobMatcher> {
    match GlobBuilder::new(&slashed(target))
        .literal_separator(true)
        .build()
    {
        Ok(glob) => Ok(glob.compile_matcher()),
        Err(error) => bail!(
            "`targets` has `{target}`, which is no glob: {}",
            error.kind()
        ),
    }
}

/// The paths most like a glob that matched none, for the end of a sentence.
fn near(target: &str, layers: &[LayerInfo]) -> String {
    const SHOWN: usize = 3;
    // A glob that begins with `**.` is about the ends of paths, so it is compared with these.
    let (wanted, whole) = match target.strip_prefix("**.") {
        Some(rest) => (rest, false),
        None => (target, true),
    };
    let parts = wanted.split('.').count();
    let compared = |path: &str| -> String {
        let all: Vec<&str> = path.split('.').collect();
        match whole {
            true => path.to_owned(),
            false => all[all.len().saturating_sub(parts)..].join("."),
        }
    };
    let mut likely: Vec<(f64, String, &str)> = Vec::new();
    for layer in layers
        .iter()
        .filter(|layer| layer.kind == LayerKind::LINEAR)
    {
        let end = compared(&layer.path);
        // Each end once: the same layer of every block says nothing more.
        if likely.iter().all(|(_, known, _)| *known != end) {
            likely.push((strsim::jaro_winkler(wanted, &end), end, &layer.path));
        }
    }
    likely.sort_by(|a, b| b.0.total_cmp(&a.0));
    let paths: Vec<String> = likely
        .iter()
        .take(SHOWN)
        .map(|(_, _, path)| format!("`{path}`"))
        .collect();
    match paths.is_empty() {
        true => String::new(),
        false => format!("; near: {}", paths.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(id: u32, path: &str, kind: LayerKind) -> LayerInfo {
        LayerInfo {
            id,
            path: path.to_owned(),
            kind,
            in_features: 4,
            out_features: 4,
            weight_shape: vec![4, 4],
            bias: true,
            conv: Vec::new(),
        }
    }

    fn layers() -> Vec<LayerInfo> {
        let mut paths = vec![("pos_embed.proj".to_owned(), LayerKind::CONV2D)];
        for block in 0..2 {
            for end in ["attn1.to_q", "attn1.to_out.0", "ff.net.0.proj"] {
                paths.push((
                    format!("transformer_blocks.{block}.{end}"),
                    LayerKind::LINEAR,
                ));
            }
        }
        let numbered = (0..).zip(&paths);
        numbered
            .map(|(id, (path, kind))| layer(id, path, *kind))
            .collect()
    }

    fn ids(targets: &[&str]) -> Result<Vec<u32>> {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_owned()).collect();
        let layers = layers();
        Ok(matched(&targets, &layers)?
            .iter()
            .map(|layer| layer.id)
            .collect())
    }

    #[test]
    fn globs_join_in_the_backbones_order_each_layer_once() {
        let check = |targets: &[&str], expected: &[u32]| {
            assert_eq!(ids(targets).expect("matches"), expected);
        };
        check(&["**.to_out.0", "**.to_q"], &[1, 2, 4, 5]);
        check(&["transformer_blocks.1.**", "**.to_q"], &[1, 4, 5, 6]);
        check(&["transformer_blocks.*.attn1.*"], &[1, 4]);
        check(&["transformer_blocks.[1-9].attn1.to_{q,k}"], &[4]);
        // The convolution is left out, and told.
        check(&["**"], &[1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_target_without_a_linear_layer_is_an_error_that_names_near_paths() {
        let error = |targets: &[&str]| ids(targets).expect_err("no match").to_string();
        let typo = error(&["**.to_q", "**.attn.to_q"]);
        assert!(
            typo.contains("`**.attn.to_q`")
                && typo.contains("near: `transformer_blocks.0.attn1.to_q`"),
            "{typo}"
        );
        let typo = error(&["transformer_block.1.attn1.to_q"]);
        assert!(
            typo.contains("near: `transformer_blocks.1.attn1.to_q`"),
            "{typo}"
        );
        assert!(error(&["pos_embed.*"]).contains("no linear layer"));
        assert!(error(&["a.[b"]).contains("no glob"));
        assert!(error(&[]).contains("empty"));
    }
}
