//! Inception against pytorch-fid on a narrow network (`tests/goldens/eval.py`), the embedded classifier on scenes it has not seen, and files of other networks.
#![allow(clippy::unwrap_used)]

use candle_core::DType;

use super::*;
use crate::data::scenes::{Domain, Scenes, Style};
use crate::data::{DataOptions, Dataset};
use scenes::Label;

const INCEPTION: &[u8] = include_bytes!("../../../../tests/goldens/eval/inception.safetensors");

fn all(network: &Network, pictures: &[RgbImage]) -> Features {
    network.features(pictures, &mut |_| Ok(())).unwrap()
}

fn scene_pictures(domain: &str, count: usize) -> (Domain, Vec<(RgbImage, u32)>) {
    let domain = Domain::parse(domain).unwrap();
    let options = DataOptions {
        seed: 31,
        ..DataOptions::default()
    };
    let scenes = Scenes::new(domain, &options).unwrap();
    let picture = |index| {
        let item = scenes.get(index).unwrap();
        let image = Tensor::from_vec(item.image, (3, 32, 32), &Device::Cpu).unwrap();
        (transform::to_rgb8(&image).unwrap(), item.class.unwrap())
    };
    (domain, (0..count).map(picture).collect())
}

#[test]
fn inception_features_are_those_of_pytorch_fid() {
    let tensors = candle_core::safetensors::load_buffer(INCEPTION, &Device::Cpu).unwrap();
    let pictures = &tensors["test.pictures"];
    let (count, _, height, width) = pictures.dims4().unwrap();
    let bytes = pictures
        .permute((0, 2, 3, 1))
        .unwrap()
        .flatten_all()
        .unwrap();
    let bytes = bytes.to_vec1::<u8>().unwrap();
    let pictures: Vec<RgbImage> = bytes
        .chunks_exact(bytes.len() / count)
        .map(|bytes| RgbImage::from_raw(width as u32, height as u32, bytes.to_vec()).unwrap())
        .collect();
    let network = Network::from_bytes(INCEPTION, "golden").unwrap();
    assert_eq!(
        (network.dimensions(), network.name()),
        (128, "Inception-v3 (other weights)")
    );
    let features = all(&network, &pictures);
    let expected = tensors["test.features"].to_vec2::<f32>().unwrap();
    let scale = expected
        .iter()
        .flatten()
        .fold(0f32, |most, v| most.max(v.abs()));
    for (row, expected) in expected.iter().enumerate() {
        for (got, expected) in features.row(row).iter().zip(expected) {
            let error = (*got as f32 - expected).abs() / scale;
            assert!(error < 1e-5, "{got} instead of {expected}");
        }
    }
}

#[test]
fn the_embedded_classifier_knows_scenes_that_it_has_not_seen() {
    let network = Network::embedded().unwrap();
    let Kind::Scenes(classifier) = &network.kind else {
        panic!("{}", network.name());
    };
    let mut right = 0;
    let domains = [
        "studio",
        "solids",
        "pairs",
        "solids+neon",
        "sketch",
        "pairs+fog",
    ];
    for name in domains {
        let (domain, pictures) = scene_pictures(name, 30);
        let images: Vec<RgbImage> = pictures.iter().map(|(image, _)| image.clone()).collect();
        let features = all(&network, &images);
        let values: Vec<f32> = (0..images.len())
            .flat_map(|row| features.row(row).iter().map(|&value| value as f32))
            .collect();
        let shape = (images.len(), network.dimensions());
        let features = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
        let told = classifier.scores(&features).unwrap().argmax(1).unwrap();
        let told = told.to_dtype(DType::U32).unwrap().to_vec1::<u32>().unwrap();
        right += pictures
            .iter()
            .zip(told)
            .filter(|((_, class), told)| Label::of(domain, *class).number() == *told)
            .count();
    }
    assert!(
        right * 10 >= domains.len() * 30 * 9,
        "{right} of {}",
        domains.len() * 30
    );
}

#[test]
fn features_do_not_depend_on_the_pictures_beside() {
    let network = Network::embedded().unwrap();
    let pictures: Vec<RgbImage> = scene_pictures("dusk", 70)
        .1
        .into_iter()
        .map(|p| p.0)
        .collect();
    let together = all(&network, &pictures);
    assert_eq!(together.row(69), all(&network, &pictures[69..]).row(0));
    let mut heard = Vec::new();
    network
        .features(&pictures, &mut |done| {
            heard.push(done);
            Ok(())
        })
        .unwrap();
    assert_eq!(heard, [0, 64, 70]);
    let stopped = network.features(&pictures, &mut |_| Err(Error::Interrupted));
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

#[test]
fn labels_have_numbers_of_their_own() {
    let mut seen = std::collections::BTreeSet::new();
    for content in crate::data::scenes::Content::ALL {
        for style in Style::ALL {
            for class in 0..content.classes().len() as u32 {
                let label = Label::of(Domain { content, style }, class);
                assert_eq!(Label::from_number(label.number()), label);
                assert!(seen.insert(label.number()), "{label:?}");
            }
        }
    }
    assert_eq!(seen.len(), Label::COUNT);
    assert_eq!(seen.last(), Some(&(Label::COUNT as u32 - 1)));
}

#[test]
fn files_of_other_networks_are_refused() {
    let error = Network::from_bytes(b"not at all", "a.safetensors").unwrap_err();
    assert!(error.to_string().contains("no safetensors file"), "{error}");
    let other = |tensors: Vec<(&str, Tensor)>| {
        let mut bytes = Vec::new();
        let named = tensors
            .iter()
            .map(|(name, tensor)| ((*name).to_owned(), tensor))
            .collect();
        crate::fs::tensors::write(&mut bytes, &BTreeMap::new(), &named, Tensor::dtype).unwrap();
        Network::from_bytes(&bytes, "b.safetensors")
            .unwrap_err()
            .to_string()
    };
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    let error = other(vec![("proj_out.weight", zeros(&[2, 2]))]);
    assert!(error.contains("there is no `stem.weight`"), "{error}");
    let error = other(vec![(inception::MARK, zeros(&[2, 3, 3, 3]))]);
    assert!(
        error.contains("there is no `Conv2d_1a_3x3.bn.weight`"),
        "{error}"
    );
    let bn = ["weight", "bias", "running_mean", "running_var"]
        .map(|part| format!("Conv2d_1a_3x3.bn.{part}"));
    let mut tensors = vec![(inception::MARK, zeros(&[2, 3, 3, 3]))];
    tensors.extend(bn.iter().map(|name| (name.as_str(), zeros(&[2]))));
    let error = other(tensors);
    assert!(
        error.contains("there is no `Conv2d_2a_3x3.conv.weight`"),
        "{error}"
    );
}
