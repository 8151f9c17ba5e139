//! Messages survive the way across, and what is new or missing in one does no harm.

use plugin_api::{
    Batch, Init, Model, Tensor,
    abi::{Packet, Value, ValueKind},
    hooks::{Encoding, OutputOut, Picture, ResidualsOut, SampleBegin, SampleStepIn, TrainableOut},
    message::{FieldValue, Message},
    services::{DenoiseIn, InitMessage, RandomIn, SampleRequest},
    testing::TestHost,
};

fn there_and_back<M: Message>(message: M) -> M {
    M::decode(message.encode()).unwrap()
}

#[test]
fn plain_values_come_back_exactly() {
    macro_rules! back {
        ($($ty:ty: $($value:expr),*;)*) => {$($(
            let value: $ty = $value;
            assert_eq!(<$ty>::from_value(value.clone().into_value()), Some(value));
        )*)*};
    }
    back! {
        bool: true, false;
        i64: 0, -1, i64::MIN, i64::MAX;
        u64: 0, u64::MAX;
        u32: 7, u32::MAX;
        usize: 0, usize::MAX;
        f64: 0.1, -0.0, f64::INFINITY, f64::MIN_POSITIVE;
        String: String::new(), "naïve \0 text".to_owned();
        Vec<u8>: vec![], vec![0, 255];
        Vec<f64>: vec![], vec![1.5, -2.0];
        Option<u32>: None, Some(3);
        Vec<Vec<usize>>: vec![vec![], vec![1, 2]];
    }
    assert!(f64::from_value(f64::NAN.into_value()).unwrap().is_nan());
}

#[test]
fn values_of_another_kind_are_refused() {
    assert_eq!(u32::from_value((u64::MAX).into_value()), None);
    assert_eq!(u32::from_value((-1i64).into_value()), None);
    assert_eq!(bool::from_value(1u32.into_value()), None);
    assert_eq!(f64::from_value(1u32.into_value()), None);
    assert_eq!(String::from_value(vec![104u8].into_value()), None);
    assert_eq!(Model::from_value(2u32.into_value()), None);
    let broken = Value {
        bytes: vec![0xff].into(),
        ..Value::empty(ValueKind::TEXT)
    };
    assert_eq!(String::from_value(broken), None);
    let hollow = Value::empty(ValueKind::TENSOR);
    assert!(Tensor::from_value(hollow).is_none());
}

#[test]
fn whole_messages_come_back() {
    let host = TestHost::new();
    let x = Tensor::from_slice(&[1.0f32, 2.0], [2, 1], &host).unwrap();
    let mut batch = Batch::new();
    batch.set("images", x.clone());
    batch
        .texts
        .insert("captions".into(), vec!["a".into(), "b".into()]);
    batch.meta.insert("layout".into(), "row".into());

    let begin = there_and_back(SampleBegin {
        batch: batch.clone(),
        latents: x.clone(),
        timesteps: vec![999.0, 0.5],
        guidance: 4.0,
        first: 3,
        seed: u64::MAX,
    });
    assert_eq!(begin.batch.texts("captions").unwrap(), ["a", "b"]);
    assert_eq!(
        (begin.batch.len(), begin.batch.meta["layout"].as_str()),
        (2, "row")
    );
    assert_eq!(
        (begin.timesteps.as_slice(), begin.first, begin.seed),
        ([999.0, 0.5].as_slice(), 3, u64::MAX)
    );
    assert_eq!(begin.latents.to_vec::<f32>().unwrap(), [1.0, 2.0]);

    let sites = there_and_back(ResidualsOut {
        residuals: vec![None, Some(x.clone()), None],
    });
    assert_eq!(
        sites
            .residuals
            .iter()
            .map(Option::is_some)
            .collect::<Vec<_>>(),
        [false, true, false]
    );

    let ask = there_and_back(DenoiseIn {
        model: Model::Current,
        latents: x.clone(),
        timesteps: x.clone(),
        batch,
    });
    assert_eq!(ask.model, Model::Current);

    let sample = there_and_back(SampleRequest {
        class_labels: Some(vec![1, 2]),
        ..SampleRequest::new(2)
    });
    assert_eq!(
        (&sample.class_labels, &sample.captions),
        (&Some(vec![1, 2]), &None)
    );
    assert_eq!(sample.sampler, "ddim");

    let picture = Picture {
        kind: "depth".into(),
        images: x.clone(),
        encoding: Encoding::GRAY16,
    };
    let out = there_and_back(OutputOut {
        pictures: vec![picture],
    });
    assert_eq!(
        (out.pictures[0].kind.as_str(), out.pictures[0].encoding),
        ("depth", Encoding::GRAY16)
    );

    drop((begin, sites, ask, sample, out, x));
    assert_eq!(host.live_tensors(), 0);
}

#[test]
fn fields_from_the_future_are_ignored_and_optional_ones_may_be_absent() {
    let mut packet = RandomIn {
        kind: "normal".into(),
        shape: vec![2],
        a: 0.0,
        b: 1.0,
    }
    .encode();
    packet.push("colour", "blue".to_owned().into_value());
    assert_eq!(RandomIn::decode(packet).unwrap().shape, [2]);

    let host = TestHost::new();
    let x = Tensor::scalar(1.0f32, &host).unwrap();
    let mut packet = SampleStepIn {
        batch: Batch::new(),
        latents: x.clone(),
        index: 0,
        steps: 1,
        timestep: 1.0,
        next_timestep: Some(0.0),
        prediction: x.clone(),
        x0: x,
    }
    .encode();
    packet.take("next_timestep").unwrap();
    assert_eq!(SampleStepIn::decode(packet).unwrap().next_timestep, None);
}

#[test]
fn a_missing_field_is_named() {
    let error = TrainableOut::decode(Packet::new()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "message field `TrainableOut.globs`: expected a list, got nothing"
    );
    let mut packet = Packet::new();
    packet.push("globs", true.into_value());
    let error = TrainableOut::decode(packet).unwrap_err();
    assert_eq!(
        error.to_string(),
        "message field `TrainableOut.globs`: expected a list, got a yes/no value"
    );
}

#[test]
fn every_initialisation_comes_back() {
    let host = TestHost::new();
    let x = Tensor::scalar(1.0f32, &host).unwrap();
    for init in [
        Init::Zeros,
        Init::Ones,
        Init::Constant(2.0),
        Init::Normal {
            mean: 0.0,
            std: 0.02,
        },
        Init::Uniform {
            low: -1.0,
            high: 1.0,
        },
        Init::KaimingUniform { a: 2.0 },
        Init::Value(x),
    ] {
        let expected = format!("{init:?}");
        let back = there_and_back(InitMessage::from(init))
            .decode_init()
            .unwrap();
        assert_eq!(format!("{back:?}"), expected);
    }
    let unknown = InitMessage {
        kind: "orthogonal".into(),
        numbers: vec![],
        value: None,
    };
    assert!(unknown.decode_init().is_none());
}
