//! The plugin's hooks one by one, on the plugin crate's small test host: what the network sees, at which timestep, and what is refused.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};

use e2e_ft::truth::{Truth, shrunk};
use e2e_ft::{CONTEXT, E2eFt, Task, VALID};
use plugin_api::hooks::{
    BatchHook, DenoiserInputHook, DenoiserInputIn, Encoding, NoiseHook, NoiseIn, ObjectiveHook,
    ObjectiveIn, OutputHook, OutputIn, PrepareHook, SampleBegin, SampleBeginHook, SampleStepHook,
    SampleStepIn, SavedState, StateHook, TimestepsHook, TimestepsIn,
};
use plugin_api::services::{self, BatchOut, LayersOut, RunInfo, TensorOut};
use plugin_api::testing::TestHost;
use plugin_api::{BackboneInfo, Batch, DType, LayerInfo, LayerKind, Tensor};

/// Side of a picture in pixels.
const SIDE: usize = 2;

/// A host of a pixel-space model of six classes.
fn host() -> TestHost {
    let host = TestHost::new();
    host.answer::<services::Encode>(|at| Ok(TensorOut { tensor: at.tensor }));
    host.answer::<services::Decode>(|at| Ok(TensorOut { tensor: at.tensor }));
    host.answer::<services::Backbone>(|_| Ok(backbone(3, 3)));
    host
}

fn backbone(in_channels: usize, latent_channels: usize) -> BackboneInfo {
    BackboneInfo {
        architecture: "dit".to_owned(),
        parameters: 0,
        in_channels,
        out_channels: latent_channels,
        latent_channels,
        sample_size: SIDE,
        image_size: SIDE,
        num_classes: Some(6),
        null_class: Some(6),
        learned_variance: false,
        text: false,
        residual_sites: 0,
        fingerprint: String::new(),
    }
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

/// Two pictures with depth and normals; of the second no depth is known.
fn batch(host: &TestHost) -> Batch {
    let mut batch = Batch::new();
    let tensor = |values: &[f32], channels: usize| {
        Tensor::from_slice(values, [2, channels, SIDE, SIDE], host).unwrap()
    };
    let ramp: Vec<f32> = (0..24).map(|at| at as f32 / 12.0 - 1.0).collect();
    batch.set("images", tensor(&ramp, 3));
    batch.set(
        "depth",
        tensor(&[0.2, 0.4, 0.0, 0.8, 0.0, 0.0, 0.0, 0.0], 1),
    );
    let mut normals = [0f32; 24];
    normals[8..12].fill(1.01); // The first picture looks at the camera.
    batch.set("normals", tensor(&normals, 3));
    batch.set(
        "class_labels",
        Tensor::from_slice(&[1u32, 2], [2], host).unwrap(),
    );
    batch
}

#[test]
fn settings_that_do_not_go_together_are_refused_with_what_to_change() {
    let host = host();
    for (settings, parts) in [
        (
            r#"{"objective": "diffusion", "input": "rgb"}"#,
            ["step by step", "use input = \"widened\""],
        ),
        (
            r#"{"objective": "diffusion", "noise": "zeros"}"#,
            ["step by step", "\"gaussian\""],
        ),
        (
            r#"{"input": "rgb", "noise": "pyramid"}"#,
            ["no noise", "leave `noise` out"],
        ),
        (r#"{"depth_range": 0}"#, ["depth_range", "above 0"]),
    ] {
        let error = host.build::<E2eFt>(settings).err().unwrap().to_string();
        for part in parts {
            assert!(error.contains(part), "{settings}: {error}");
        }
    }
    host.build::<E2eFt>(r#"{"input": "rgb"}"#).unwrap();
    host.answer::<services::Run>(|_| {
        Ok(RunInfo {
            seed: 0,
            steps: 10,
            batch_size: 2,
            accumulation: 1,
            dtype: DType::F32.0,
            dataset_len: 4,
            classes: Vec::new(),
            plugins: Vec::new(),
            image_size: Some(SIDE),
            columns: Some(vec!["source".to_owned()]),
            bucketing: None,
        })
    });
    let error = host
        .build::<E2eFt>(r#"{"task": "normals"}"#)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("the data's `normals`") && error.contains("only source"),
        "{error}"
    );
    assert!(error.contains("data.columns={normals = "), "{error}");
}

#[test]
fn the_first_layer_is_repeated_and_halved_and_so_is_its_bias() {
    let host = host();
    let layer = |path: &str, kind, weight_shape: Vec<usize>| LayerInfo {
        id: 0,
        path: path.to_owned(),
        kind,
        in_features: weight_shape[1],
        out_features: weight_shape[0],
        weight_shape,
        bias: true,
        conv: Vec::new(),
    };
    host.answer::<services::Layers>(move |_| {
        Ok(LayersOut {
            layers: vec![
                layer("time", LayerKind::LINEAR, vec![2, 2]),
                layer("conv_in", LayerKind::CONV2D, vec![2, 3, 1, 1]),
                layer("conv_out", LayerKind::CONV2D, vec![3, 2, 1, 1]),
            ],
        })
    });
    let weight = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0, 5.0, 6.0], [2, 3, 1, 1], &host).unwrap();
    let bias = Tensor::from_slice(&[10f32, 20.0], [2], &host).unwrap();
    host.answer::<services::Weight>(move |at| {
        let tensor = match at.name.as_str() {
            "conv_in.weight" => weight.clone(),
            "conv_in.bias" => bias.clone(),
            other => panic!("asked for {other}"),
        };
        Ok(TensorOut { tensor })
    });
    let made = Arc::new(Mutex::new(Vec::new()));
    let kept = made.clone();
    host.answer::<services::StandIn>(move |at| {
        let value = at.value.unwrap();
        assert!(at.trainable);
        kept.lock()
            .unwrap()
            .push((at.name, value.dims(), values(&value)));
        Ok(TensorOut { tensor: value })
    });
    let mut plugin: E2eFt = host.build("{}").unwrap();
    plugin.prepare(&host).unwrap();
    let wide = vec![0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 2.0, 2.5, 3.0];
    let expected = [
        ("conv_in.weight".to_owned(), vec![2, 6, 1, 1], wide),
        ("conv_in.bias".to_owned(), vec![2], vec![5.0, 10.0]),
    ];
    assert_eq!(*made.lock().unwrap(), expected);

    // Nothing to do for a network that is wide already, or that sees the picture alone.
    made.lock().unwrap().clear();
    host.build::<E2eFt>(r#"{"input": "rgb"}"#)
        .unwrap()
        .prepare(&host)
        .unwrap();
    host.answer::<services::Backbone>(|_| Ok(backbone(6, 3)));
    plugin.prepare(&host).unwrap();
    assert!(made.lock().unwrap().is_empty());
    host.answer::<services::Backbone>(|_| Ok(backbone(9, 4)));
    let error = plugin.prepare(&host).unwrap_err().to_string();
    assert!(
        error.contains("takes 9 channels") && error.contains("8"),
        "{error}"
    );
}

#[test]
fn a_step_of_e2e_goes_from_the_last_timestep_and_nothing_to_the_picture() {
    let host = host();
    let mut plugin: E2eFt = host.build("{}").unwrap();
    let images = batch(&host).images().unwrap().clone();
    let batch = plugin.batch(batch(&host), &host).unwrap();
    assert_eq!(values(batch.get("class_labels").unwrap()), [6.0, 6.0]);
    assert_eq!(values(batch.get(CONTEXT).unwrap()), values(&images));
    let latents = batch.get("latents").unwrap().clone();
    assert_eq!(values(&latents), [0.0; 24]);
    assert_eq!(
        values(batch.get(VALID).unwrap()),
        [1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    );

    let at = TimestepsIn {
        batch: batch.clone(),
        latents: latents.clone(),
        num_train_timesteps: 1000,
    };
    let timesteps = plugin.timesteps(&at, &host).unwrap();
    assert_eq!(
        (timesteps.dtype(), values(&timesteps)),
        (DType::U32, vec![999.0, 999.0])
    );
    let at = NoiseIn {
        batch: batch.clone(),
        latents: latents.clone(),
        timesteps: timesteps.clone(),
    };
    let noise = plugin.noise(&at, &host).unwrap();
    assert_eq!(values(&noise), [0.0; 24]);
    let seen = |plugin: &mut E2eFt| {
        let at = DenoiserInputIn {
            batch: batch.clone(),
            noisy_latents: latents.clone(),
            timesteps: timesteps.clone(),
            latents: None,
            unconditional: false,
        };
        plugin.denoiser_input(&at, &host).unwrap()
    };
    let wide = seen(&mut plugin);
    assert_eq!(wide.dims(), [2, 6, SIDE, SIDE]);
    assert_eq!(values(&wide.narrow(1, 0, 3).unwrap()), values(&images));
    assert_eq!(values(&wide.narrow(1, 3, 3).unwrap()), [0.0; 24]);
    let mut alone: E2eFt = host.build(r#"{"input": "rgb"}"#).unwrap();
    assert_eq!(values(&seen(&mut alone)), values(&images));

    // The test host predicts noise: x0 = (noisy - noise_level * prediction) / signal_level. Of the second picture nothing is known.
    let x0 = [0.3f32, 0.5, 0.9, 0.9].repeat(6);
    let x0 = Tensor::from_slice(&x0, [2, 3, SIDE, SIDE], &host).unwrap();
    let none = x0.zeros_like().unwrap();
    let level = |a: f64, b: f64| {
        let [a, b] = [a, b].map(|value| Tensor::full(value, [1, 1], DType::F32, &host).unwrap());
        let t = timesteps.narrow(0, 0, 1).unwrap();
        host.add_noise(&a, &b, &t)
            .unwrap()
            .to_scalar::<f64>()
            .unwrap()
    };
    let prediction = x0.affine(-level(1.0, 0.0) / level(0.0, 1.0), 0.0).unwrap();
    let at = ObjectiveIn {
        batch: batch.clone(),
        latents: latents.clone(),
        noise: none.clone(),
        timesteps: timesteps.clone(),
        noisy_latents: none.clone(),
        prediction,
        target: none,
        loss_mask: None,
    };
    let loss = values(&plugin.objective(&at, &host).unwrap());
    // The truth is 0.2, 0.4 and 0.8 but for its quantiles, the estimate 0.3, 0.5 and 0.9: a shift, and no error but what the quantiles cut.
    assert!(loss[0] < 0.02 && loss[1] == 0.0, "{loss:?}");
}

#[test]
fn noise_of_e2e_is_seen_as_it_is_drawn() {
    let first = host();
    let mut plugin: E2eFt = first.build(r#"{"noise": "gaussian"}"#).unwrap();
    let latents = Tensor::zeros([2, 3, SIDE, SIDE], DType::F32, &first).unwrap();
    let timesteps = Tensor::from_slice(&[999u32, 999], [2], &first).unwrap();
    let at = NoiseIn {
        batch: Batch::new(),
        latents: latents.clone(),
        timesteps: timesteps.clone(),
    };
    let noise = plugin.noise(&at, &first).unwrap();
    let seen = values(&first.add_noise(&latents, &noise, &timesteps).unwrap());
    // A second test host draws the same numbers.
    let drawn = values(&host().random().normal([2, 3, SIDE, SIDE]).unwrap());
    for (seen, drawn) in seen.iter().zip(&drawn) {
        assert!((seen - drawn).abs() < 1e-5, "{seen} and {drawn}");
    }
}

#[test]
fn diffusion_learns_the_picture_of_the_truth_where_it_is_known() {
    let host = host();
    let mut plugin: E2eFt = host.build(r#"{"objective": "diffusion"}"#).unwrap();
    let batch = plugin.batch(batch(&host), &host).unwrap();
    let latents = batch.get("latents").unwrap().clone();
    let truth = Truth::read(Task::Depth, batch.get("depth").unwrap(), 1.0, &host).unwrap();
    assert_eq!(values(&latents), values(&truth.picture));
    // Near is -1, far and unknown are 1.
    assert_eq!(values(&latents)[..4], [-1.0, values(&latents)[1], 1.0, 1.0]);
    let at = TimestepsIn {
        batch: batch.clone(),
        latents: latents.clone(),
        num_train_timesteps: 1000,
    };
    let timesteps = plugin.timesteps(&at, &host).unwrap();
    assert!(
        values(&timesteps).iter().all(|&t| t < 1000.0)
            && values(&timesteps)[0] != values(&timesteps)[1]
    );
    let at = ObjectiveIn {
        noise: latents.clone(),
        timesteps,
        noisy_latents: latents.clone(),
        prediction: latents.affine(1.0, 0.5).unwrap(),
        target: latents.clone(),
        latents,
        batch,
        loss_mask: None,
    };
    // Three pixels of the first picture are all there is to learn; a mean over two samples of 0.25 and nothing.
    assert_eq!(values(&plugin.objective(&at, &host).unwrap()), [0.5, 0.0]);
}

#[test]
fn normals_are_brought_to_unit_length_and_told_from_nothing() {
    let host = host();
    let batch = batch(&host);
    let truth = Truth::read(Task::Normals, batch.get("normals").unwrap(), 1.0, &host).unwrap();
    assert_eq!(
        values(&truth.valid),
        [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    );
    let z = values(&truth.values)[8..12].to_vec();
    assert!(z.iter().all(|z| (z - 1.0).abs() < 1e-6), "{z:?}");
}

#[test]
fn latents_are_known_where_all_their_pixels_are() {
    let host = host();
    let mut known = [1f32; 16];
    known[5] = 0.0;
    let known = Tensor::from_slice(&known, [1, 1, 4, 4], &host).unwrap();
    assert_eq!(values(&shrunk(&known, 2, 2).unwrap()), [0.0, 1.0, 1.0, 1.0]);
    assert_eq!(shrunk(&known, 4, 4).unwrap().dims(), [1, 1, 4, 4]);
    shrunk(&known, 3, 3).unwrap_err();
}

fn begin(host: &TestHost, count: usize, first: u64) -> SampleBegin {
    let mut batch = batch(host);
    for tensor in batch.tensors.values_mut() {
        *tensor = tensor.narrow(0, first as usize, count).unwrap();
    }
    SampleBegin {
        batch,
        latents: Tensor::ones([count, 3, 4, 4], DType::F32, host).unwrap(),
        timesteps: vec![600.0, 300.0],
        guidance: 4.0,
        first,
        seed: 5,
    }
}

#[test]
fn an_estimate_takes_one_step_without_guidance_and_no_class() {
    let host = host();
    let mut plugin: E2eFt = host.build("{}").unwrap();
    let begun = plugin.sample_begin(begin(&host, 2, 0), &host).unwrap();
    assert_eq!((begun.timesteps, begun.guidance), (vec![999.0], 1.0));
    assert_eq!(
        (begun.latents.dims(), values(&begun.latents)),
        (vec![2, 3, SIDE, SIDE], vec![0.0; 24])
    );
    assert_eq!(values(begun.batch.get("class_labels").unwrap()), [6.0, 6.0]);

    let mut several: E2eFt = host.build(r#"{"objective": "diffusion"}"#).unwrap();
    let begun = several.sample_begin(begin(&host, 2, 0), &host).unwrap();
    assert_eq!(begun.timesteps, [600.0, 300.0]);
    assert_eq!(begun.latents.dims(), [2, 3, SIDE, SIDE]);

    let mut nothing = begin(&host, 1, 0);
    nothing.batch.tensors.remove("images");
    let error = plugin.sample_begin(nothing, &host).unwrap_err().to_string();
    assert!(error.contains("no pictures to estimate from"), "{error}");
}

#[test]
fn the_noise_of_a_picture_depends_on_its_number_alone() {
    let host = host();
    let mut plugin: E2eFt = host.build(r#"{"noise": "gaussian"}"#).unwrap();
    let both = plugin
        .sample_begin(begin(&host, 2, 0), &host)
        .unwrap()
        .latents;
    let second = plugin
        .sample_begin(begin(&host, 1, 1), &host)
        .unwrap()
        .latents;
    let (both, second) = (values(&both), values(&second));
    assert_eq!(both[12..], second);
    assert_ne!(both[..12], second);
    let spread = both.iter().map(|value| value * value).sum::<f32>() / 24.0;
    assert!((0.3..3.0).contains(&spread), "{spread}");
}

#[test]
fn a_model_that_is_told_captions_is_told_no_words() {
    let host = host();
    host.answer::<services::Backbone>(|_| {
        Ok(BackboneInfo {
            text: true,
            null_class: None,
            num_classes: None,
            ..backbone(3, 3)
        })
    });
    let encoding = Tensor::from_slice(&[1f32, 2.0, 3.0, 4.0], [1, 2, 2], &host).unwrap();
    host.answer::<services::EncodeTexts>(move |at| {
        assert_eq!(at.texts, [""]);
        let mut batch = Batch::new();
        batch.set("encoder_hidden_states", encoding.clone());
        Ok(BatchOut { batch })
    });
    let mut plugin: E2eFt = host.build(r#"{"input": "rgb"}"#).unwrap();
    plugin.prepare(&host).unwrap();
    let mut asked = batch(&host);
    asked.tensors.remove("class_labels");
    asked
        .texts
        .insert("captions".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
    let batch = plugin.batch(asked, &host).unwrap();
    let told = batch.get("encoder_hidden_states").unwrap();
    assert_eq!(
        (told.dims(), values(told)),
        (vec![2, 2, 2], [1.0, 2.0, 3.0, 4.0].repeat(2))
    );
    assert!(batch.texts.is_empty() && batch.class_labels().is_none());
}

#[test]
fn estimates_come_in_16_bits_and_in_colours_and_the_truth_beside_them() {
    let host = host();
    let mut batch = batch(&host);
    let decoded = Tensor::from_slice(
        &[-1.0f32, 0.0, 0.5, 3.0].repeat(6),
        [2, 3, SIDE, SIDE],
        &host,
    )
    .unwrap();
    let output = |settings: &str, batch: &Batch| {
        let mut plugin: E2eFt = host.build(settings).unwrap();
        let at = OutputIn {
            batch: batch.clone(),
            latents: decoded.clone(),
            images: decoded.clamp(-1.0, 1.0).unwrap(),
            decoded: Some(decoded.clone()),
            names: Vec::new(),
        };
        plugin.output(&at, &host).unwrap()
    };
    let depth = output("{}", &batch);
    let kinds: Vec<_> = depth
        .iter()
        .map(|picture| (picture.kind.as_str(), picture.encoding))
        .collect();
    let expected = [
        ("", Encoding::COLORMAP),
        ("depth", Encoding::GRAY16),
        ("truth", Encoding::COLORMAP),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(values(&depth[1].images), [0.0, 0.5, 0.75, 1.0].repeat(2));
    let normals = output(r#"{"task": "normals"}"#, &batch);
    assert_eq!(
        (normals[0].kind.as_str(), normals[0].encoding),
        ("normals", Encoding::RGB)
    );
    // Before clamping all three parts are 3, and so they are one direction.
    let last = values(&normals[0].images)[3];
    assert!((last - 1.0 / 3f32.sqrt()).abs() < 1e-4, "{last}");
    batch.tensors.remove("depth");
    assert_eq!(output("{}", &batch).len(), 2);
}

#[test]
fn an_estimate_that_learnt_to_fall_with_depth_is_turned_round_when_it_is_shown_also_after_a_resume()
{
    let host = host();
    let mut plugin: E2eFt = host.build("{}").unwrap();
    let batch = plugin.batch(batch(&host), &host).unwrap();
    let shown = |plugin: &mut E2eFt| {
        let decoded = Tensor::from_slice(
            &[-1.0f32, 0.0, 0.5, 1.0].repeat(3),
            [1, 3, SIDE, SIDE],
            &host,
        );
        let decoded = decoded.unwrap();
        let at = OutputIn {
            batch: Batch::new(),
            latents: decoded.clone(),
            images: decoded.clone(),
            decoded: Some(decoded),
            names: Vec::new(),
        };
        values(&plugin.output(&at, &host).unwrap()[1].images)
    };
    assert_eq!(shown(&mut plugin), [0.0, 0.5, 0.75, 1.0]);
    // The truth rises from 0.2 to 0.8; the test host's estimate is the prediction turned round.
    let rising = Tensor::from_slice(
        &[0.1f32, 0.2, 0.0, 0.4].repeat(6),
        [2, 3, SIDE, SIDE],
        &host,
    );
    let rising = rising.unwrap().affine(1e-4, 0.0).unwrap();
    let none = rising.zeros_like().unwrap();
    let at = ObjectiveIn {
        batch,
        latents: none.clone(),
        noise: none.clone(),
        timesteps: Tensor::from_slice(&[999u32, 999], [2], &host).unwrap(),
        noisy_latents: none.clone(),
        prediction: rising,
        target: none,
        loss_mask: None,
    };
    plugin.objective(&at, &host).unwrap();
    assert_eq!(shown(&mut plugin), [1.0, 0.5, 0.25, 0.0]);

    let bytes = plugin.save().unwrap();
    let revision = E2eFt::REVISION;
    let mut resumed: E2eFt = host.build("{}").unwrap();
    resumed.load(SavedState { bytes, revision }, &host).unwrap();
    assert_eq!(shown(&mut resumed), [1.0, 0.5, 0.25, 0.0]);
    let short = SavedState {
        bytes: vec![1],
        revision,
    };
    resumed.load(short, &host).unwrap_err();
}

#[test]
fn what_an_estimate_shows_is_what_its_loss_saw() {
    let host = host();
    let long = Tensor::from_slice(
        &[0f32, 0.0, 0.0, 0.0, 3.0, 3.0, 3.0, 3.0, 4.0, 4.0, 4.0, 4.0],
        [1, 3, SIDE, SIDE],
        &host,
    );
    let long = long.unwrap();
    let after = |settings: &str| {
        let mut plugin: E2eFt = host.build(settings).unwrap();
        let at = SampleStepIn {
            batch: Batch::new(),
            latents: long.clamp(-1.0, 1.0).unwrap(),
            index: 0,
            steps: 1,
            timestep: 999.0,
            next_timestep: None,
            prediction: long.clone(),
            x0: long.clone(),
        };
        values(&plugin.sample_step(&at, &host).unwrap())
    };
    let normals = after(r#"{"task": "normals"}"#);
    assert!(
        (normals[4] - 0.6).abs() < 1e-4 && (normals[8] - 0.8).abs() < 1e-4,
        "{normals:?}"
    );
    assert_eq!(after("{}"), [1.0; 12]);
    assert_eq!(after(r#"{"objective": "diffusion"}"#)[8], 1.0);
    host.answer::<services::Backbone>(|_| {
        Ok(BackboneInfo {
            image_size: 8 * SIDE,
            ..backbone(3, 3)
        })
    });
    assert_eq!(after("{}"), values(&long));
}
