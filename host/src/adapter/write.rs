//! Updates in the formats that other programs read: diffusers, PEFT, kohya and LyCORIS.
//!
//! Alpha is written so that `alpha / rank` is the update's scale, whatever rule made that, so every reader computes the same.

use std::collections::BTreeMap;

use candle_core::Tensor;
use serde_json::{Map, Value, json};

use super::keys::{LORA_BIAS, MAGNITUDE};
use super::{Kind, LayerUpdate};
use crate::backbone::ldm::UnetNames;
use crate::backbone::{LayerInfo, LayerKind};

/// A format of adapter files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `pytorch_lora_weights.safetensors`, PEFT's configuration in its header.
    Diffusers,
    /// `adapter_model.safetensors` and `adapter_config.json`.
    Peft,
    /// kohya's and LyCORIS's names, `_` for every dot of a path, an alpha for each layer.
    Kohya,
}

impl Format {
    /// The name of its file of tensors.
    pub fn file(self) -> &'static str {
        match self {
            Self::Diffusers => "pytorch_lora_weights.safetensors",
            Self::Peft => "adapter_model.safetensors",
            Self::Kohya => "adapter.safetensors",
        }
    }
}

/// A file to write.
#[derive(Clone, Debug)]
pub struct Written {
    /// Its name.
    pub file: &'static str,
    /// Tensors by the format's keys.
    pub tensors: BTreeMap<String, Tensor>,
    /// Texts of its header.
    pub metadata: BTreeMap<String, String>,
    /// A text file beside it: name and content.
    pub text: Option<(&'static str, String)>,
}

/// Writes updates of these layers in a format; `part` is the folder of a pipeline that holds their network.
///
/// # Errors
/// A sentence about what the format cannot say: more than one method in a file, or a method that it has no names for.
pub fn write(
    updates: &[LayerUpdate],
    layers: &[LayerInfo],
    part: &str,
    format: Format,
) -> Result<Written, String> {
    match format {
        Format::Kohya => kohya(updates, layers),
        Format::Peft => {
            let (config, tensors) = peft(updates, layers)?;
            Ok(Written {
                file: format.file(),
                tensors: prefixed("base_model.model.", tensors),
                metadata: BTreeMap::new(),
                text: Some((
                    "adapter_config.json",
                    format!("{:#}\n", Value::Object(config)),
                )),
            })
        }
        Format::Diffusers => {
            let (config, tensors) = peft(updates, layers)?;
            if config["peft_type"] != "LORA" {
                return Err(format!(
                    "diffusers' adapter files hold LoRA and DoRA, not {}; take --format peft",
                    config["peft_type"]
                ));
            }
            let config: Map<String, Value> = config
                .into_iter()
                .map(|(key, value)| (format!("{part}.{key}"), value))
                .collect();
            let text = Value::Object(config).to_string();
            Ok(Written {
                file: format.file(),
                tensors: prefixed(&format!("{part}."), tensors),
                metadata: BTreeMap::from([("lora_adapter_metadata".to_owned(), text)]),
                text: None,
            })
        }
    }
}

fn prefixed(prefix: &str, tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    tensors
        .into_iter()
        .map(|(key, tensor)| (format!("{prefix}{key}"), tensor))
        .collect()
}

/// A configuration, and tensors by their keys.
type PeftAdapter = (Map<String, Value>, BTreeMap<String, Tensor>);

/// PEFT's configuration, and the tensors under the layers' paths.
fn peft(updates: &[LayerUpdate], layers: &[LayerInfo]) -> Result<PeftAdapter, String> {
    let mut kinds: Vec<Kind> = Vec::new();
    for update in updates {
        if !kinds.contains(&update.kind) {
            kinds.push(update.kind);
        }
    }
    let &[kind] = kinds.as_slice() else {
        let names: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
        return Err(format!(
            "one PEFT adapter is of one method, not of {}; take --format kohya",
            names.join(" and ")
        ));
    };
    let has = |part: &str| {
        updates
            .iter()
            .any(|update| update.tensors.contains_key(part))
    };
    if kind == Kind::Full || has("lora_mid") || has("weight") || has("bias") {
        return Err("it replaces weights or biases of the network or is in a form that PEFT lacks; export the pipeline instead".to_owned());
    }
    if kind != Kind::Lora && has(MAGNITUDE) {
        return Err(format!("PEFT has no magnitudes for {}", kind.name()));
    }
    let paths: Vec<&str> = updates.iter().map(|update| update.path.as_str()).collect();
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| drop(config.insert(key.to_owned(), value));
    set("peft_type", json!(kind.name().to_uppercase()));
    set("task_type", Value::Null);
    set("base_model_name_or_path", Value::Null);
    set("inference_mode", json!(true));
    set("target_modules", json!(paths));
    if kind == Kind::Ia3 {
        let feedforward: Vec<&str> = updates
            .iter()
            .filter(|update| update.tensors.contains_key("ia3_l_inputs"))
            .map(|update| update.path.as_str())
            .collect();
        set("feedforward_modules", json!(feedforward));
    } else {
        let rank = most(updates.iter().map(|update| update.rank.max(1)));
        let alpha = most(
            updates
                .iter()
                .map(|update| effective_alpha(update).to_bits()),
        );
        let alpha = f64::from_bits(alpha);
        let ranks: Map<String, Value> = updates
            .iter()
            .filter(|update| update.rank.max(1) != rank)
            .map(|update| (update.path.clone(), json!(update.rank.max(1))))
            .collect();
        let alphas: Map<String, Value> = updates
            .iter()
            .filter(|update| effective_alpha(update) != alpha)
            .map(|update| (update.path.clone(), json!(effective_alpha(update))))
            .collect();
        set("r", json!(rank));
        let key = if kind == Kind::Lora {
            "lora_alpha"
        } else {
            "alpha"
        };
        set(key, json!(alpha));
        set("rank_pattern", Value::Object(ranks));
        set("alpha_pattern", Value::Object(alphas));
    }
    match kind {
        Kind::Lora => {
            set("lora_dropout", json!(0.0));
            set("bias", json!("none"));
            set("use_dora", json!(has(MAGNITUDE)));
            set("lora_bias", json!(has(LORA_BIAS)));
        }
        Kind::Loha => set("use_effective_conv2d", json!(has("hada_t1"))),
        Kind::Lokr => {
            set("use_effective_conv2d", json!(has("lokr_t2")));
            set("decompose_both", json!(has("lokr_w1_a")));
            set("decompose_factor", json!(decompose_factor(updates)));
        }
        Kind::Ia3 | Kind::Full => {}
    }
    let mut tensors = BTreeMap::new();
    for update in updates {
        let layer = layers.iter().find(|layer| layer.path == update.path);
        let is_conv = layer.is_some_and(|layer| layer.kind == LayerKind::Conv2d);
        for (&part, tensor) in &update.tensors {
            let (key, tensor) =
                peft_part(part, tensor, is_conv).map_err(|error| error.to_string())?;
            tensors.insert(format!("{}.{key}", update.path), tensor);
        }
    }
    Ok((config, tensors))
}

/// A part's key and its shape as PEFT's layers have it.
fn peft_part(part: &str, tensor: &Tensor, is_conv: bool) -> candle_core::Result<(String, Tensor)> {
    let count = tensor.elem_count();
    Ok(match (part, is_conv) {
        ("lora_A" | "lora_B", _) => (format!("{part}.weight"), tensor.clone()),
        (MAGNITUDE | "ia3_l" | "ia3_l_inputs", true) => (
            part.trim_end_matches("_inputs").to_owned(),
            tensor.reshape((1, count, 1, 1))?,
        ),
        ("ia3_l", false) => (part.to_owned(), tensor.reshape((count, 1))?),
        ("ia3_l_inputs", false) => ("ia3_l".to_owned(), tensor.reshape((1, count))?),
        _ => (part.to_owned(), tensor.clone()),
    })
}

/// The factor by which PEFT splits both sides of every layer alike; -1 is as near to a square as there is.
fn decompose_factor(updates: &[LayerUpdate]) -> i64 {
    let sides = updates.iter().filter_map(|update| {
        let rows = |tensor: &Tensor| tensor.dims().first().copied();
        let columns = |tensor: &Tensor| tensor.dims().get(1).copied();
        let get = |part: &str| update.tensors.get(part);
        match get("lokr_w1") {
            Some(whole) => Some((rows(whole)?, columns(whole)?)),
            None => Some((rows(get("lokr_w1_a")?)?, columns(get("lokr_w1_b")?)?)),
        }
    });
    let mut factors: Vec<usize> = sides.flat_map(|(rows, columns)| [rows, columns]).collect();
    factors.dedup();
    match factors.as_slice() {
        [factor] => *factor as i64,
        _ => -1,
    }
}

/// What kohya's tools call layers: those of Stable Diffusion XL as the original code does, all others as diffusers does, with `_` for every dot.
struct KohyaNames(Option<UnetNames>);

impl KohyaNames {
    fn of(layers: &[LayerInfo]) -> Self {
        let is_xl = layers
            .iter()
            .any(|layer| layer.path.starts_with("add_embedding."));
        Self(UnetNames::of(layers).filter(|_| is_xl))
    }

    fn module(&self, path: &str) -> String {
        let original = self.0.as_ref().and_then(|names| names.original(path));
        plain_module(original.as_deref().unwrap_or(path))
    }
}

fn plain_module(path: &str) -> String {
    format!("lora_unet_{}", path.replace('.', "_"))
}

/// Tensors in kohya's names, those of diffusers' paths under the names that kohya's tools read; all others as they are.
pub fn kohya_named(
    tensors: BTreeMap<String, Tensor>,
    layers: &[LayerInfo],
) -> BTreeMap<String, Tensor> {
    let names = KohyaNames::of(layers);
    if names.0.is_none() {
        return tensors;
    }
    let modules: BTreeMap<String, String> = (layers.iter())
        .map(|layer| (plain_module(&layer.path), names.module(&layer.path)))
        .collect();
    let renamed = tensors.into_iter().map(|(key, tensor)| {
        let known = key
            .split_once('.')
            .and_then(|(module, rest)| Some(format!("{}.{rest}", modules.get(module)?)));
        (known.unwrap_or(key), tensor)
    });
    renamed.collect()
}

fn kohya(updates: &[LayerUpdate], layers: &[LayerInfo]) -> Result<Written, String> {
    let names = KohyaNames::of(layers);
    let mut tensors = BTreeMap::new();
    for update in updates {
        let module = names.module(&update.path);
        // LyCORIS multiplies a product of two whole factors by nothing.
        let whole =
            update.tensors.contains_key("lokr_w1") && update.tensors.contains_key("lokr_w2");
        for (&part, tensor) in &update.tensors {
            let mut tensor = tensor.clone();
            let key = match part {
                "lora_A" => "lora_down.weight",
                "lora_B" => "lora_up.weight",
                "lora_mid" => "lora_mid.weight",
                MAGNITUDE => {
                    tensor = tensor.unsqueeze(1).map_err(|error| error.to_string())?;
                    "dora_scale"
                }
                part if part.starts_with("hada_") || part.starts_with("lokr_") => part,
                part => {
                    return Err(format!(
                        "kohya's format has no name for `{part}` of `{}`; take --format peft",
                        update.path
                    ));
                }
            };
            if whole && part == "lokr_w1" {
                tensor = (tensor * update.scale).map_err(|error| error.to_string())?;
            }
            tensors.insert(format!("{module}.{key}"), tensor);
        }
        let alpha = match whole {
            true => update.rank.max(1) as f32,
            false => effective_alpha(update) as f32,
        };
        let alpha =
            Tensor::new(alpha, &candle_core::Device::Cpu).map_err(|error| error.to_string())?;
        tensors.insert(format!("{module}.alpha"), alpha);
    }
    Ok(Written {
        file: Format::Kohya.file(),
        tensors,
        metadata: BTreeMap::new(),
        text: None,
    })
}

/// The alpha of which `alpha / rank` is the scale.
fn effective_alpha(update: &LayerUpdate) -> f64 {
    let alpha = update.scale * update.rank.max(1) as f64;
    // `6 / 4 * 4` in binary may miss 6 by its last digit, which nobody wants to read in a configuration.
    match (alpha - update.alpha).abs() < 1e-9 * alpha.abs() {
        true => update.alpha,
        false => alpha,
    }
}

/// The value that occurs most often, the first of several.
fn most<T: Eq + Copy + Default>(values: impl Iterator<Item = T>) -> T {
    let mut counts: Vec<(T, usize)> = Vec::new();
    for value in values {
        match counts.iter_mut().find(|(known, _)| *known == value) {
            Some((_, count)) => *count += 1,
            None => counts.push((value, 1)),
        }
    }
    let mut best = (T::default(), 0);
    for (value, count) in counts {
        if count > best.1 {
            best = (value, count);
        }
    }
    best.0
}
