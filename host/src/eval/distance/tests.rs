//! Distances against reference implementations' numbers on fixed features (`tests/goldens/eval.py`), and what must hold for any features.
#![allow(clippy::unwrap_used)]

use serde::Deserialize;

use super::kernel::over_subsets;
use super::*;
use crate::eval::Error;
use crate::eval::features::Features;
use crate::random::Stream;

#[derive(Deserialize)]
struct Case {
    width: usize,
    generated: Vec<f64>,
    reference: Vec<f64>,
    frechet: f64,
    equal: usize,
    kernel: f64,
    precision: f64,
    recall: f64,
}

fn cases() -> Vec<(Case, Features, Features)> {
    let text = include_str!("../../../../tests/goldens/eval/distances.json");
    let cases: Vec<Case> = serde_json::from_str(text).unwrap();
    let features = |values: &[f64], width| Features::new(values.to_vec(), width).unwrap();
    cases
        .into_iter()
        .map(|case| {
            let generated = features(&case.generated, case.width);
            let reference = features(&case.reference, case.width);
            (case, generated, reference)
        })
        .collect()
}

fn drawn(label: &str, count: usize, width: usize, scale: f64) -> Features {
    let values = Stream::new(5, label).normals(count * width);
    let values = values.into_iter().map(|value| scale * f64::from(value));
    Features::new(values.collect(), width).unwrap()
}

#[track_caller]
fn near(got: f64, expected: f64, tolerance: f64) {
    assert!(
        (got - expected).abs() <= tolerance * expected.abs().max(1.0),
        "{got} instead of {expected}"
    );
}

#[test]
fn frechet_distances_are_those_of_pytorch_fid() {
    for (case, generated, reference) in cases() {
        let frechet = frechet(&generated, &reference).unwrap();
        // The reference's matrix root of a singular product is good to six digits.
        near(frechet.distance, case.frechet, 1e-5);
        near(frechet.mean + frechet.covariance, frechet.distance, 1e-12);
    }
}

#[test]
fn kernel_distances_are_the_unbiased_estimate_of_the_paper() {
    for (case, generated, reference) in cases() {
        let all: Vec<usize> = (0..case.equal).collect();
        let (x, y) = (generated.select(&all), reference.select(&all));
        // A subset of everything is everything, in another order.
        let kernel = over_subsets(&x, &y, 3, case.equal, 9).unwrap();
        near(kernel.mean, case.kernel, 1e-9);
        near(kernel.std, 0.0, 1e-9);
    }
}

#[test]
fn precision_and_recall_are_those_of_prdc() {
    for (case, generated, reference) in cases() {
        let found = neighbours(&generated, &reference).unwrap();
        near(found.precision(), case.precision, 1e-12);
        near(found.recall(), case.recall, 1e-12);
    }
}

#[test]
fn the_frechet_distance_of_normal_distributions_is_the_closed_form() {
    // d numbers of deviations 1 and 2: d (2 - 1)², up to the error of the samples.
    let (a, b) = (drawn("a", 4000, 4, 1.0), drawn("b", 4000, 4, 2.0));
    near(frechet(&a, &b).unwrap().distance, 4.0, 0.1);
    near(frechet(&a, &a).unwrap().distance, 0.0, 1e-9);
}

#[test]
fn distances_do_not_depend_on_which_set_comes_first() {
    // One set smaller and one larger than the width, so that both ways to factor a covariance are taken.
    let (a, b) = (drawn("a", 12, 20, 1.0), drawn("b", 50, 20, 1.5));
    let (there, back) = (frechet(&a, &b).unwrap(), frechet(&b, &a).unwrap());
    near(there.distance, back.distance, 1e-6);
    let (there, back) = (neighbours(&a, &b).unwrap(), neighbours(&b, &a).unwrap());
    assert_eq!(there.precision(), back.recall());
    assert_eq!(there.recall(), back.precision());
}

#[test]
fn kernel_subsets_follow_the_seed_and_the_estimate_has_no_bias() {
    let (a, b) = (drawn("a", 300, 5, 1.0), drawn("b", 200, 5, 1.0));
    let first = kernel(&a, &b, 1).unwrap();
    assert_eq!(first, kernel(&a, &b, 1).unwrap());
    assert_ne!(first.mean, kernel(&a, &b, 2).unwrap().mean);
    assert_eq!(first.subset_size, 100);
    assert!(first.mean.abs() < 2.0 * first.std, "{first:?}");
    let far = kernel(&a, &drawn("c", 200, 5, 1.5), 1).unwrap();
    assert!(far.mean > 3.0 * far.std, "{far:?}");
}

#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let (a, b) = (drawn("a", 90, 24, 1.0), drawn("b", 120, 24, 1.3));
    let on = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.unwrap().install(|| {
            (
                frechet(&a, &b).unwrap(),
                kernel(&a, &b, 3).unwrap(),
                neighbours(&a, &b).unwrap(),
            )
        })
    };
    assert_eq!(on(1), on(5));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let (three, four) = (drawn("a", 3, 4, 1.0), drawn("b", 9, 4, 1.0));
    let error = neighbours(&four, &three).unwrap_err();
    assert!(
        error.to_string().contains("3 reference images are too few"),
        "{error}"
    );
    let error = kernel(&three, &four, 0).unwrap_err();
    assert!(error.to_string().contains("3 generated"), "{error}");
    let error = frechet(&four, &drawn("c", 9, 5, 1.0)).unwrap_err();
    assert!(
        error.to_string().contains("of 4 and of 5 numbers"),
        "{error}"
    );
    let error = Features::new(vec![1.0, f64::NAN], 1).unwrap_err();
    assert!(matches!(error, Error::NotFinite { count: 1 }), "{error}");
}
