//! Pictures beside the images: as a table names them, as scenes have them, and the same from both.

use std::sync::Arc;

use image::{GrayImage, Luma};

use super::super::scenes::Domain;
use super::*;

/// Pictures whose left half differs from the right, so that a mirror shows.
fn halves(left: u8, right: u8) -> RgbImage {
    RgbImage::from_fn(16, 16, |x, _| Rgb([if x < 8 { left } else { right }; 3]))
}

fn table(root: &Path, lines: &[&str]) {
    std::fs::create_dir_all(root).unwrap();
    std::fs::write(root.join("metadata.jsonl"), lines.join("\n")).unwrap();
}

fn options(size: usize, columns: &[(&str, &str)]) -> DataOptions {
    let owned = |(name, source): &(&str, &str)| ((*name).to_owned(), (*source).to_owned());
    DataOptions {
        size,
        columns: (!columns.is_empty()).then(|| columns.iter().map(owned).collect()),
        ..DataOptions::default()
    }
}

#[test]
fn a_table_gives_images_in_its_own_order_with_pictures_captions_and_labels() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["b", "a"] {
        write(&root.join(format!("images/{name}.png")), halves(0, 255));
        write(&root.join(format!("edges/{name}.png")), halves(255, 0));
    }
    write(
        &root.join("hole.png"),
        GrayImage::from_fn(32, 32, |x, _| Luma([if x < 16 { 255 } else { 51 }])),
    );
    table(
        root,
        &[
            r#"{"file_name": "images/b.png", "edges": "edges/b.png", "mask_file_name": "hole.png", "text": "see b.png", "label": "dog", "score": 3}"#,
            "",
            r#"{"file_name": "images/a.png", "edges": "edges/a.png", "mask_file_name": "hole.png", "text": "a", "label": "cat", "other": null}"#,
        ],
    );
    let folder = Folder::open(root, &options(8, &[])).unwrap();
    assert_eq!(folder.columns(), ["edges", "mask"]);
    assert_eq!(folder.classes(), ["cat", "dog"]);
    assert!(folder.describe().ends_with("each with edges, mask"));
    let item = folder.get(0).unwrap();
    assert_eq!((item.name.as_str(), item.class), ("images/b.png", Some(1)));
    assert_eq!(item.caption.as_deref(), Some("see b.png"));
    let (edges, mask) = (&item.columns["edges"], &item.columns["mask"]);
    assert_eq!(
        (edges.kind, edges.values.len()),
        (ColumnKind::Picture, 3 * 64)
    );
    assert_eq!(
        edges.values[..8],
        [1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0]
    );
    assert_eq!((mask.kind, mask.values.len()), (ColumnKind::Mask, 64));
    assert_eq!(mask.values[..8], [1.0, 1.0, 1.0, 1.0, 0.2, 0.2, 0.2, 0.2]);
    // The second time from memory, and the same.
    assert_eq!(folder.get(0).unwrap(), item);

    let batch = Loader::new(Arc::new(folder), LoaderState::default(), 0, 2, 1)
        .unwrap()
        .next_batch()
        .unwrap();
    assert_eq!(batch.tensors["edges"].dims(), [2, 3, 8, 8]);
    assert_eq!(batch.tensors["mask"].dims(), [2, 1, 8, 8]);
    assert!(batch.meta.contains_key("captions"));

    let chosen = Folder::open(root, &options(8, &[("source", "edges")])).unwrap();
    assert_eq!(chosen.columns(), ["source"]);
    let grey = Folder::open(root, &options(8, &[("mask", "edges")])).unwrap();
    assert_eq!(grey.get(0).unwrap().columns["mask"].kind, ColumnKind::Mask);
    assert_ne!(chosen.fingerprint(), grey.fingerprint());
}

#[test]
fn classes_of_a_table_are_its_labels_or_its_several_folders() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    for name in ["x/1.png", "y/2.png", "3.png"] {
        write(&root.join(name), halves(0, 255));
    }
    let line = |name: &str, label: &str| format!(r#"{{"file_name": "{name}"{label}}}"#);
    let check = |lines: [String; 2], classes: &[&str], labels: [Option<u32>; 2]| {
        table(root, &[&lines[0], &lines[1]]);
        let folder = Folder::open(root, &options(8, &[])).unwrap();
        assert_eq!(folder.classes(), classes);
        assert_eq!([0, 1].map(|at| folder.get(at).unwrap().class), labels);
    };
    let numbered = [
        line("x/1.png", r#", "label": 2"#),
        line("y/2.png", r#", "label": 0"#),
    ];
    check(numbered, &["y", "1", "x"], [Some(2), Some(0)]);
    let together = [
        line("x/1.png", r#", "label": 1"#),
        line("x/1.png", r#", "label": 0"#),
    ];
    check(together, &["0", "1"], [Some(1), Some(0)]);
    check(
        [line("x/1.png", ""), line("y/2.png", "")],
        &["x", "y"],
        [Some(0), Some(1)],
    );
    check(
        [line("x/1.png", ""), line("x/1.png", "")],
        &[],
        [None, None],
    );
    check([line("x/1.png", ""), line("3.png", "")], &[], [None, None]);
    for label in [r#", "label": 1"#, r#", "label": -1"#, r#", "label": [1]"#] {
        table(
            root,
            &[&line("3.png", r#", "label": "a""#), &line("3.png", label)],
        );
        let error = Folder::open(root, &options(8, &[]))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("line 2: a `label` is a name or a whole number"),
            "{error}"
        );
    }
}

#[test]
fn a_mirror_turns_columns_with_their_image_and_normals_round() {
    let columns = [
        ("source", "edges"),
        ("towards", "normals"),
        ("mask", "mask"),
    ];
    let plain = Scenes::new(Domain::parse("dusk").unwrap(), &options(16, &columns)).unwrap();
    let flipped = DataOptions {
        flip: true,
        count: Some(1),
        ..options(16, &columns)
    };
    let flipped = Scenes::new(Domain::parse("dusk").unwrap(), &flipped).unwrap();
    let item = plain.get(0).unwrap();
    let mut loader = Loader::new(Arc::new(flipped), LoaderState::default(), 0, 8, 1).unwrap();
    let batch = loader.next_batch().unwrap();
    let reversed = |values: &[f32]| -> Vec<f32> {
        let rows = values.chunks(16);
        rows.flat_map(|row| row.iter().rev().copied()).collect()
    };
    let image = batch.tensors["images"]
        .flatten_from(1)
        .unwrap()
        .to_vec2::<f32>()
        .unwrap();
    let mirrored: Vec<bool> = image
        .iter()
        .map(|image| *image == reversed(&item.image))
        .collect();
    assert!(mirrored.contains(&true) && mirrored.contains(&false));
    for (name, column) in &item.columns {
        let rows = batch.tensors[name]
            .flatten_from(1)
            .unwrap()
            .to_vec2::<f32>()
            .unwrap();
        for (row, &mirrored) in rows.iter().zip(&mirrored) {
            let mut expected = column.values.clone();
            if mirrored {
                expected = reversed(&expected);
                if name == "towards" {
                    expected[..256].iter_mut().for_each(|x| *x = -*x);
                }
            }
            assert_eq!(*row, expected, "{name}");
        }
    }
}

#[test]
fn scenes_and_their_export_have_the_same_columns_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let columns = [
        ("source", "edges"),
        ("filled", "fill"),
        ("depth", "depth"),
        ("normals", "normals"),
        ("far", "depth"),
        ("towards", "normals"),
        ("mask", "hole"),
        ("solid_mask", "mask"),
        ("before", "domain:studio"),
        ("reference_1", "reference_1"),
        ("reference_2", "reference_2"),
    ];
    let domain = Domain::parse("dusk").unwrap();
    let scenes = Scenes::new(domain, &options(16, &columns)).unwrap();
    let exported = ExportOptions {
        domain: "dusk".to_owned(),
        out: dir.path().join("out"),
        count: 6,
        size: 16,
        seed: 0,
        maps: Vec::new(),
        columns: options(16, &columns).columns.unwrap(),
    };
    export(&exported, &|_| {}).unwrap();
    let folder = Folder::open(&exported.out, &options(16, &[])).unwrap();
    assert_eq!(folder.classes(), scenes.classes());
    let mut names = folder.columns();
    names.sort();
    let mut own = scenes.columns();
    own.sort();
    assert_eq!(names, own);
    for index in 0..6 {
        let (scene, read) = (scenes.get(index).unwrap(), folder.get(index).unwrap());
        assert_eq!((&scene.image, scene.class), (&read.image, read.class));
        assert_eq!(scene.caption, read.caption);
        for (name, column) in &scene.columns {
            assert_eq!(
                column.values, read.columns[name].values,
                "{name} of {index}"
            );
            let least = column.values.iter().copied().fold(f32::INFINITY, f32::min);
            let most = column
                .values
                .iter()
                .copied()
                .fold(f32::NEG_INFINITY, f32::max);
            assert!(most > least, "{name} shows something");
        }
        let same = |a: &str, b: &str| scene.columns[a].values == scene.columns[b].values;
        assert!(!same("reference_1", "reference_2") && !same("before", "reference_1"));
    }
}

#[test]
fn a_nearest_crop_lies_where_the_images_crop_lies() {
    for (width, height) in [(40, 20), (20, 40), (16, 16), (33, 64)] {
        let shade = |x: u32, y: u32| u8::from(x > width / 3) * 150 + u8::from(y > height / 2) * 100;
        let mask = GrayImage::from_fn(width, height, |x, y| Luma([shade(x, y)]));
        let picture = RgbImage::from_fn(width, height, |x, y| Rgb([shade(x, y); 3]));
        let hard = crop::center_crop_nearest(&mask, Size::square(16));
        let soft = crop::center_crop(&picture, Size::square(16)).image;
        let far = hard
            .pixels()
            .zip(soft.pixels())
            .filter(|(hard, soft)| hard.0[0].abs_diff(soft.0[0]) > 90)
            .count();
        assert!(far <= 8, "{width}x{height}: {far} of 256 pixels differ");
        assert!(
            hard.pixels()
                .all(|pixel| [0, 100, 150, 250].contains(&pixel.0[0]))
        );
    }
}

#[test]
fn classes_are_found_by_name_in_another_datasets_numbers() {
    let names = |names: &[&str]| -> Vec<String> { names.iter().map(|&name| name.into()).collect() };
    let dir = tempfile::tempdir().unwrap();
    for name in ["box", "cone"] {
        write(&dir.path().join(name).join("1.png"), halves(0, 255));
    }
    let open = || -> Arc<dyn Dataset> { Arc::new(folder(dir.path(), 8).unwrap()) };
    let run = names(&["cone", "sphere", "box"]);
    let relabelled = relabelled(open(), &run).unwrap();
    assert_eq!(relabelled.classes(), run);
    assert_eq!(
        [0, 1].map(|at| relabelled.get(at).unwrap().class),
        [Some(2), Some(0)]
    );
    let error = super::relabelled(open(), &names(&["cones", "sphere"]))
        .err()
        .unwrap();
    assert!(error.to_string().contains("no class `box`"), "{error}");
    let unnamed = super::relabelled(open(), &[]).unwrap();
    assert_eq!(unnamed.get(1).unwrap().class, Some(1));
}
