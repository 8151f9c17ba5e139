//! The kinds of the lora plugin against PEFT: values and gradients, on the host's own tensors and tape.
//!
//! `tests/goldens/peft_layers.py` made the numbers.

use std::collections::BTreeMap;
use std::sync::Arc;

use candle_core::{Tensor, Var};
use host::ops::autograd::{Gradients, Recording};
use host::plugin::tensor_ops::{export, import};
use integration_tests::{goldens, tensors, values};
use lora::Lora;
use plugin_api::hooks::{LayerHook, PrepareHook};
use plugin_api::services::{self, LayersOut, TensorOut};
use plugin_api::testing::TestHost;
use plugin_api::{BackboneInfo, Conv2d, LayerInfo, LayerKind, Phase};

/// How PEFT's adapters were made, in our settings; `alpha` is 3 wherever there is one.
const CASES: &[(&str, &str)] = &[
    ("lora_linear", r#""rank": 4"#),
    ("lora_conv", r#""rank": 4"#),
    ("lora_linear_dropout", r#""rank": 4, "dropout": 0.25"#),
    ("rslora_linear", r#""rank": 4, "rslora": true"#),
    ("dora_linear", r#""rank": 4, "dora": true"#),
    ("dora_conv", r#""rank": 4, "dora": true"#),
    (
        "dora_linear_dropout",
        r#""rank": 4, "dora": true, "dropout": 0.25"#,
    ),
    (
        "dora_conv_dropout",
        r#""rank": 4, "dora": true, "dropout": 0.25"#,
    ),
    ("loha_linear", r#""kind": "loha", "rank": 4"#),
    ("loha_conv", r#""kind": "loha", "rank": 4"#),
    (
        "loha_conv_effective",
        r#""kind": "loha", "rank": 4, "effective_conv": true"#,
    ),
    ("lokr_linear", r#""kind": "lokr", "rank": 2"#),
    (
        "lokr_linear_both",
        r#""kind": "lokr", "rank": 2, "decompose_both": true"#,
    ),
    ("lokr_linear_whole", r#""kind": "lokr", "rank": 8"#),
    (
        "lokr_linear_factor",
        r#""kind": "lokr", "rank": 2, "decompose_factor": 2"#,
    ),
    ("lokr_conv", r#""kind": "lokr", "rank": 1"#),
    (
        "lokr_conv_effective",
        r#""kind": "lokr", "rank": 1, "effective_conv": true"#,
    ),
    ("lokr_conv_whole", r#""kind": "lokr", "rank": 8"#),
    ("ia3_linear", r#""kind": "ia3", "feedforward": []"#),
    (
        "ia3_linear_inputs",
        r#""kind": "ia3", "feedforward": ["layer"]"#,
    ),
    ("ia3_conv", r#""kind": "ia3", "feedforward": []"#),
    (
        "ia3_conv_inputs",
        r#""kind": "ia3", "feedforward": ["layer"]"#,
    ),
];

/// One adapted layer, in the host's tensors.
struct Rig {
    host: TestHost,
    lora: Lora,
    layer: LayerInfo,
    golden: BTreeMap<String, Tensor>,
    /// By PEFT's names below the layer; as the plugin was given them.
    parameters: Arc<BTreeMap<String, Var>>,
}

/// How the golden convolution moves: stride, padding, dilation, groups.
const MOVEMENT: [usize; 4] = [2, 1, 1, 1];

fn layer(weight: &Tensor) -> LayerInfo {
    let (outputs, inputs) = (weight.dims()[0], weight.dims()[1]);
    let (kind, conv) = match weight.rank() {
        4 => (LayerKind::CONV2D, MOVEMENT.to_vec()),
        _ => (LayerKind::LINEAR, Vec::new()),
    };
    LayerInfo {
        id: 0,
        path: "layer".to_owned(),
        kind,
        in_features: inputs,
        out_features: outputs,
        weight_shape: weight.dims().to_vec(),
        bias: true,
        conv,
    }
}

/// The plugin with the golden's parameters.
fn rig(case: &str, settings: &str) -> Rig {
    let golden: BTreeMap<String, Tensor> = tensors(&goldens("peft_layers.safetensors"))
        .into_iter()
        .filter_map(|(name, tensor)| {
            Some((name.strip_prefix(&format!("{case}/"))?.to_owned(), tensor))
        })
        .collect();
    let alpha = if settings.contains("ia3") {
        ""
    } else {
        r#""alpha": 3, "#
    };
    let settings = format!(r#"{{ {alpha}{settings}, "targets": ["layer"], "formats": ["peft"] }}"#);
    let parameters: BTreeMap<String, Var> = golden
        .iter()
        .filter_map(|(name, tensor)| {
            let part = name.strip_prefix("parameter.")?;
            Some((part.to_owned(), Var::from_tensor(tensor).unwrap()))
        })
        .collect();
    let parameters = Arc::new(parameters);
    let layer = layer(&golden["weight"]);

    let host = TestHost::new();
    let (known, described) = (parameters.clone(), layer.clone());
    host.answer::<services::Layers>(move |_| {
        Ok(LayersOut {
            layers: vec![described.clone()],
        })
    });
    host.answer::<services::Backbone>(|_| Ok(backbone()));
    host.answer::<services::Parameter>(move |asked| {
        let part = asked.name.strip_prefix("layer.").unwrap();
        let var = known
            .get(part)
            .unwrap_or_else(|| panic!("PEFT has no {part}"));
        assert_eq!(asked.shape, var.dims(), "{part}");
        Ok(TensorOut {
            tensor: export(var.as_tensor()),
        })
    });
    let (weight, bias) = (golden["weight"].clone(), golden["bias"].clone());
    host.answer::<services::CurrentWeight>(move |asked| {
        let tensor = match asked.name.as_str() {
            "layer.weight" => &weight,
            "layer.bias" => &bias,
            other => panic!("asked for {other}"),
        };
        Ok(TensorOut {
            tensor: export(tensor),
        })
    });
    if let Some(uniform) = golden.get("uniform").cloned() {
        host.answer::<services::RandomNumbers>(move |asked| {
            assert_eq!(
                (asked.kind.as_str(), asked.shape.as_slice()),
                ("uniform", uniform.dims())
            );
            Ok(TensorOut {
                tensor: export(&uniform),
            })
        });
    }
    let mut lora: Lora = host.build(&settings).unwrap();
    lora.prepare(&host).unwrap();
    Rig {
        host,
        lora,
        layer,
        golden,
        parameters,
    }
}

fn backbone() -> BackboneInfo {
    BackboneInfo {
        architecture: "dit".to_owned(),
        parameters: 0,
        in_channels: 4,
        out_channels: 4,
        latent_channels: 4,
        sample_size: 8,
        image_size: 8,
        num_classes: None,
        null_class: None,
        learned_variance: false,
        text: false,
        residual_sites: 0,
        fingerprint: String::new(),
    }
}

impl Rig {
    /// What the adapted layer makes of `x`.
    fn forward(&mut self, x: &Tensor) -> Tensor {
        let [weight, bias] = ["weight", "bias"].map(|name| export(&self.golden[name]));
        let input = export(x);
        let [stride, padding, dilation, groups] = MOVEMENT;
        let output = match self.layer.kind {
            LayerKind::CONV2D => input.conv2d(
                &weight,
                Some(&bias),
                Conv2d {
                    stride,
                    padding,
                    dilation,
                    groups,
                },
            ),
            _ => input.linear(&weight, Some(&bias)),
        };
        let adapted = self
            .lora
            .layer(&self.layer, &input, output.unwrap(), &self.host);
        import(&adapted.unwrap()).unwrap()
    }
}

#[track_caller]
fn assert_close(what: &str, ours: &Tensor, theirs: &Tensor) {
    assert_eq!(ours.dims(), theirs.dims(), "{what}");
    let (ours, theirs) = (values(ours), values(theirs));
    let size = theirs
        .iter()
        .fold(1e-3f32, |size, value| size.max(value.abs()));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let error = (ours - theirs).abs() / size;
        assert!(error < 2e-6, "{what}: {ours} and {theirs}");
    }
}

fn gradient(gradients: &mut Gradients, var: &Var) -> Tensor {
    gradients.remove(var.as_tensor()).unwrap()
}

#[test]
fn every_kind_gives_what_peft_gives_and_has_its_gradients() {
    for (case, settings) in CASES {
        let mut rig = rig(case, settings);
        let x = Var::from_tensor(&rig.golden["x"]).unwrap();
        let recording = Recording::start();
        let y = rig.forward(x.as_tensor());
        assert_close(&format!("{case}: y"), &y, &rig.golden["y"]);
        let loss = (y * &rig.golden["weights"]).unwrap().sum_all().unwrap();
        let mut gradients = recording.backward(&loss).unwrap();
        assert_close(
            &format!("{case}: x"),
            &gradient(&mut gradients, &x),
            &rig.golden["grad.x"],
        );
        assert!(!rig.parameters.is_empty());
        for (part, var) in rig.parameters.iter() {
            let theirs = &rig.golden[&format!("grad.{part}")];
            assert_close(
                &format!("{case}: {part}"),
                &gradient(&mut gradients, var),
                theirs,
            );
        }
    }
}

#[test]
fn dropout_is_for_training_alone() {
    for case in ["lora_linear_dropout", "dora_conv_dropout"] {
        let settings = CASES.iter().find(|(name, _)| name == &case).unwrap().1;
        let mut rig = rig(case, settings);
        let x = rig.golden["x"].clone();
        let trained = values(&rig.forward(&x));
        rig.host = rig.host.at(3, Phase::SAMPLE);
        // Numbers are drawn for nothing but training.
        rig.host
            .answer::<services::RandomNumbers>(|_| panic!("drew random numbers"));
        assert_ne!(values(&rig.forward(&x)), trained, "{case}");
    }
}
