//! Data that cannot be used, wholly or in part.

use integration_tests::Lab;

#[track_caller]
fn check(lab: &Lab, data: &str, parts: &[&str]) {
    lab.train(&format!("--data {data} --steps 2 --out run"))
        .refused(2, parts);
    assert!(!lab.path("run").exists());
}

#[test]
fn a_folder_that_is_not_there_or_holds_no_image_is_refused() {
    let lab = Lab::new();
    check(&lab, "nowhere", &["no data folder at", "nowhere"]);
    std::fs::create_dir(lab.path("empty")).unwrap();
    check(&lab, "empty", &["no images in", "empty", "png"]);
    lab.write("texts/a.txt", "no image");
    check(&lab, "texts", &["no images in", "1 other files seen"]);
    check(
        &lab,
        "scenes:solid",
        &["unknown scene domain `solid`", "did you mean `solids`?"],
    );
}

#[test]
fn more_classes_than_the_backbone_knows_are_refused() {
    let lab = Lab::new();
    for class in ["a", "b", "c", "d", "e"] {
        integration_tests::picture(&lab.path(&format!("many/{class}/0.png")), |_, _| [0; 3]);
    }
    check(
        &lab,
        "many",
        &["5 classes (a, b, c, d, e)", "backbone has only 4"],
    );
}

#[test]
fn a_size_that_does_not_fit_the_patches_is_refused() {
    let lab = Lab::new();
    lab.train("--set data.size=10 --steps 2 --out run")
        .refused(2, &["image size", "patch size 4", "10 pixels", "data.size"]);
    assert!(!lab.path("run").exists());
}

#[test]
fn a_mistake_in_a_table_is_refused_with_its_line_before_anything_is_written() {
    let lab = Lab::new();
    for name in ["a", "b", "edge"] {
        integration_tests::picture(&lab.path(&format!("table/{name}.png")), |_, _| [9; 3]);
    }
    let tall = image::RgbImage::new(8, 24);
    tall.save(lab.path("table/tall.png")).unwrap();
    let good = r#"{"file_name": "a.png", "source": "edge.png"}"#;
    for (second, problem) in [
        ("{", "line 2: this is no JSON object"),
        (
            r#"{"source": "edge.png"}"#,
            "line 2: there is no `file_name`",
        ),
        (
            r#"{"file_name": "c.png"}"#,
            "line 2: `file_name` names c.png, and there is no such file",
        ),
        (
            r#"{"file_name": "b.png"}"#,
            "line 2: there is no `source`, which line 1 has",
        ),
        (
            r#"{"file_name": "b.png", "source": "lost.png"}"#,
            "line 2: `source` names lost.png",
        ),
        (
            r#"{"file_name": "b.png", "source": "edge.png", "mask": "edge.png"}"#,
            "line 2: there is a picture `mask`, which line 1 does not have",
        ),
        (
            r#"{"file_name": "b.png", "source": "edge.png", "label": "x"}"#,
            "line 1: there is no `label`, which other lines have",
        ),
        (
            r#"{"file_name": "b.png", "source_file_name": 3}"#,
            "line 2: `source_file_name` is 3, not the path of a picture",
        ),
        (
            r#"{"file_name": "b.png", "images": "edge.png"}"#,
            "line 2: `images` cannot be the name of a column",
        ),
    ] {
        lab.write("table/metadata.jsonl", format!("{good}\n{second}\n"));
        check(&lab, "table", &["metadata.jsonl", problem]);
    }
    lab.write(
        "table/metadata.jsonl",
        r#"{"file_name": "a.png", "mask": "tall.png"}"#,
    );
    check(&lab, "table", &["line 1: `mask` is 8x24 and its image 8x8"]);
    lab.write("table/metadata.jsonl", "\n");
    check(&lab, "table", &["line 1: the file has no lines"]);
}

#[test]
fn columns_that_the_data_do_not_have_are_refused() {
    let lab = Lab::new();
    check(
        &lab,
        r#"pictures --set data.columns={source="edges"}"#,
        &["data.columns asks for source", "has no metadata.jsonl"],
    );
    check(
        &lab,
        r#"scenes:dusk --set data.columns={source="edge"}"#,
        &[
            "`source` from `edge`",
            "did you mean `edges`?",
            "domain:NAME",
        ],
    );
    check(
        &lab,
        r#"scenes:dusk --set data.columns={source="domain:solids"}"#,
        &["which show other things than those of dusk"],
    );
    check(
        &lab,
        r#"scenes:dusk --set data.columns={target="edges"}"#,
        &["`target` cannot be the name of a column"],
    );
    check(
        &lab,
        "scenes:dusk --set data.columns=edges",
        &["data.columns must be a table"],
    );
}

#[test]
fn images_none_of_which_can_be_read_are_refused() {
    let lab = Lab::new();
    lab.write("torn/a.png", "no PNG");
    lab.write("torn/b.jpg", "no JPEG");
    check(
        &lab,
        "torn",
        &["none of the 2 items", "can be read", "a.png"],
    );
}

#[test]
fn an_image_that_cannot_be_read_is_skipped_named_and_counted() {
    let lab = Lab::new();
    lab.write("pictures/blobs/torn.png", "no PNG");
    let whole = std::fs::read(lab.path("pictures/blobs/0.png")).unwrap();
    lab.write("pictures/stripes/cut.png", &whole[..whole.len() / 2]);
    let run = lab.train("--steps 6 --out run").done();
    for name in ["blobs/torn.png", "stripes/cut.png"] {
        let told = run
            .stderr
            .lines()
            .filter(|line| line.contains("skipped") && line.contains(name))
            .count();
        assert_eq!(told, 1, "{name} is told once\n{}", run.told());
    }
    assert_eq!(lab.metrics("run").len(), 6);
    let report: serde_json::Value =
        serde_json::from_slice(&std::fs::read(lab.path("run/report.json")).unwrap()).unwrap();
    let skipped = report["data"]["skipped"].as_array().unwrap();
    assert_eq!(skipped.len(), 2, "{skipped:?}");
    let page = std::fs::read_to_string(lab.path("run/report.html")).unwrap();
    assert!(page.contains("2 skipped") && page.contains("blobs/torn.png"));
}
