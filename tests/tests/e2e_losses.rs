//! The losses and the noise of e2e_ft against the formulas of the published code: values and gradients, on the host's own tensors and tape.
//!
//! `tests/goldens/e2e_ft.py` made the numbers. A program of its own, since two plugins linked into one would both be its plugin.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, VecDeque};

use candle_core::{Tensor, Var};
use e2e_ft::noise::{Draws, pyramid};
use e2e_ft::truth::Truth;
use e2e_ft::{Task, loss};
use host::ops::autograd::Recording;
use host::plugin::tensor_ops::{export, import};
use integration_tests::{goldens, tensors, values};
use plugin_api::testing::TestHost;

fn golden() -> BTreeMap<String, Tensor> {
    tensors(&goldens("e2e_ft.safetensors"))
}

#[track_caller]
fn assert_close(what: &str, ours: &[f32], theirs: &[f32], tolerance: f32) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let size = (theirs.iter()).fold(1e-6f32, |size, value| size.max(value.abs()));
    for (at, (ours, theirs)) in ours.iter().zip(theirs).enumerate() {
        let error = (ours - theirs).abs() / size;
        assert!(error < tolerance, "{what} at {at}: {ours} and {theirs}");
    }
}

/// The batch's loss, which is the mean of the samples', and its gradient at the decoded picture.
fn differentiated(case: &str, golden: &BTreeMap<String, Tensor>) -> (f32, Vec<f32>) {
    let of = |name: &str| &golden[&format!("{case}/{name}")];
    let picture = Var::from_tensor(of("picture")).unwrap();
    let recording = Recording::start();
    let seen = export(picture.as_tensor());
    let (truth, valid) = (export(of("truth")), export(of("valid")));
    let each = match case.starts_with("depth") {
        true => loss::scale_and_shift_invariant(&loss::depth(&seen).unwrap(), &truth, &valid),
        false => loss::angular(&loss::normals(&seen).unwrap(), &truth, &valid),
    };
    let each = import(&each.unwrap()).unwrap();
    assert_eq!(each.dims(), [of("picture").dims()[0]], "{case}");
    let loss = each.mean_all().unwrap();
    let mut gradients = recording.backward(&loss).unwrap();
    let gradient = gradients.remove(picture.as_tensor()).unwrap();
    (loss.to_scalar().unwrap(), values(&gradient))
}

#[test]
fn losses_and_their_gradients_are_the_published_ones() {
    let golden = golden();
    for case in ["depth", "normals"] {
        let (loss, gradient) = differentiated(case, &golden);
        assert_close(
            case,
            &[loss],
            &values(&golden[&format!("{case}/loss")]),
            1e-5,
        );
        let theirs = values(&golden[&format!("{case}/gradient")]);
        assert_close(&format!("{case}: gradient"), &gradient, &theirs, 1e-4);
    }
}

#[test]
fn singular_systems_and_vectors_that_meet_stay_finite() {
    let golden = golden();
    for case in ["depth_singular", "normals_ends"] {
        let (loss, gradient) = differentiated(case, &golden);
        assert_close(
            case,
            &[loss],
            &values(&golden[&format!("{case}/loss")]),
            1e-4,
        );
        assert!(gradient.iter().all(|value| value.is_finite()), "{case}");
        // Next to a cosine of 1 a gradient is the square root of rounding.
        let theirs = values(&golden[&format!("{case}/gradient")]);
        assert_close(&format!("{case}: gradient"), &gradient, &theirs, 2e-3);
    }
}

#[test]
fn where_nothing_is_known_there_is_no_loss_and_no_gradient() {
    let golden = golden();
    for case in ["depth_nothing", "normals_nothing"] {
        let (loss, gradient) = differentiated(case, &golden);
        assert_eq!(loss, 0.0, "{case}");
        assert!(gradient.iter().all(|&value| value == 0.0), "{case}");
    }
}

/// The numbers that the golden was made with, in their order.
struct Recorded {
    normal: VecDeque<f32>,
    uniform: VecDeque<f64>,
}

impl Draws for Recorded {
    fn normal(&mut self, shape: &[usize]) -> plugin_api::Result<plugin_api::Tensor> {
        let values: Vec<f32> = self
            .normal
            .drain(..shape.iter().product::<usize>())
            .collect();
        Ok(export(
            &Tensor::from_vec(values, shape, &candle_core::Device::Cpu).unwrap(),
        ))
    }

    fn uniform(&mut self) -> plugin_api::Result<f64> {
        Ok(self.uniform.pop_front().unwrap())
    }
}

#[test]
fn pyramid_noise_is_the_published_one() {
    let golden = golden();
    let theirs = &golden["pyramid/noise"];
    let mut draws = Recorded {
        normal: values(&golden["pyramid/normal"]).into(),
        uniform: golden["pyramid/uniform"].to_vec1().unwrap().into(),
    };
    let shape = theirs.dims4().unwrap();
    let ours = pyramid([shape.0, shape.1, shape.2, shape.3], &mut draws).unwrap();
    assert!(draws.normal.is_empty() && draws.uniform.is_empty());
    let ours = values(&import(&ours).unwrap());
    assert_close("pyramid noise", &ours, &values(theirs), 2e-6);
}

#[test]
fn depth_is_cut_at_its_quantiles_as_the_published_loaders_cut_it() {
    let golden = golden();
    let host = TestHost::new();
    let of = |name: &str| values(&golden[&format!("truth/{name}")]);
    let shape = golden["truth/depth"].dims();
    let depth = plugin_api::Tensor::from_slice(&of("depth"), shape, &host).unwrap();
    let truth = Truth::read(Task::Depth, &depth, 1.0, &host).unwrap();
    let read = |tensor: &plugin_api::Tensor| tensor.to_vec::<f32>().unwrap();
    assert_eq!(read(&truth.valid), of("valid"));
    assert_close("depth", &read(&truth.values), &of("metric"), 1e-6);
    let grey = read(&truth.picture.narrow(1, 2, 1).unwrap());
    assert_close("picture", &grey, &of("picture"), 2e-6);
}
