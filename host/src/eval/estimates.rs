//! Errors of estimated depth and normals, as the literature on them has it.

use candle_core::{DType, Tensor};
use plugin_api::hooks::Encoding;

use super::Error;
use crate::data::Batch;
use crate::plugin::stack::OutputPicture;
use crate::report::estimates::{DepthErrors, NormalErrors};

/// Kinds of pictures that estimate something, which are also the columns that hold the truth, and how they are told.
const KINDS: [(&str, Encoding); 2] = [("depth", Encoding::GRAY16), ("normals", Encoding::RGB)];

/// Estimates are at least this, so that what lies behind the camera after alignment has a ratio.
const NEAREST: f64 = 1e-6;

/// Whether some of the pictures are estimates of what a column of the data may hold.
pub fn are_estimates(pictures: &[OutputPicture]) -> bool {
    KINDS.iter().any(|kind| find(pictures, kind).is_some())
}

/// What can be said of the pictures that are estimates.
///
/// # Errors
/// Inputs without the truth, of another size, or without any known pixel.
pub fn errors(
    pictures: &[OutputPicture],
    inputs: &Batch,
) -> Result<(Option<DepthErrors>, Option<NormalErrors>), Error> {
    let [depth, normals] = KINDS.map(|kind| pair(pictures, inputs, &kind));
    let depth = depth?.map(|pair| depth_errors(&pair)).transpose()?;
    let normals = normals?.map(|pair| normal_errors(&pair)).transpose()?;
    Ok((depth, normals))
}

fn find<'a>(pictures: &'a [OutputPicture], kind: &(&str, Encoding)) -> Option<&'a OutputPicture> {
    (pictures.iter()).find(|picture| (picture.kind.as_str(), picture.encoding) == *kind)
}

/// Estimates and truth, image by image.
struct Pair {
    estimates: Vec<Vec<f32>>,
    truths: Vec<Vec<f32>>,
}

fn pair(
    pictures: &[OutputPicture],
    inputs: &Batch,
    kind: &(&'static str, Encoding),
) -> Result<Option<Pair>, Error> {
    let Some(picture) = find(pictures, kind) else {
        return Ok(None);
    };
    let Some(truth) = inputs.tensors.get(kind.0) else {
        return Err(Error::NoTruth { column: kind.0 });
    };
    if truth.dims() != picture.images.dims() {
        return Err(Error::TruthShape {
            column: kind.0,
            estimates: picture.images.dims().to_vec(),
            truth: truth.dims().to_vec(),
        });
    }
    Ok(Some(Pair {
        estimates: rows(&picture.images)?,
        truths: rows(truth)?,
    }))
}

fn rows(images: &Tensor) -> candle_core::Result<Vec<Vec<f32>>> {
    images.flatten_from(1)?.to_dtype(DType::F32)?.to_vec2()
}

/// AbsRel and delta < 1.25 (Eigen et al. 2014) of affine-invariant depth.
fn depth_errors(pair: &Pair) -> Result<DepthErrors, Error> {
    let mut all = DepthErrors::default();
    for (estimate, truth) in pair.estimates.iter().zip(&pair.truths) {
        let known: Vec<(f64, f64)> = (estimate.iter().zip(truth))
            .filter(|(_, truth)| **truth > 0.0)
            .map(|(&estimate, &truth)| (f64::from(estimate), f64::from(truth)))
            .collect();
        if known.is_empty() {
            continue;
        }
        let (scale, shift) = alignment(&known);
        let count = known.len() as f64;
        let aligned = known
            .iter()
            .map(|&(estimate, truth)| ((scale * estimate + shift).max(NEAREST), truth));
        let (mut relative, mut near) = (0.0, 0.0);
        for (estimate, truth) in aligned {
            relative += (estimate - truth).abs() / truth;
            near += f64::from(u8::from((estimate / truth).max(truth / estimate) < 1.25));
        }
        all.abs_rel += relative / count;
        all.delta1 += near / count;
        all.images += 1;
    }
    if all.images == 0 {
        return Err(Error::NothingKnown { column: KINDS[0].0 });
    }
    all.abs_rel /= all.images as f64;
    all.delta1 /= all.images as f64;
    Ok(all)
}

/// Scale and shift of the least squares from estimates to truths; of estimates that are all the same, the shift alone.
fn alignment(known: &[(f64, f64)]) -> (f64, f64) {
    let count = known.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| known.iter().map(of).sum::<f64>() / count;
    let (estimate, truth) = (mean(|pair| pair.0), mean(|pair| pair.1));
    let (mut variance, mut covariance) = (0.0, 0.0);
    for pair in known {
        variance += (pair.0 - estimate).powi(2);
        covariance += (pair.0 - estimate) * (pair.1 - truth);
    }
    let scale = match variance > 1e-12 * count {
        true => covariance / variance,
        false => 0.0,
    };
    (scale, truth - scale * estimate)
}

/// Angles (Fouhey et al. 2013), over all known pixels at once.
fn normal_errors(pair: &Pair) -> Result<NormalErrors, Error> {
    let mut angles = Vec::new();
    let mut images = 0;
    for (estimate, truth) in pair.estimates.iter().zip(&pair.truths) {
        let plane = truth.len() / 3;
        let before = angles.len();
        for at in 0..plane {
            let vector = |of: &[f32]| [0, 1, 2].map(|part| f64::from(of[part * plane + at]));
            let (estimate, truth) = (vector(estimate), vector(truth));
            let length = |of: [f64; 3]| of.iter().map(|part| part * part).sum::<f64>().sqrt();
            if length(truth) < 0.5 {
                continue;
            }
            let dot: f64 = (estimate.iter().zip(truth)).map(|(a, b)| a * b).sum();
            // A vector of no length points nowhere, which is as far off as a right angle.
            let cosine = dot / (length(estimate) * length(truth)).max(1e-12);
            angles.push(cosine.clamp(-1.0, 1.0).acos().to_degrees());
        }
        images += u64::from(angles.len() > before);
    }
    if angles.is_empty() {
        return Err(Error::NothingKnown { column: KINDS[1].0 });
    }
    angles.sort_unstable_by(f64::total_cmp);
    let count = angles.len() as f64;
    let within = |limit: f64| angles.partition_point(|&angle| angle < limit) as f64 / count;
    let middle = angles.len() / 2;
    Ok(NormalErrors {
        mean: angles.iter().sum::<f64>() / count,
        median: match angles.len() % 2 {
            0 => (angles[middle - 1] + angles[middle]) / 2.0,
            _ => angles[middle],
        },
        within_11_25: within(11.25),
        within_22_5: within(22.5),
        within_30: within(30.0),
        images,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use candle_core::Device;

    fn picture(kind: &str, encoding: Encoding, values: &[f32], shape: [usize; 4]) -> OutputPicture {
        OutputPicture {
            kind: kind.to_owned(),
            images: Tensor::from_slice(values, &shape, &Device::Cpu).unwrap(),
            encoding,
        }
    }

    fn inputs(column: &str, values: &[f32], shape: [usize; 4]) -> Batch {
        let mut batch = Batch::default();
        let truth = Tensor::from_slice(values, &shape, &Device::Cpu).unwrap();
        batch.tensors.insert(column.to_owned(), truth);
        batch
    }

    fn depth(estimate: &[f32], truth: &[f32]) -> Result<DepthErrors, Error> {
        let shape = [1, 1, 1, truth.len()];
        let picture = picture("depth", Encoding::GRAY16, estimate, shape);
        errors(&[picture], &inputs("depth", truth, shape)).map(|(depth, _)| depth.unwrap())
    }

    #[test]
    fn depth_up_to_scale_and_shift_is_without_error_and_unknown_pixels_do_not_count() {
        // 0.5 + 3 x, turned round, and two pixels that nobody knows.
        let errors = depth(&[0.9, 0.6, 0.1, 0.3, 0.8], &[0.8, 1.7, 3.2, 0.0, 0.0]).unwrap();
        assert!(errors.abs_rel < 1e-6 && errors.delta1 == 1.0, "{errors:?}");
    }

    #[test]
    fn errors_of_depth_are_those_worked_out_by_hand() {
        // An estimate without any contrast becomes the mean, 2.
        let errors = depth(&[0.5; 4], &[1.0, 1.0, 2.0, 4.0]).unwrap();
        assert!((errors.abs_rel - (1.0 + 1.0 + 0.0 + 0.5) / 4.0).abs() < 1e-9);
        assert_eq!((errors.delta1, errors.images), (0.25, 1));
        // Least squares of (0, 1, 2) to (1, 1, 4): scale 1.5, shift 0.5.
        let errors = depth(&[0.0, 1.0, 2.0], &[1.0, 1.0, 4.0]).unwrap();
        assert!((errors.abs_rel - (0.5 + 1.0 + 0.125) / 3.0).abs() < 1e-9);
        assert!((errors.delta1 - 1.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn angles_are_of_all_known_pixels_together() {
        let (c, s) = (20f32.to_radians().cos(), 20f32.to_radians().sin());
        // Three images of one pixel: 20 degrees off, exact but not of unit length, unknown.
        let estimates = [0.0, s, c, 0.0, 0.0, 0.5, 1.0, 0.0, 0.0];
        let truth = [0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0];
        let shape = [3, 3, 1, 1];
        let picture = picture("normals", Encoding::RGB, &estimates, shape);
        let (_, normals) = errors(&[picture], &inputs("normals", &truth, shape)).unwrap();
        let normals = normals.unwrap();
        assert!((normals.mean - 10.0).abs() < 1e-4 && (normals.median - 10.0).abs() < 1e-4);
        assert_eq!((normals.within_11_25, normals.within_22_5), (0.5, 1.0));
        assert_eq!((normals.within_30, normals.images), (1.0, 2));
    }

    #[test]
    fn estimates_without_a_truth_to_compare_with_are_told() {
        let shape = [1, 1, 1, 2];
        let estimate = picture("depth", Encoding::GRAY16, &[0.1, 0.2], shape);
        let refused = |batch: &Batch| {
            errors(std::slice::from_ref(&estimate), batch)
                .unwrap_err()
                .to_string()
        };
        assert!(refused(&Batch::default()).contains("no `depth`"));
        assert!(refused(&inputs("depth", &[0.0, 0.0], shape)).contains("known"));
        let other = refused(&inputs("depth", &[1.0], [1, 1, 1, 1]));
        assert!(
            other.contains("[1, 1, 1, 2]") && other.contains("[1, 1, 1, 1]"),
            "{other}"
        );
        assert!(are_estimates(&[estimate]));
        assert!(!are_estimates(&[picture(
            "depth",
            Encoding::COLORMAP,
            &[0.0],
            [1, 1, 1, 1]
        )]));
    }
}
