//! Which layers lists of patterns mean, and what is said about those that mean none.
#![allow(clippy::unwrap_used)]

use plugin_api::Settings;

use super::*;

fn layer(id: u32, path: &str, kind: LayerKind) -> LayerInfo {
    let conv = match kind {
        LayerKind::CONV2D => vec![2, 0, 1, 1],
        _ => Vec::new(),
    };
    LayerInfo {
        id,
        path: path.to_owned(),
        kind,
        in_features: 4,
        out_features: 4,
        weight_shape: vec![4, 4],
        bias: true,
        conv,
    }
}

fn layers() -> Vec<LayerInfo> {
    let mut paths = vec![
        ("pos_embed.proj".to_owned(), LayerKind::CONV2D),
        ("classes".to_owned(), LayerKind::EMBEDDING),
    ];
    for block in 0..2 {
        for end in ["attn1.to_q", "attn1.to_k", "attn1.to_out.0", "ff.net.2"] {
            let path = format!("transformer_blocks.{block}.{end}");
            paths.push((path, LayerKind::LINEAR));
        }
    }
    let numbered = (0..).zip(&paths);
    numbered
        .map(|(id, (path, kind))| layer(id, path, *kind))
        .collect()
}

fn chosen(settings: &str) -> Result<Vec<Target>> {
    choose(&LoraSettings::from_json(settings)?, &layers())
}

#[track_caller]
fn check(settings: &str, expected: &[u32]) {
    let ids: Vec<u32> = chosen(settings)
        .unwrap()
        .iter()
        .map(|target| target.layer.id)
        .collect();
    assert_eq!(ids, expected, "{settings}");
}

#[track_caller]
fn refused(settings: &str, parts: &[&str]) {
    let error = chosen(settings).unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "`{part}` is not in: {error}");
    }
}

#[test]
fn globs_and_expressions_join_in_the_backbones_order_each_layer_once() {
    check(
        r#"{ "targets": ["**.to_out.0", "**.to_q"] }"#,
        &[2, 4, 6, 8],
    );
    check(
        r#"{ "targets": ["transformer_blocks.1.**", "**.to_q"] }"#,
        &[2, 6, 7, 8, 9],
    );
    check(
        r#"{ "targets": ["transformer_blocks.*.attn1.*"] }"#,
        &[2, 3, 6, 7],
    );
    check(
        r#"{ "targets": ["transformer_blocks.[1-9].attn1.to_{q,v}"] }"#,
        &[6],
    );
    check(r#"{ "targets": ["re:.*\\.to_[qk]"] }"#, &[2, 3, 6, 7]);
    // The whole path, not a piece of it.
    refused(
        r#"{ "targets": ["re:to_q"] }"#,
        &["`re:to_q`", "matches none"],
    );
    // Convolutions are adapted, tables are left out, and told.
    check(r#"{ "targets": ["**"] }"#, &[0, 2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn what_is_excluded_is_left_out() {
    check(r#"{ "exclude": ["transformer_blocks.0.**"] }"#, &[6, 7, 8]);
    check(
        r#"{ "targets": ["**"], "exclude": ["re:.*attn1.*", "pos_embed.*"] }"#,
        &[5, 9],
    );
    refused(
        r#"{ "exclude": ["**.to_v"] }"#,
        &[
            "`exclude`",
            "`**.to_v`",
            "near: `transformer_blocks.0.attn1.to_",
        ],
    );
    refused(r#"{ "exclude": ["**"] }"#, &["leaves none"]);
}

#[test]
fn without_targets_attention_is_adapted_and_ia3_scales_feed_forward_inputs() {
    check("{}", &[2, 3, 4, 6, 7, 8]);
    check(r#"{ "kind": "ia3" }"#, &[3, 5, 7, 9]);
    let scaled = |settings: &str| -> Vec<bool> {
        let targets = chosen(settings).unwrap();
        targets.iter().map(|target| target.feedforward).collect()
    };
    assert_eq!(scaled(r#"{ "kind": "ia3" }"#), [false, true, false, true]);
    let other = r#"{ "kind": "ia3", "feedforward": ["transformer_blocks.0.attn1.to_k"] }"#;
    assert_eq!(scaled(other), [true, false, false, false]);
    refused(
        r#"{ "kind": "ia3", "feedforward": ["**.to_q"] }"#,
        &["`feedforward`", "none of the targets"],
    );
}

#[test]
fn a_backbone_with_other_names_has_its_linear_layers_adapted() {
    let layers = [
        layer(0, "stem", LayerKind::CONV2D),
        layer(1, "blocks.0.qkv", LayerKind::LINEAR),
        layer(2, "head", LayerKind::LINEAR),
    ];
    let targets = choose(&LoraSettings::default(), &layers).unwrap();
    let ids: Vec<u32> = targets.iter().map(|target| target.layer.id).collect();
    assert_eq!(ids, [1, 2]);
    let none = choose(&LoraSettings::default(), &layers[..1]).unwrap_err();
    assert!(none.to_string().contains("no linear layer"), "{none}");
}

#[test]
fn patterns_give_some_layers_another_rank_and_alpha() {
    let settings = r#"{ "rank": 8, "targets": ["**.to_q", "**.to_k"],
        "rank_pattern": { "**.to_q": 4, "transformer_blocks.1.attn1.to_k": 2 }, "alpha_pattern": { "re:.*1\\.attn1\\.to_q": 3 } }"#;
    let targets = chosen(settings).unwrap();
    let values: Vec<(usize, f64)> = targets
        .iter()
        .map(|target| (target.rank, target.alpha))
        .collect();
    // Without an alpha each layer has that of its own rank.
    assert_eq!(values, [(4, 4.0), (8, 8.0), (4, 3.0), (2, 2.0)]);
    refused(
        r#"{ "rank_pattern": { "**.to_q": 4, "transformer_blocks.0.**": 2 } }"#,
        &[
            "`rank_pattern`",
            "two values",
            "`transformer_blocks.0.attn1.to_q`",
        ],
    );
    refused(
        r#"{ "alpha_pattern": { "**.ff.net.2": 4 } }"#,
        &["`alpha_pattern`", "none of the targets"],
    );
}

#[test]
fn a_target_without_a_layer_is_an_error_that_names_near_paths() {
    refused(
        r#"{ "targets": ["**.to_q", "**.attn.to_q"] }"#,
        &["`**.attn.to_q`", "near: `transformer_blocks.0.attn1.to_q`"],
    );
    refused(
        r#"{ "targets": ["transformer_block.1.attn1.to_q"] }"#,
        &["near: `transformer_blocks.1.attn1.to_q`"],
    );
    refused(
        r#"{ "targets": ["re:.*\\.to_qq"] }"#,
        &["near: `transformer_blocks.0.attn1.to_q`"],
    );
    refused(
        r#"{ "targets": ["classes"] }"#,
        &["no linear layer and no convolution"],
    );
    refused(r#"{ "targets": ["a.[b"] }"#, &["no glob"]);
    refused(
        r#"{ "targets": ["re:a(b"] }"#,
        &["no regular expression", "unclosed group"],
    );
    refused(r#"{ "targets": [] }"#, &["empty"]);
}

#[test]
fn a_convolution_in_groups_is_refused() {
    let mut grouped = layer(0, "stem", LayerKind::CONV2D);
    grouped.conv[3] = 4;
    let settings = LoraSettings::from_json(r#"{ "targets": ["stem"] }"#).unwrap();
    let error = choose(&settings, &[grouped]).unwrap_err().to_string();
    assert!(
        error.contains("`stem`") && error.contains("4 groups"),
        "{error}"
    );
}
