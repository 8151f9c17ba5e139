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
