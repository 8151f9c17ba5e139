//! Depth and normals beside the images: read without loss, and refused early where they hold nothing.

use image::{GrayImage, ImageBuffer, Luma};

use super::super::scenes::{Domain, FAR};
use super::*;

/// Levels of 16 bits, each its own.
fn levels(side: u32) -> ImageBuffer<Luma<u16>, Vec<u16>> {
    ImageBuffer::from_fn(side, side, |x, y| Luma([(257 * (x + side * y) + 3) as u16]))
}

/// A folder with one picture of 16 by 16, and beside it `column` of these pixels.
fn beside(column: &str, picture: impl Into<DynamicImage>) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write(
        &dir.path().join("a.png"),
        RgbImage::from_pixel(16, 16, Rgb([9; 3])),
    );
    write(&dir.path().join("beside.png"), picture);
    let line = format!("{{\"file_name\": \"a.png\", \"{column}\": \"beside.png\"}}");
    std::fs::write(dir.path().join("metadata.jsonl"), line).unwrap();
    dir
}

fn towards(x: f32, y: f32, z: f32) -> Rgb<u8> {
    Rgb([x, y, z].map(|part| ((part + 1.0) * 127.5).round() as u8))
}

#[test]
fn depth_keeps_all_of_its_16_bits_and_is_never_blended() {
    let dir = beside("depth", levels(16));
    let item = folder(dir.path(), 16).unwrap().get(0).unwrap();
    let depth = &item.columns["depth"];
    assert_eq!(depth.kind, ColumnKind::Depth);
    let expected: Vec<f32> = (levels(16).iter())
        .map(|&level| f32::from(level) / 65535.0)
        .collect();
    assert_eq!(depth.values, expected);
    let half = folder(dir.path(), 8).unwrap().get(0).unwrap();
    let known = |value: &f32| expected.contains(value);
    assert_eq!(half.columns["depth"].values.len(), 64);
    assert!(half.columns["depth"].values.iter().all(known));
}

#[test]
fn normals_are_vectors_and_grey_and_black_are_unknown() {
    let picture = RgbImage::from_fn(16, 16, |x, _| match x {
        0 => Rgb([0; 3]),
        1 => Rgb([128; 3]),
        2 => Rgb([127; 3]),
        _ => towards(0.6, 0.0, 0.8),
    });
    let dir = beside("normals", picture);
    let item = folder(dir.path(), 16).unwrap().get(0).unwrap();
    let values = &item.columns["normals"].values;
    let at = |x: usize| [0, 1, 2].map(|part| values[256 * part + 16 * 5 + x]);
    for x in 0..3 {
        assert_eq!(at(x), [0.0; 3]);
    }
    let [x, y, z] = at(7);
    assert!((x * x + y * y + z * z - 1.0).abs() < 0.02);
    assert!((x - 0.6).abs() < 0.01 && y.abs() < 0.01 && (z - 0.8).abs() < 0.01);
}

#[track_caller]
fn refused(dir: &tempfile::TempDir, parts: &[&str]) {
    let error = folder(dir.path(), 16).and_then(|folder| check_readable(&folder));
    let error = error.unwrap_err().to_string();
    for part in parts {
        assert!(error.contains(part), "{part:?} in {error:?}");
    }
}

#[test]
fn what_is_no_depth_is_refused_before_the_first_step() {
    refused(
        &beside("depth", levels(8)),
        &[
            "line 1",
            "`depth` is 8x8 and its image 16x16",
            "pixel for pixel",
        ],
    );
    refused(
        &beside("depth", GrayImage::from_pixel(16, 16, Luma([9]))),
        &["line 1", "beside.png", "8-bit grey", "16-bit grey"],
    );
    refused(
        &beside("depth", RgbImage::new(16, 16)),
        &["8-bit RGB", "another name"],
    );
    refused(
        &beside("depth", ImageBuffer::<Luma<u16>, _>::new(16, 16)),
        &["`depth` of a.png", "beside.png", "no pixel has a depth"],
    );
}

#[test]
fn what_are_no_normals_is_refused_before_the_first_step() {
    refused(
        &beside(
            "normals",
            RgbImage::from_pixel(16, 16, Rgb([255, 128, 255])),
        ),
        &["`normals` of a.png", "256 of its 256 normals", "1.41 long"],
    );
    refused(
        &beside("normals", RgbImage::from_pixel(16, 16, Rgb([128; 3]))),
        &["no pixel has a normal"],
    );
    refused(
        &beside("normals", RgbImage::from_pixel(8, 8, Rgb([128, 128, 255]))),
        &["`normals` is 8x8"],
    );
}

#[test]
fn a_few_smoothed_normals_at_edges_pass() {
    let mostly = |off: u32| {
        RgbImage::from_fn(16, 16, |x, y| match 16 * y + x < off {
            true => Rgb([128, 128, 160]),
            false => towards(0.0, 0.0, 1.0),
        })
    };
    let dir = beside("normals", mostly(12));
    check_readable(&folder(dir.path(), 16).unwrap()).unwrap();
    refused(&beside("normals", mostly(14)), &["14 of its 256 normals"]);
}

#[test]
fn the_depth_of_scenes_is_exact_and_the_sky_has_none() {
    let options = DataOptions {
        columns: Some(
            [("depth", "depth"), ("normals", "normals")]
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .into(),
        ),
        maps: vec![MapKind::Depth, MapKind::Normals],
        ..DataOptions::default()
    };
    let scenes = Scenes::new(Domain::parse("studio").unwrap(), &options).unwrap();
    let item = scenes.get(3).unwrap();
    let (exact, depth) = (
        &item.maps[&MapKind::Depth].values,
        &item.columns["depth"].values,
    );
    for (&exact, &depth) in exact.iter().zip(depth) {
        match exact < FAR {
            true => assert!((depth * FAR - exact).abs() < 2e-4, "{depth} for {exact}"),
            false => assert_eq!(depth, 0.0),
        }
    }
    let (exact, normals) = (
        &item.maps[&MapKind::Normals].values,
        &item.columns["normals"].values,
    );
    for (&exact, &normal) in exact.iter().zip(normals) {
        assert!((exact - normal).abs() < 0.01, "{normal} for {exact}");
    }
    let other = DataOptions {
        columns: Some([("depth".to_owned(), "edges".to_owned())].into()),
        ..DataOptions::default()
    };
    let error = Scenes::new(Domain::parse("studio").unwrap(), &other).unwrap_err();
    assert!(error.to_string().contains("measured depth"), "{error}");
}
