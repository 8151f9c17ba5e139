//! The plugin's hooks one by one, on the plugin crate's small test host: canvases and their crops, masks, and sampling that leaves the context alone.
#![allow(clippy::unwrap_used)]

use one_pic::{BLANK, CONTEXT, KNOWN, Layout, MASK, OnePic, SIDE_BY_SIDE, TARGET};
use plugin_api::hooks::{
    BatchHook, NoiseMaskHook, NoiseMaskIn, OutputHook, OutputIn, PrepareHook, SampleBegin,
    SampleBeginHook, SampleStepHook, SampleStepIn,
};
use plugin_api::services::{self, RunInfo, TensorOut};
use plugin_api::testing::TestHost;
use plugin_api::{Batch, DType, Error, Tensor};

/// Side of a tile in pixels.
const SIDE: usize = 2;

/// A host whose codec passes pictures through.
fn host() -> TestHost {
    let host = TestHost::new();
    host.answer::<services::Encode>(|at| Ok(TensorOut { tensor: at.tensor }));
    host
}

/// As [`host`], for a run whose batches have these columns.
fn host_with(columns: &[&str]) -> TestHost {
    let host = host();
    let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
    host.answer::<services::Run>(move |_| {
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
            columns: Some(columns.clone()),
            bucketing: None,
        })
    });
    host
}

fn layout(rows: &[&[&str]]) -> Layout {
    let row = |row: &&[&str]| row.iter().map(|name| (*name).to_owned()).collect();
    Layout::new(rows.iter().map(row).collect()).unwrap()
}

/// Pictures `[count, channels, side, side]` whose values all differ, from `start` on.
fn ramp(host: &TestHost, count: usize, channels: usize, side: usize, start: f32) -> Tensor {
    let values: Vec<f32> = (0..count * channels * side * side)
        .map(|at| start + at as f32 / 64.0)
        .collect();
    Tensor::from_slice(&values, [count, channels, side, side], host).unwrap()
}

fn values(tensor: &Tensor) -> Vec<f32> {
    tensor.to_vec().unwrap()
}

/// Two samples with an image, a source and a mask; the mask of the first has one pixel, that of the second none.
fn batch(host: &TestHost) -> Batch {
    let mut batch = Batch::new();
    batch.set("images", ramp(host, 2, 3, SIDE, 0.0));
    batch.set("source", ramp(host, 2, 3, SIDE, 10.0));
    let mask = [0.0f32, 0.6, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0];
    batch.set(
        "mask",
        Tensor::from_slice(&mask, [2, 1, SIDE, SIDE], host).unwrap(),
    );
    batch
}

#[test]
fn cropping_a_composed_canvas_gives_the_target_back_in_every_layout() {
    let host = host();
    let target = ramp(&host, 2, 3, 3, 0.0);
    for rows in [
        &[&["source", TARGET][..]][..],
        &[&[TARGET, "source"]],
        &[&["source"], &[TARGET]],
        &[&[TARGET]],
        &[&["a", "b"], &["c", TARGET]],
        &[&["a", TARGET, BLANK], &["b", "c", "d"]],
    ] {
        let layout = layout(rows);
        let other = ramp(&host, 2, 3, 3, 100.0);
        let canvas = layout
            .compose(|name| Ok(if name == TARGET { &target } else { &other }.clone()))
            .unwrap();
        let (high, wide) = (rows.len() * 3, rows[0].len() * 3);
        assert_eq!(canvas.dims(), [2, 3, high, wide]);
        let cropped = layout.crop(&canvas).unwrap();
        assert_eq!(values(&cropped), values(&target), "{rows:?}");
        let placed = layout.place(&target).unwrap();
        assert_eq!(placed.dims(), canvas.dims());
        assert_eq!(values(&layout.crop(&placed).unwrap()), values(&target));
        let total = |tensor: &Tensor| values(tensor).iter().sum::<f32>();
        assert_eq!(total(&placed), total(&target), "zeros elsewhere");
    }
}

#[test]
fn tiles_stand_where_the_layout_has_them() {
    let host = host();
    let layout = layout(&[&["a", "b"], &[TARGET, "c"]]);
    let flat = |name: &str| {
        let value = ["a", "b", TARGET, "c"]
            .iter()
            .position(|known| *known == name);
        Tensor::full(value.unwrap() as f64, [1, 1, 1, 1], DType::F32, &host)
    };
    assert_eq!(values(&layout.compose(flat).unwrap()), [0.0, 1.0, 2.0, 3.0]);
}

#[test]
fn layouts_that_make_no_canvas_are_refused() {
    let host = host_with(&["source"]);
    for (settings, problem) in [
        (r#"{"layout": []}"#, "the layout has no tiles"),
        (r#"{"layout": [[]]}"#, "the layout has no tiles"),
        (
            r#"{"layout": [["source", "target"], ["source"]]}"#,
            "row 2 of the layout has 1 tiles and the first has 2",
        ),
        (r#"{"layout": [["source"]]}"#, "0 tiles called `target`"),
        (
            r#"{"layout": [["target", "target"]]}"#,
            "2 tiles called `target`",
        ),
        (r#"{"layout": [["", "target"]]}"#, "has no name"),
        (r#"{"layout": [["target"]]}"#, "needs mask = \"image\""),
        (
            r#"{"layout": [["edges", "target"]]}"#,
            "the layout needs `edges`, but the data has only source",
        ),
        (r#"{"mask": "image"}"#, "the layout needs `mask`"),
    ] {
        let error = host.build::<OnePic>(settings).err().unwrap().to_string();
        assert!(error.contains(problem), "{settings}: {error}");
    }
    host.build::<OnePic>("{}").unwrap();
}

#[test]
fn a_canvas_that_the_backbone_does_not_take_is_refused_before_training() {
    let host = host_with(&["source"]);
    host.answer::<services::Backbone>(|_| Err(Error::msg("not asked for")));
    let mut plugin: OnePic = host.build("{}").unwrap();
    host.answer::<services::Backbone>(|_| Ok(backbone()));
    host.answer::<services::Denoise>(|at| {
        assert_eq!(at.latents.dims(), [1, 3, SIDE, 2 * SIDE]);
        Err(Error::msg("sides must be multiples of 4"))
    });
    let error = plugin.prepare(&host).unwrap_err().to_string();
    for part in [
        "1 x 2 tiles of 2 pixels",
        "2x4",
        "multiples of 4",
        "data.size",
    ] {
        assert!(error.contains(part), "{error}");
    }
}

fn backbone() -> services::BackboneInfo {
    services::BackboneInfo {
        architecture: "dit".into(),
        parameters: 0,
        in_channels: 3,
        out_channels: 3,
        latent_channels: 3,
        sample_size: SIDE,
        image_size: SIDE,
        num_classes: Some(3),
        null_class: Some(3),
        learned_variance: false,
        text: false,
        residual_sites: 0,
        fingerprint: String::new(),
    }
}

#[test]
fn a_batch_becomes_canvases_and_the_mask_covers_the_target_tile() {
    let host = host();
    let mut plugin: OnePic = host.build("{}").unwrap();
    let before = batch(&host);
    let after = plugin.batch(before.clone(), &host).unwrap();
    let canvas = after.images().unwrap();
    assert_eq!(canvas.dims(), [2, 3, SIDE, 2 * SIDE]);
    let [left, right] = [0, SIDE].map(|at| values(&canvas.narrow(3, at, SIDE).unwrap()));
    assert_eq!(left, values(before.get("source").unwrap()));
    assert_eq!(right, values(before.images().unwrap()));
    let row = [0.0, 0.0, 1.0, 1.0];
    assert_eq!(values(after.get(MASK).unwrap()), row.repeat(2 * SIDE));
}

#[test]
fn a_mask_picks_pixels_above_a_half_and_an_empty_one_means_the_whole_tile() {
    let host = host();
    let mut plugin: OnePic = host
        .build(r#"{"layout": [["target"]], "mask": "image"}"#)
        .unwrap();
    let after = plugin.batch(batch(&host), &host).unwrap();
    let mask = values(after.get(MASK).unwrap());
    assert_eq!(mask, [0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0]);
}

#[test]
fn a_latent_pixel_is_predicted_if_any_pixel_under_it_is() {
    let host = host();
    let mut plugin: OnePic = host.build("{}").unwrap();
    let mut mask = [0.0f32; 32];
    (mask[8 + 2], mask[3 * 8 + 7]) = (1.0, 1.0);
    let mut at = NoiseMaskIn {
        batch: Batch::new(),
        latents: Tensor::zeros([1, 4, 2, 4], DType::F32, &host).unwrap(),
        timesteps: Tensor::from_slice(&[0u32], [1], &host).unwrap(),
    };
    at.batch.set(
        MASK,
        Tensor::from_slice(&mask, [1, 1, 4, 8], &host).unwrap(),
    );
    let small = plugin.noise_mask(&at, &host).unwrap();
    assert_eq!(small.dims(), [1, 1, 2, 4]);
    assert_eq!(values(&small), [0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0]);
    at.latents = Tensor::zeros([1, 4, 3, 4], DType::F32, &host).unwrap();
    let error = plugin.noise_mask(&at, &host).unwrap_err().to_string();
    assert!(error.contains("3x4"), "{error}");
}

fn begin(host: &TestHost, batch: Batch) -> SampleBegin {
    SampleBegin {
        batch,
        latents: ramp(host, 2, 3, SIDE, 50.0),
        timesteps: vec![999.0, 0.0],
        guidance: 1.0,
        first: 0,
        seed: 0,
    }
}

#[test]
fn sampling_begins_with_the_drawn_noise_beside_a_clean_context_and_keeps_it_bit_for_bit() {
    let host = host();
    let mut plugin: OnePic = host.build("{}").unwrap();
    let source = batch(&host).get("source").unwrap().clone();
    let begun = plugin
        .sample_begin(begin(&host, batch(&host)), &host)
        .unwrap();
    let halves = |canvas: &Tensor| [0, SIDE].map(|at| values(&canvas.narrow(3, at, SIDE).unwrap()));
    let noise = values(&ramp(&host, 2, 3, SIDE, 50.0));
    assert_eq!(halves(&begun.latents), [values(&source), noise]);

    let stepped = ramp(&host, 2, 3, 4, -7.3).narrow(2, 0, SIDE).unwrap();
    let at = SampleStepIn {
        batch: begun.batch.clone(),
        latents: stepped.clone(),
        index: 0,
        steps: 2,
        timestep: 999.0,
        next_timestep: Some(0.0),
        prediction: stepped.clone(),
        x0: stepped.clone(),
    };
    let kept = plugin.sample_step(&at, &host).unwrap();
    assert_eq!(
        halves(&kept),
        [values(&source), halves(&stepped)[1].clone()]
    );
    // The target is no part of what is known.
    let zeros = vec![0.0; 2 * 3 * SIDE * SIDE];
    assert_eq!(halves(begun.batch.get(KNOWN).unwrap())[1], zeros);
    assert_eq!(halves(begun.batch.get(CONTEXT).unwrap())[1], zeros);
}

#[test]
fn inpainting_knows_the_image_but_for_its_hole() {
    let host = host();
    let mut plugin: OnePic = host
        .build(r#"{"layout": [["target"]], "mask": "image"}"#)
        .unwrap();
    let begun = plugin
        .sample_begin(begin(&host, batch(&host)), &host)
        .unwrap();
    let (image, noise) = (ramp(&host, 1, 3, SIDE, 0.0), ramp(&host, 1, 3, SIDE, 50.0));
    let (image, noise) = (values(&image), values(&noise));
    let first: Vec<f32> = (0..12)
        .map(|at| if at % 4 == 1 { noise[at] } else { image[at] })
        .collect();
    assert_eq!(values(&begun.latents)[..12], first);
    let known: Vec<f32> = (0..12)
        .map(|at| if at % 4 == 1 { 0.0 } else { image[at] })
        .collect();
    assert_eq!(values(begun.batch.get(KNOWN).unwrap())[..12], known);
}

#[test]
fn without_the_pictures_of_its_layout_sampling_says_what_is_missing() {
    let host = host();
    let mut plugin: OnePic = host.build("{}").unwrap();
    let mut inputs = batch(&host);
    inputs.tensors.remove("source");
    let error = plugin
        .sample_begin(begin(&host, inputs), &host)
        .unwrap_err();
    let error = error.to_string();
    assert!(
        error.contains("the layout needs `source`, but what is to be drawn from has only mask"),
        "{error}"
    );
}

#[test]
fn tiles_larger_than_the_backbones_pictures_are_refused_and_smaller_ones_drawn() {
    let host = host();
    let mut plugin: OnePic = host.build("{}").unwrap();
    let small = SampleBegin {
        latents: ramp(&host, 2, 3, 1, 50.0),
        ..begin(&host, batch(&host))
    };
    let error = plugin.sample_begin(small, &host).unwrap_err().to_string();
    assert!(error.contains("2x2") && error.contains("1x1"), "{error}");
    let large = SampleBegin {
        latents: ramp(&host, 2, 3, 3, 50.0),
        ..begin(&host, batch(&host))
    };
    let begun = plugin.sample_begin(large, &host).unwrap();
    assert_eq!(begun.latents.dims(), [2, 3, SIDE, 2 * SIDE]);
}

#[test]
fn the_output_is_the_target_tile_and_all_of_it_side_by_side() {
    let host = host();
    for (settings, shape) in [
        ("{}", [2, 3, SIDE, 3 * SIDE]),
        (
            r#"{"layout": [["source"], ["target"]]}"#,
            [2, 3, 2 * SIDE, 2 * SIDE],
        ),
        (
            r#"{"layout": [["target"]], "mask": "image"}"#,
            [2, 3, SIDE, 3 * SIDE],
        ),
    ] {
        let mut plugin: OnePic = host.build(settings).unwrap();
        let begun = plugin
            .sample_begin(begin(&host, batch(&host)), &host)
            .unwrap();
        let at = OutputIn {
            images: begun.latents.clone(),
            decoded: None,
            latents: begun.latents,
            batch: begun.batch,
            names: vec!["000000".into(), "000001".into()],
        };
        let pictures = plugin.output(&at, &host).unwrap();
        let kinds: Vec<&str> = pictures
            .iter()
            .map(|picture| picture.kind.as_str())
            .collect();
        assert_eq!(kinds, ["", SIDE_BY_SIDE]);
        assert_eq!(pictures[0].images.dims(), [2, 3, SIDE, SIDE]);
        assert_eq!(pictures[1].images.dims(), shape, "{settings}");
        // The truth stands in the upper right corner.
        let truth = pictures[1].images.narrow(2, 0, SIDE).unwrap();
        let truth = truth.narrow(3, shape[3] - SIDE, SIDE).unwrap();
        let image = values(&ramp(&host, 2, 3, SIDE, 0.0));
        let near = |a: &f32, b: &f32| (a - b).abs() < 1e-6;
        assert!(values(&truth).iter().zip(&image).all(|(a, b)| near(a, b)));
    }
}

#[test]
fn nothing_of_a_step_is_kept() {
    let host = host();
    let mut plugin: OnePic = host.build("{}").unwrap();
    drop(plugin.batch(batch(&host), &host).unwrap());
    drop(
        plugin
            .sample_begin(begin(&host, batch(&host)), &host)
            .unwrap(),
    );
    assert_eq!(host.live_tensors(), 0);
}
