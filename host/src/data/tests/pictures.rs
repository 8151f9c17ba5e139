//! Opening, class checks, exports, and the way between tensors and pictures.

use std::sync::atomic::{AtomicUsize, Ordering};

use candle_core::{Device, Tensor};

use super::*;

#[test]
fn open_reads_both_kinds_of_source() {
    let options = DataOptions {
        count: Some(7),
        ..DataOptions::default()
    };
    let scenes = open("scenes:neon", &options).unwrap();
    assert_eq!(
        (scenes.len(), scenes.size(), scenes.classes().len()),
        (7, 32, 6)
    );
    assert!(
        open("scenes:neo", &options)
            .err()
            .unwrap()
            .to_string()
            .contains("did you mean `neon`?")
    );
    assert!(matches!(
        open("/no/such/place", &options).err(),
        Some(Error::MissingFolder { .. })
    ));
}

#[test]
fn more_classes_than_the_backbone_has_are_refused_with_both_numbers() {
    let scenes = open("scenes:studio", &DataOptions::default()).unwrap();
    assert!(check_classes(&*scenes, 6).is_ok());
    assert!(check_classes(&*scenes, 1000).is_ok());
    let message = check_classes(&*scenes, 4).unwrap_err().to_string();
    assert!(
        message.contains("has 6 classes (sphere, box") && message.contains("only 4"),
        "{message}"
    );
}

#[test]
fn an_export_reads_back_as_the_scenes_it_came_from() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let options = ExportOptions {
        domain: "studio".to_owned(),
        out: out.clone(),
        count: 12,
        size: 24,
        seed: 3,
        maps: MapKind::ALL.to_vec(),
        columns: BTreeMap::new(),
    };
    let calls = AtomicUsize::new(0);
    let written = export(&options, &|_| {
        calls.fetch_add(1, Ordering::Relaxed);
    });
    assert_eq!(written.unwrap().images, 12);
    assert_eq!(calls.into_inner(), 12);
    let scenes = open(
        "scenes:studio",
        &DataOptions {
            size: 24,
            seed: 3,
            maps: MapKind::ALL.to_vec(),
            ..DataOptions::default()
        },
    )
    .unwrap();
    let folder = folder(&out, 24).unwrap();
    assert_eq!((folder.len(), folder.classes().len()), (12, 6));
    let metadata = std::fs::read_to_string(out.join("metadata.jsonl")).unwrap();
    for (index, line) in metadata.lines().enumerate() {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        let scene = scenes.get(index).unwrap();
        let name = line["file_name"].as_str().unwrap();
        assert_eq!(line["text"].as_str(), scene.caption.as_deref());
        let read = (0..12)
            .map(|i| folder.get(i).unwrap())
            .find(|item| item.name == name)
            .unwrap();
        assert_eq!(read.image, scene.image);
        let depth = image::open(out.join(line["depth_file_name"].as_str().unwrap()))
            .unwrap()
            .into_luma16();
        let exact = scene.maps[&MapKind::Depth].values[5 * 24 + 7];
        let exact = if exact < scenes::FAR { exact } else { 0.0 };
        assert!(
            (f32::from(depth.get_pixel(7, 5).0[0]) / 65535.0 * scenes::FAR - exact).abs() < 1e-3
        );
        let normals = image::open(out.join(line["normals_file_name"].as_str().unwrap()))
            .unwrap()
            .into_rgb8();
        let exact = scene.maps[&MapKind::Normals].values[24 * 24 + 20 * 24 + 12];
        assert!((f32::from(normals.get_pixel(12, 20).0[1]) / 127.5 - 1.0 - exact).abs() < 0.01);
    }
    let again = export(&options, &|_| {}).unwrap_err().to_string();
    assert!(again.contains("not empty"), "{again}");
}

#[test]
fn tensors_and_pictures_convert_both_ways() {
    let picture = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8 * 50, y as u8 * 100, 7]));
    let tensor = transform::from_rgb8(&picture, &Device::Cpu).unwrap();
    assert_eq!(tensor.dims(), [3, 3, 5]);
    assert_eq!(transform::to_rgb8(&tensor).unwrap(), picture);
    let beyond = Tensor::new(&[[[-3f32, 0.0, 9.0]]], &Device::Cpu).unwrap();
    assert_eq!(
        transform::to_rgb8(&beyond).unwrap().into_raw(),
        [0, 0, 0, 128, 128, 128, 255, 255, 255]
    );
    let wrong = Tensor::zeros((2, 4, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
    assert!(
        transform::to_rgb8(&wrong)
            .unwrap_err()
            .to_string()
            .contains("[2, 4, 4]")
    );
}

#[test]
fn a_grid_places_and_enlarges_its_images() {
    let images = Tensor::cat(
        &[
            &Tensor::full(1f32, (1, 3, 2, 2), &Device::Cpu).unwrap(),
            &Tensor::full(-1f32, (2, 3, 2, 2), &Device::Cpu).unwrap(),
        ],
        0,
    )
    .unwrap();
    let options = transform::GridOptions {
        columns: 2,
        padding: 1,
        scale: 3,
        background: [9, 9, 9],
    };
    let grid = transform::grid(&images, &options).unwrap();
    assert_eq!(grid.dimensions(), (15, 15));
    for (x, y, level) in [
        (0, 0, 9),
        (1, 1, 255),
        (6, 6, 255),
        (7, 3, 9),
        (8, 1, 0),
        (1, 8, 0),
        (8, 8, 9),
    ] {
        assert_eq!(grid.get_pixel(x, y).0, [level; 3], "{x} {y}");
    }
    let dir = tempfile::tempdir().unwrap();
    transform::save_grid(&images, &options, &dir.path().join("grid.png")).unwrap();
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    assert_eq!(
        image::open(dir.path().join("grid.png"))
            .unwrap()
            .into_rgb8(),
        grid
    );
    assert!(
        transform::grid(
            &Tensor::zeros((0, 3, 2, 2), candle_core::DType::F32, &Device::Cpu).unwrap(),
            &options
        )
        .is_err()
    );
}
