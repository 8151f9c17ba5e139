//! `derive(Settings)` and the validator behind it.

use std::{collections::BTreeMap, path::PathBuf};

use plugin_api::{Settings, settings::validate};
use serde_json::{Value, json};

/// Everything a setting can be.
#[derive(Settings, Debug, PartialEq)]
struct All {
    /// A "share".
    #[setting(default = 0.25, range = 0..=1)]
    share: f64,
    /// A rate.
    #[setting(default = 1e-4, above = 0)]
    rate: f32,
    /// A count.
    #[setting(default = 10, range = 1..100)]
    count: u32,
    /// A shift.
    #[setting(default = -3)]
    shift: i64,
    /// A flag.
    #[setting(default = true)]
    flag: bool,
    /// A name.
    #[setting(default = "linear", one_of = ["linear", "cosine"])]
    name: String,
    /// A folder.
    #[setting(default = "a/b")]
    folder: PathBuf,
    /// Perhaps a number.
    #[setting(range = 0..=9)]
    maybe: Option<u8>,
    /// Perhaps a number, given.
    #[setting(default = 0.5)]
    given: Option<f64>,
    /// Several.
    #[setting(default = [1, 2], range = 0..)]
    several: Vec<usize>,
    /// None to begin with.
    texts: Vec<String>,
    /// Values by name.
    #[setting(range = 1..=64)]
    ranks: BTreeMap<String, usize>,
    /// A choice.
    kind: Kind,
    /// Another choice.
    #[setting(default = Kind::MinSnr)]
    other: Kind,
    /// A table.
    inner: Inner,
}

/// A choice.
#[derive(Settings, Debug, PartialEq)]
enum Kind {
    /// The plain one.
    #[setting(default)]
    Plain,
    /// The clever one.
    MinSnr,
}

/// A table.
#[derive(Settings, Debug, PartialEq)]
struct Inner {
    /// Depth.
    #[setting(default = 2)]
    depth: u64,
}

/// A table with something required.
#[derive(Settings, Debug, PartialEq)]
struct Needy {
    /// Where to.
    target: String,
    /// A choice that must be made.
    #[setting(required)]
    kind: Kind,
}

fn defaults() -> All {
    All {
        share: 0.25,
        rate: 1e-4,
        count: 10,
        shift: -3,
        flag: true,
        name: "linear".into(),
        folder: "a/b".into(),
        maybe: None,
        given: Some(0.5),
        several: vec![1, 2],
        texts: vec![],
        ranks: BTreeMap::new(),
        kind: Kind::Plain,
        other: Kind::MinSnr,
        inner: Inner { depth: 2 },
    }
}

#[test]
fn defaults_are_the_same_from_rust_and_from_nothing() {
    assert_eq!(All::default(), defaults());
    assert_eq!(All::from_json("{}").unwrap(), defaults());
    assert_eq!(All::from_json("null").unwrap(), defaults());
}

#[test]
fn every_kind_of_value_is_read() {
    let all = All::from_json(
        r#"{ "share": 1, "rate": 2.5, "count": 3.0, "shift": 4, "flag": false, "name": "cosine", "folder": "c", "maybe": 5,
             "given": null, "several": [], "texts": ["x"], "ranks": { "a.*": 4, "name": 8 }, "kind": "min_snr", "other": "plain", "inner": { "depth": 9 } }"#,
    )
    .unwrap();
    let expected = All {
        share: 1.0,
        rate: 2.5,
        count: 3,
        shift: 4,
        flag: false,
        name: "cosine".into(),
        folder: "c".into(),
        maybe: Some(5),
        given: None,
        several: vec![],
        texts: vec!["x".into()],
        ranks: [("a.*".to_owned(), 4), ("name".to_owned(), 8)].into(),
        kind: Kind::MinSnr,
        other: Kind::Plain,
        inner: Inner { depth: 9 },
    };
    assert_eq!(all, expected);
}

#[test]
fn every_mistake_has_its_sentence() {
    for (text, sentence) in [
        (
            r#"{ "shaer": 1 }"#,
            "unknown setting `shaer`, did you mean `share`?",
        ),
        (
            r#"{ "inner": { "dept": 1 } }"#,
            "unknown setting `inner.dept`, did you mean `depth`?",
        ),
        (
            r#"{ "inner": { "zebra": 1 } }"#,
            "unknown setting `inner.zebra`; known: depth",
        ),
        (r#"{ "share": 3 }"#, "`share` must be in 0..=1, got 3"),
        (r#"{ "rate": 0 }"#, "`rate` must be above 0, got 0"),
        (r#"{ "count": 100 }"#, "`count` must be in 1..100, got 100"),
        (
            r#"{ "count": 1.5 }"#,
            "`count` must be a whole number, got 1.5",
        ),
        (
            r#"{ "count": "ten" }"#,
            "`count` must be a whole number, got \"ten\"",
        ),
        (r#"{ "flag": 1 }"#, "`flag` must be true or false, got 1"),
        (r#"{ "maybe": 10 }"#, "`maybe` must be in 0..=9, got 10"),
        (
            r#"{ "several": [1, -2] }"#,
            "`several[1]` must be at least 0, got -2",
        ),
        (r#"{ "several": 1 }"#, "`several` must be a list, got 1"),
        (
            r#"{ "ranks": { "a.*": 65 } }"#,
            "`ranks.\"a.*\"` must be in 1..=64, got 65",
        ),
        (
            r#"{ "ranks": [4] }"#,
            "`ranks` must be a table of names and values, got [4]",
        ),
        (
            r#"{ "name": "cosin" }"#,
            "`name` must be one of linear, cosine, got `cosin`, did you mean `cosine`?",
        ),
        (
            r#"{ "kind": "min-snr" }"#,
            "`kind` must be one of plain, min_snr, got `min-snr`, did you mean `min_snr`?",
        ),
        (
            r#"{ "inner": 1 }"#,
            "`inner` must be a table of settings, got 1",
        ),
        (r#"[]"#, "`settings` must be a table of settings, got []"),
        (
            r#"{ "share": -1, "flag": 0 }"#,
            "`flag` must be true or false, got 0; `share` must be in 0..=1, got -1",
        ),
    ] {
        assert_eq!(
            All::from_json(text).unwrap_err().to_string(),
            sentence,
            "{text}"
        );
    }
    assert!(
        All::from_json("{")
            .unwrap_err()
            .to_string()
            .starts_with("the settings are not JSON")
    );
}

#[test]
fn what_has_no_default_is_required() {
    let error = Needy::from_json("{}").unwrap_err();
    assert_eq!(
        error.to_string(),
        "setting `kind` is required (text); setting `target` is required (text)"
    );
    let needy = Needy::from_json(r#"{ "target": "x", "kind": "plain" }"#).unwrap();
    assert_eq!(
        needy,
        Needy {
            target: "x".into(),
            kind: Kind::Plain
        }
    );
}

#[test]
fn the_schema_alone_resolves_what_the_struct_would() {
    let schema: Value = serde_json::from_str(All::SCHEMA).unwrap();
    let resolved = validate(&schema, &json!({ "count": 7 })).unwrap();
    assert_eq!(resolved["count"], json!(7));
    assert_eq!(resolved["inner"], json!({ "depth": 2 }));
    assert_eq!(resolved["other"], json!("min_snr"));
    // What the host resolved and wrote to the run file is accepted as it is.
    assert_eq!(validate(&schema, &resolved).unwrap(), resolved);
    assert_eq!(
        schema["properties"]["share"]["description"],
        json!("A \"share\".")
    );
    assert_eq!(
        schema["properties"]["kind"]["enumDescriptions"],
        json!(["The plain one.", "The clever one."])
    );
    assert_eq!(schema["description"], json!("Everything a setting can be."));
}
