//! Tensor methods and operators on the test host.

use plugin_api::{D, DType, Error, Init, Result, Tensor, testing::TestHost};

fn floats(values: &[f32], shape: &[usize], host: &TestHost) -> Tensor {
    Tensor::from_slice(values, shape, host).unwrap()
}

#[track_caller]
fn check(tensor: Result<Tensor>, shape: &[usize], expected: &[f32]) {
    let tensor = tensor.unwrap();
    assert_eq!(tensor.dims(), shape);
    let got = tensor.to_vec::<f32>().unwrap();
    assert!(
        got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6) && got.len() == expected.len(),
        "{got:?}"
    );
}

#[test]
fn operators_take_tensors_references_numbers_and_results() {
    let host = TestHost::new();
    let a = floats(&[1.0, 2.0], &[2], &host);
    let b = floats(&[10.0, 20.0], &[2], &host);
    check(&a + &b, &[2], &[11.0, 22.0]);
    check(a.clone() + b.clone(), &[2], &[11.0, 22.0]);
    check(&a - b.clone(), &[2], &[-9.0, -18.0]);
    check(b.clone() / &a, &[2], &[10.0, 10.0]);
    check(&a * 3.0, &[2], &[3.0, 6.0]);
    check(1.0 - &a, &[2], &[0.0, -1.0]);
    check(4.0 / a.clone(), &[2], &[4.0, 2.0]);
    check(&a / 2.0, &[2], &[0.5, 1.0]);
    check(&a + &b * 2.0, &[2], &[21.0, 42.0]);
    check(-&a, &[2], &[-1.0, -2.0]);
    let failed: Result<Tensor> = Err(Error::msg("earlier"));
    assert_eq!((&a + failed).unwrap_err().to_string(), "earlier");
}

#[test]
fn binary_methods_broadcast_and_refuse_what_does_not_fit() {
    let host = TestHost::new();
    let column = floats(&[1.0, 2.0], &[2, 1], &host);
    let row = floats(&[10.0, 20.0, 30.0], &[3], &host);
    check(
        column.broadcast_add(&row),
        &[2, 3],
        &[11.0, 21.0, 31.0, 12.0, 22.0, 32.0],
    );
    let error = floats(&[0.0; 2], &[2], &host)
        .broadcast_mul(&row)
        .unwrap_err();
    assert!(
        error.to_string().contains("[2]") && error.to_string().contains("[3]"),
        "{error}"
    );
    let whole = row.to_dtype(DType::U32).unwrap();
    assert!(
        row.broadcast_add(&whole)
            .unwrap_err()
            .to_string()
            .contains("u32")
    );
}

#[test]
fn reductions_drop_or_keep_dimensions() {
    let host = TestHost::new();
    let x = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &host);
    check(x.sum(0), &[3], &[5.0, 7.0, 9.0]);
    check(x.mean_keepdim(D::Minus1), &[2, 1], &[2.0, 5.0]);
    check(x.max((0, 1)), &[], &[6.0]);
    check(x.min_all(), &[], &[1.0]);
    check(x.argmax(1).unwrap().to_dtype(DType::F32), &[2], &[2.0, 2.0]);
    let error = x.sum(2).unwrap_err();
    assert_eq!(
        error.to_string(),
        "sum: dimension 2 is out of range for shape [2, 3]"
    );
}

#[test]
fn shapes_are_cut_joined_and_moved() {
    let host = TestHost::new();
    let x = floats(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], &[2, 3], &host);
    check(x.t(), &[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
    check(x.narrow(1, 1, 2), &[2, 2], &[2.0, 3.0, 5.0, 6.0]);
    check(x.select(0, 1), &[3], &[4.0, 5.0, 6.0]);
    check(
        x.unsqueeze(1).unwrap().squeeze(1),
        &[2, 3],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    );
    check(x.flatten_from(0), &[6], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let parts = x.chunk(2, 1).unwrap();
    assert_eq!((parts[0].dims(), parts[1].dims()), (vec![2, 2], vec![2, 1]));
    check(
        Tensor::cat(&parts, 1),
        &[2, 3],
        &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
    );
    let rows = [x.select(0, 0).unwrap(), x.select(0, 1).unwrap()];
    check(
        Tensor::stack(&rows, 1),
        &[3, 2],
        &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0],
    );
    let ids = Tensor::from_slice(&[1u32, 0], [2], &host).unwrap();
    check(
        x.index_select(&ids, 0),
        &[2, 3],
        &[4.0, 5.0, 6.0, 1.0, 2.0, 3.0],
    );
    let flags = x.gt(3.0).unwrap();
    assert_eq!(flags.dtype(), DType::U8);
    check(
        flags.where_cond(&x, &x.zeros_like().unwrap()),
        &[2, 3],
        &[0.0, 0.0, 0.0, 4.0, 5.0, 6.0],
    );
    check(
        x.matmul(&x.t().unwrap()),
        &[2, 2],
        &[14.0, 32.0, 32.0, 77.0],
    );
    let error = x.reshape([4]).unwrap_err();
    assert_eq!(error.to_string(), "reshape: expected shape [4], got [2, 3]");
}

#[test]
fn copies_keep_every_type() {
    let host = TestHost::new();
    assert_eq!(
        Tensor::from_slice(&[1u8, 255], [2], &host)
            .unwrap()
            .to_vec::<u8>()
            .unwrap(),
        [1, 255]
    );
    let large = [u32::MAX, 7];
    assert_eq!(
        Tensor::from_slice(&large, [2], &host)
            .unwrap()
            .to_vec::<u32>()
            .unwrap(),
        large
    );
    let negative = [-5i64, 1 << 40];
    assert_eq!(
        Tensor::from_slice(&negative, [2], &host)
            .unwrap()
            .to_vec::<i64>()
            .unwrap(),
        negative
    );
    assert_eq!(
        Tensor::scalar(0.1f64, &host)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap(),
        0.1
    );
    check(
        Tensor::arange_step(1.0, 0.0, -0.5, DType::F32, &host),
        &[2],
        &[1.0, 0.5],
    );
    assert!(matches!(
        Tensor::from_slice(&[1.0f32], [2], &host),
        Err(Error::Shape { .. })
    ));
    assert!(
        Tensor::from_slice(&[1.0f32; 2], [2], &host)
            .unwrap()
            .to_scalar::<f32>()
            .is_err()
    );
}

#[test]
fn what_the_host_lacks_is_named_with_its_revision() {
    let host = TestHost::new();
    let x = floats(&[0.0; 16], &[1, 1, 4, 4], &host);
    let error = x.conv2d(&x, None, Default::default()).unwrap_err();
    assert_eq!(error.to_string(), "Unsupported: host has no conv2d/1");
    assert!(!host.supports_op(plugin_api::ops::CONV2D) && host.supports_op(plugin_api::ops::ADD));
    let error = host.backbone().unwrap_err();
    assert_eq!(error.to_string(), "Unsupported: host has no backbone/1");
}

#[test]
fn every_handle_is_given_back() {
    let host = TestHost::new();
    {
        let x = floats(&[1.0, 2.0], &[2], &host);
        let y = (&x.clone() + 1.0).unwrap().exp().unwrap();
        let _ = y.reshape([3]).unwrap_err();
        let many = vec![x; 9];
        drop(Tensor::cat(&many, 0).unwrap());
        host.parameter("w", [2, 2], Init::KaimingUniform { a: 5f64.sqrt() })
            .unwrap();
        assert!(host.live_tensors() > 0);
    }
    assert_eq!(host.live_tensors(), 0);
}

#[test]
fn tensors_cross_threads() {
    let host = TestHost::new();
    let x = floats(&[1.0, 2.0], &[2], &host);
    let sums: Vec<f32> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| x.clone().sum_all().unwrap().to_scalar::<f32>().unwrap()))
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert_eq!(sums, [3.0; 4]);
}
