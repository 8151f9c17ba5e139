//! Image folders: what is found, in which order, and what damaged files do.

use std::sync::Arc;

use image::{ImageBuffer, Luma, LumaA, Rgba};

use super::*;

#[test]
fn a_folder_of_classes_is_read_in_sorted_order_whatever_lies_beside() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(&root.join("pears/2.png"), plain([0, 255, 0]));
    write(&root.join("pears/1.JPG"), plain([0, 250, 0]));
    write(&root.join("apples/deep/er/3.webp"), plain([255, 0, 0]));
    write(&root.join("apples/9.bmp"), plain([250, 0, 0]));
    write(&root.join("apples/.hidden.png"), plain([0, 0, 0]));
    write(&root.join("_maps/depth/1.png"), plain([0, 0, 0]));
    write(&root.join("__MACOSX/1.png"), plain([0, 0, 0]));
    write(&root.join("loose.png"), plain([0, 0, 0]));
    std::fs::create_dir(root.join("empty")).unwrap();
    for junk in [
        ".DS_Store",
        "pears/Thumbs.db",
        "metadata.csv",
        "pears/2.txt",
    ] {
        std::fs::write(root.join(junk), "junk").unwrap();
    }
    let folder = folder(root, 16).unwrap();
    assert_eq!(folder.classes(), ["apples", "pears"]);
    let items: Vec<Item> = (0..folder.len()).map(|i| folder.get(i).unwrap()).collect();
    let names: Vec<_> = items
        .iter()
        .map(|item| (item.name.as_str(), item.class.unwrap()))
        .collect();
    assert_eq!(
        names,
        [
            ("apples/9.bmp", 0),
            ("apples/deep/er/3.webp", 0),
            ("pears/1.JPG", 1),
            ("pears/2.png", 1)
        ]
    );
    assert_eq!(
        items[3].image,
        [vec![-1.0; 256], vec![1.0; 256], vec![-1.0; 256]].concat()
    );
    assert!(
        folder.describe().starts_with("4 images (2 classes) in "),
        "{}",
        folder.describe()
    );
}

#[test]
fn a_flat_folder_has_no_classes_or_labels() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["b.png", "a.png", "c.png"] {
        write(&dir.path().join(name), plain([1, 2, 3]));
    }
    let folder = folder(dir.path(), 8).unwrap();
    assert!(folder.classes().is_empty());
    assert_eq!(
        (0..3)
            .map(|i| folder.get(i).unwrap().name)
            .collect::<Vec<_>>(),
        ["a.png", "b.png", "c.png"]
    );
    let batch = Loader::new(Arc::new(folder), LoaderState::default(), 0, 2, 1)
        .unwrap()
        .next_batch()
        .unwrap();
    assert_eq!(batch.tensors.keys().collect::<Vec<_>>(), ["images"]);
    assert_eq!(batch.tensors["images"].dims(), [2, 3, 8, 8]);
    assert!(!batch.meta.contains_key("captions"));
}

#[test]
fn every_kind_of_pixel_becomes_rgb_over_white() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    write(
        &at("1_rgba.png"),
        ImageBuffer::from_pixel(9, 9, Rgba([200u8, 0, 100, 128])),
    );
    write(
        &at("2_clear.png"),
        ImageBuffer::from_pixel(9, 9, Rgba([0u8, 0, 0, 0])),
    );
    write(
        &at("3_grey.png"),
        ImageBuffer::from_pixel(9, 9, Luma([51u8])),
    );
    write(
        &at("4_grey_alpha.png"),
        ImageBuffer::from_pixel(9, 9, LumaA([0u8, 51])),
    );
    write(
        &at("5_rgb16.png"),
        ImageBuffer::from_pixel(9, 9, Rgb([65535u16, 0, 257 * 60])),
    );
    write(
        &at("6_grey16.png"),
        ImageBuffer::from_pixel(9, 9, Luma([257u16 * 99])),
    );
    // A PNG under a wrong name.
    std::fs::copy(at("3_grey.png"), at("7.jpg")).unwrap();
    let folder = folder(dir.path(), 8).unwrap();
    let expected = [
        [227, 127, 177],
        [255; 3],
        [51; 3],
        [204; 3],
        [255, 0, 60],
        [99; 3],
        [51; 3],
    ];
    for (index, colour) in expected.into_iter().enumerate() {
        let item = folder.get(index).unwrap();
        for (channel, level) in colour.into_iter().enumerate() {
            let got = (item.image[channel * 64] + 1.0) * 127.5;
            assert!(
                (got - level as f32).abs() < 0.01,
                "{} {channel}: {got} {level}",
                item.name
            );
        }
    }
}

#[test]
fn damaged_files_are_named_and_the_rest_is_used() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..4 {
        write(
            &dir.path().join(format!("{index}.png")),
            plain([9 * index, 0, 0]),
        );
    }
    let whole = std::fs::read(dir.path().join("0.png")).unwrap();
    std::fs::write(dir.path().join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.path().join("empty.jpg"), "").unwrap();
    std::fs::write(dir.path().join("text.jpeg"), "this is no image").unwrap();
    let mut loader = Loader::new(
        Arc::new(folder(dir.path(), 8).unwrap()),
        LoaderState::default(),
        0,
        4,
        2,
    )
    .unwrap();
    for _ in 0..2 {
        let names: Vec<String> =
            serde_json::from_str(&loader.next_batch().unwrap().meta["names"]).unwrap();
        assert!(
            names.iter().all(|name| name.len() == "0.png".len()),
            "{names:?}"
        );
    }
    assert_eq!(
        loader.bad_items().map(|(name, _)| name).collect::<Vec<_>>(),
        ["cut.png", "empty.jpg", "text.jpeg"]
    );
    assert!(loader.bad_items().all(|(_, reason)| !reason.is_empty()));
}

#[test]
fn a_decoded_image_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a.png"), plain([40, 50, 60]));
    let folder = folder(dir.path(), 8).unwrap();
    let first = folder.get(0).unwrap();
    std::fs::remove_file(dir.path().join("a.png")).unwrap();
    assert_eq!(folder.get(0).unwrap(), first);
}

#[test]
fn missing_and_empty_folders_say_what_was_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let missing = folder(&dir.path().join("nowhere"), 8)
        .unwrap_err()
        .to_string();
    assert!(
        missing.contains("nowhere") && missing.contains("scenes:DOMAIN"),
        "{missing}"
    );
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    std::fs::write(dir.path().join("sub/readme.txt"), "hello").unwrap();
    let empty = folder(dir.path(), 8).unwrap_err().to_string();
    assert!(
        empty.contains("no images in") && empty.contains("1 other file") && empty.contains("png"),
        "{empty}"
    );
    let file = folder(&dir.path().join("sub/readme.txt"), 8)
        .unwrap_err()
        .to_string();
    assert!(file.contains("readme.txt"), "{file}");
}

#[test]
fn a_count_picks_a_seeded_part_of_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    for index in 0..20 {
        write(
            &dir.path().join(format!("{index:02}.png")),
            plain([index, 0, 0]),
        );
    }
    let pick = |seed, count| {
        let folder = Folder::open(
            dir.path(),
            &DataOptions {
                size: 8,
                seed,
                count: Some(count),
                ..DataOptions::default()
            },
        )?;
        Ok::<Vec<String>, Error>(
            (0..folder.len())
                .map(|i| folder.get(i).unwrap().name)
                .collect(),
        )
    };
    let first = pick(1, 5).unwrap();
    assert!(first.len() == 5 && first.is_sorted());
    assert_eq!(first, pick(1, 5).unwrap());
    assert_ne!(first, pick(2, 5).unwrap());
    assert!(
        pick(1, 21)
            .unwrap_err()
            .to_string()
            .contains("21 of 20 images")
    );
}

#[test]
fn a_fingerprint_notices_an_edited_image() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.png");
    write(&path, plain([1, 2, 3]));
    let print = || folder(dir.path(), 8).unwrap().fingerprint();
    let before = print();
    assert_eq!(before, print());
    write(&path, plain([1, 2, 4]));
    assert_ne!(before, print());
}

#[test]
fn captions_lie_beside_images_or_are_one_for_all_and_those_without_are_named() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png", "c.png"] {
        write(&dir.path().join(name), plain([1, 2, 3]));
    }
    std::fs::write(dir.path().join("b.txt"), " a red cone\n").unwrap();
    let open = |caption: Option<&str>| {
        let options = DataOptions {
            size: 8,
            caption: caption.map(str::to_owned),
            ..DataOptions::default()
        };
        Folder::open(dir.path(), &options).unwrap()
    };
    let captions = |folder: &Folder| -> Vec<Option<String>> {
        (0..3).map(|i| folder.get(i).unwrap().caption).collect()
    };
    let bare = open(None);
    assert_eq!(captions(&bare), [None, Some("a red cone".to_owned()), None]);
    let error = check_captions(&bare).unwrap_err().to_string();
    assert!(
        error.contains("2 of 3 images") && error.contains("a.png for one"),
        "{error}"
    );
    let filled = open(Some("a cone"));
    check_captions(&filled).unwrap();
    assert_eq!(
        captions(&filled),
        ["a cone", "a red cone", "a cone"].map(|text| Some(text.to_owned()))
    );
    assert_ne!(bare.fingerprint(), filled.fingerprint());
    std::fs::write(dir.path().join("b.txt"), "a blue cone").unwrap();
    assert_ne!(bare.fingerprint(), open(None).fingerprint());
}

#[test]
fn images_in_buckets_keep_about_their_shapes_and_say_where_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let picture = |width, height| {
        RgbImage::from_fn(width, height, |x, _| {
            Rgb([if x < width / 2 { 0 } else { 255 }; 3])
        })
    };
    write(&dir.path().join("square.png"), picture(64, 64));
    write(&dir.path().join("tall.png"), picture(40, 80));
    write(&dir.path().join("wide.png"), picture(100, 50));
    let open = |buckets| {
        let options = DataOptions {
            size: 32,
            buckets,
            ..DataOptions::default()
        };
        Folder::open(dir.path(), &options).unwrap()
    };
    let squares = open(None);
    assert!(squares.buckets().is_none());
    let wide = squares.get(2).unwrap();
    assert_eq!(wide.size, Size::square(32));
    assert_eq!(wide.origin.unwrap().to_string(), "50x100+0+16");

    let folder = open(Some(4));
    let sizes: Vec<Size> = (0..3).map(|i| folder.get(i).unwrap().size).collect();
    let size = |height, width| Size { height, width };
    assert_eq!(sizes, [size(32, 32), size(44, 20), size(20, 44)]);
    let wide = folder.get(2).unwrap();
    assert_eq!(wide.image.len(), 3 * 20 * 44);
    // Black on the left and white on the right, as the whole picture.
    assert_eq!((wide.image[0], wide.image[43]), (-1.0, 1.0));
    assert_eq!(wide.origin.unwrap().size, size(50, 100));
    let of = folder.buckets().unwrap();
    assert!(of[1] != of[0] && of[2] != of[0] && of[1] != of[2], "{of:?}");
    assert_ne!(folder.fingerprint(), squares.fingerprint());
}
