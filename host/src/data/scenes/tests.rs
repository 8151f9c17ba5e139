//! Scenes are the same for the same seed, share their geometry across styles, and their maps agree with the geometry.
#![allow(clippy::unwrap_used)]

use super::render::Camera;
use super::solid::{Shape, Solid};
use super::vector::vec3;
use super::*;

fn scenes(domain: &str, seed: u64) -> Scenes {
    let options = DataOptions {
        seed,
        maps: MapKind::ALL.to_vec(),
        ..DataOptions::default()
    };
    Scenes::new(Domain::parse(domain).unwrap(), &options).unwrap()
}

#[test]
fn the_same_seed_gives_the_same_scene_and_another_seed_another() {
    for (name, ..) in DOMAINS {
        let first = scenes(name, 3).get(11).unwrap();
        assert_eq!(first, scenes(name, 3).get(11).unwrap(), "{name}");
        assert_ne!(
            first.image,
            scenes(name, 4).get(11).unwrap().image,
            "{name}"
        );
        assert_ne!(
            first.image,
            scenes(name, 3).get(17).unwrap().image,
            "{name}"
        );
    }
}

#[test]
fn styles_share_geometry_and_differ_in_looks() {
    let source = scenes("studio", 5);
    for style in ["dusk", "neon", "sketch", "poster", "checker", "fog"] {
        for index in 0..6 {
            let (a, b) = (
                source.get(index).unwrap(),
                scenes(style, 5).get(index).unwrap(),
            );
            for kind in [
                MapKind::Depth,
                MapKind::Normals,
                MapKind::Mask,
                MapKind::Edges,
                MapKind::Segmentation,
            ] {
                assert_eq!(a.maps[&kind], b.maps[&kind], "{style} {index} {kind:?}");
            }
            assert_ne!(a.image, b.image, "{style}");
            assert_eq!(a.class, b.class);
        }
    }
}

#[test]
fn maps_keep_to_their_ranges() {
    for domain in ["studio", "solids", "pairs"] {
        for index in 0..12 {
            let item = scenes(domain, 1).get(index).unwrap();
            assert!(item.image.iter().all(|v| (-1.0..=1.0).contains(v)));
            let plane = 32 * 32;
            let map = |kind| &item.maps[&kind].values;
            for pixel in 0..plane {
                let region = map(MapKind::Segmentation)[pixel];
                let normal = vec3(
                    map(MapKind::Normals)[pixel],
                    map(MapKind::Normals)[plane + pixel],
                    map(MapKind::Normals)[2 * plane + pixel],
                );
                let depth = map(MapKind::Depth)[pixel];
                if region == 0.0 {
                    assert_eq!((normal.length(), depth), (0.0, FAR));
                } else {
                    assert!(
                        (normal.length() - 1.0).abs() < 1e-4,
                        "{domain} {index}: {normal:?}"
                    );
                    assert!(depth > 2.0 && depth < FAR, "{depth}");
                }
                assert_eq!(
                    map(MapKind::Mask)[pixel],
                    f32::from(u8::from(region >= 2.0))
                );
                assert!((0.0..=1.0).contains(&map(MapKind::Edges)[pixel]));
            }
            let covered: f32 = map(MapKind::Mask).iter().sum::<f32>() / plane as f32;
            assert!(
                (0.02..0.5).contains(&covered),
                "{domain} {index} covers {covered}"
            );
            for kind in MapKind::ALL {
                assert_eq!(
                    item.maps[&kind].values.len(),
                    kind.channels() * plane,
                    "{kind:?}"
                );
            }
        }
    }
}

#[test]
fn a_spheres_depth_and_normals_are_the_analytic_ones() {
    let mut scene = layout::draw(Content::Source, 0, 0);
    let sphere = Solid::standing(
        Shape::Sphere,
        vec3(0.7, 0.7, 0.7),
        vec3(0.2, 0.0, -0.3),
        0.4,
    );
    scene.solids = vec![sphere];
    let camera = Camera::new();
    let samples = render::march(&scene, &camera, vec3(0.0, 1.0, 0.0), 32);
    let eye = vec3(0.0, 3.05, 5.15);
    let forward = (vec3(0.0, 0.6, 0.0) - eye).normalized();
    let mut seen = 0;
    for sample in samples.all.iter().filter(|sample| sample.region == SOLID) {
        let to = eye - sphere.centre;
        let (b, c) = (to.dot(sample.ray), to.dot(to) - 0.49);
        // At the very rim a ray may pass within the marching tolerance of the sphere without meeting it.
        let discriminant = b * b - c;
        if discriminant < 0.01 {
            continue;
        }
        let distance = -b - discriminant.sqrt();
        let expected = (eye + sample.ray * distance - sphere.centre) * (1.0 / 0.7);
        assert!(
            (sample.depth - distance * sample.ray.dot(forward)).abs() < 2e-3,
            "{} {distance}",
            sample.depth
        );
        assert!(
            (sample.normal - expected).length() < 0.02,
            "{:?} {expected:?}",
            sample.normal
        );
        seen += 1;
    }
    assert!(seen > 500, "{seen} samples");
}

#[test]
fn distances_never_exceed_the_true_ones() {
    // A lower bound has a slope of at most 1 everywhere: else marching could step through a surface.
    let shapes = [
        Shape::Sphere,
        Shape::Box,
        Shape::Cylinder,
        Shape::Cone,
        Shape::Torus,
        Shape::Pyramid,
        Shape::Capsule,
        Shape::Star,
        Shape::Arch,
        Shape::Dome,
        Shape::Cross,
    ];
    let mut stream = crate::random::Stream::new(0, "slopes");
    for shape in shapes {
        let half = match shape {
            Shape::Torus => vec3(0.9, 0.25, 0.9),
            Shape::Capsule => vec3(0.9, 0.35, 0.35),
            Shape::Dome => vec3(0.8, 0.4, 0.8),
            Shape::Sphere | Shape::Star => vec3(0.8, 0.8, 0.3),
            _ => vec3(0.7, 0.8, 0.3),
        };
        let solid = Solid::standing(shape, half, vec3(0.1, 0.0, 0.2), 1.0);
        for _ in 0..4000 {
            let draw: Vec<f32> = stream.uniforms(6).iter().map(|u| u * 4.0 - 2.0).collect();
            let (a, b) = (
                vec3(draw[0], draw[1], draw[2]),
                vec3(draw[3], draw[4], draw[5]),
            );
            let slope = (solid.distance(a) - solid.distance(b)).abs() / (a - b).length().max(1e-3);
            assert!(slope < 1.001, "{shape:?}: {slope}");
            let outside = (a - solid.centre).length() - solid.bound;
            if outside > 0.0 {
                assert!(
                    solid.distance(a) > 0.0,
                    "{shape:?} reaches beyond its bound"
                );
            }
        }
    }
}

#[test]
fn classes_take_turns_and_captions_name_them() {
    for domain in ["studio", "solids"] {
        let scenes = scenes(domain, 9);
        assert_eq!(scenes.classes().len(), 6);
        for index in 0..12 {
            let item = scenes.get(index).unwrap();
            let class = item.class.unwrap() as usize;
            assert_eq!(class, index % 6);
            let word = match scenes.classes()[class].as_str() {
                "stack" => "stacked",
                name => name,
            };
            let caption = item.caption.unwrap();
            assert!(
                caption.contains(word) && caption.ends_with(" floor"),
                "{caption}"
            );
        }
    }
    let sketch = scenes("sketch", 9).get(3).unwrap().caption.unwrap();
    assert!(
        sketch.starts_with("a pencil sketch of a") && sketch.contains("cone"),
        "{sketch}"
    );
}

#[test]
fn larger_pictures_show_the_same_scene() {
    let at = |size| {
        let options = DataOptions {
            size,
            ..DataOptions::default()
        };
        Scenes::new(Domain::parse("studio").unwrap(), &options)
            .unwrap()
            .get(4)
            .unwrap()
            .image
    };
    let (small, large) = (at(16), at(48));
    for channel in 0..3 {
        for (y, x) in (0..16).flat_map(|y| (0..16).map(move |x| (y, x))) {
            // Averaged in linear light, as the renderer does.
            let linear = |v: f32| ((v + 1.0) / 2.0).powi(2);
            let block = (0..9)
                .map(|i| linear(large[channel * 48 * 48 + (y * 3 + i / 3) * 48 + x * 3 + i % 3]))
                .sum::<f32>()
                / 9.0;
            let got = linear(small[channel * 256 + y * 16 + x]);
            assert!(
                (got - block).abs() < 0.2,
                "{channel} {y} {x}: {got} {block}"
            );
        }
    }
}

#[test]
fn domains_parse_by_name_and_suggest() {
    for (name, domain, _) in DOMAINS {
        assert_eq!(Domain::parse(name).unwrap(), domain);
        assert_eq!(domain.name(), name);
    }
    assert_eq!(Domain::parse("source").unwrap().name(), "studio");
    let joined = Domain::parse("solids+neon").unwrap();
    assert_eq!(Domain::parse("neon+solids").unwrap(), joined);
    assert_eq!(joined.name(), "solids+neon");
    let message = Domain::parse("skech").unwrap_err().to_string();
    assert!(
        message.contains("did you mean `sketch`?") && message.contains("poster"),
        "{message}"
    );
    assert!(Domain::parse("neon+sketch").is_err());
    assert!(Domain::parse("solids+pairs").is_err());
}

#[test]
fn impossible_options_are_refused() {
    let open = |count, size| {
        Scenes::new(
            DOMAINS[0].1,
            &DataOptions {
                count,
                size,
                ..DataOptions::default()
            },
        )
    };
    assert!(
        open(Some(0), 32)
            .unwrap_err()
            .to_string()
            .contains("count is 0")
    );
    assert!(open(None, 4).unwrap_err().to_string().contains("size is 4"));
    assert_eq!(open(None, 32).unwrap().len(), DEFAULT_COUNT);
}

#[test]
fn several_domains_take_turns_and_keep_the_classes_that_they_share() {
    let options = DataOptions {
        size: 16,
        seed: 5,
        ..DataOptions::default()
    };
    let open = |spec: &str| crate::data::open(spec, &options).unwrap();
    let (mixed, neon) = (open("scenes:studio,neon"), open("scenes:neon"));
    let (item, expected) = (mixed.get(7).unwrap(), neon.get(3).unwrap());
    assert_eq!((item.name, item.image), (expected.name, expected.image));
    assert_eq!(item.class, expected.class);
    assert_eq!(mixed.classes(), neon.classes());
    assert_eq!(mixed.len(), neon.len());

    let several = open("scenes:studio,solids");
    assert!(several.classes().is_empty());
    assert_eq!(several.get(1).unwrap().class, None);
    assert_ne!(several.fingerprint(), mixed.fingerprint());
}
