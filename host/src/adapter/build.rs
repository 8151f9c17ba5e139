//! From the parts that a file has for a layer to the update that they mean: every part is there, and every shape fits the layer.

use std::collections::BTreeMap;
use std::path::Path;

use candle_core::Tensor;

use super::config::PeftConfig;
use super::error::Error;
use super::file::Parts;
use super::keys::{ALPHA, LORA_BIAS, MAGNITUDE};
use super::{Kind, LayerUpdate};
use crate::backbone::{LayerInfo, LayerKind};

/// A layer and what a file says about it.
pub(super) struct Builder<'a> {
    pub(super) file: &'a Path,
    pub(super) config: &'a PeftConfig,
    pub(super) layer: &'a LayerInfo,
}

impl Builder<'_> {
    /// The update that the parts mean.
    ///
    /// # Errors
    /// A part that is missing, too much, or of a shape that does not fit.
    pub(super) fn build(&self, parts: &Parts) -> Result<LayerUpdate, Error> {
        let given = &parts.tensors;
        let any = |names: &[&str]| {
            given
                .keys()
                .any(|part| names.iter().any(|name| part.starts_with(name)))
        };
        let kinds = [
            (
                Kind::Lora,
                any(&["lora_A", "lora_B", "lora_embedding", "lora_mid"]),
            ),
            (Kind::Loha, any(&["hada_"])),
            (Kind::Lokr, any(&["lokr_"])),
            (Kind::Ia3, any(&["ia3_l"])),
        ];
        let mut present = kinds
            .iter()
            .filter(|(_, present)| *present)
            .map(|(kind, _)| *kind);
        let full = self.full(given)?;
        let kind = match (present.next(), present.next()) {
            (Some(kind), None) => kind,
            (Some(one), Some(other)) => {
                let (one, other) = (one.name(), other.name());
                return Err(self.problem(format!("has parts of both {one} and {other}")));
            }
            (None, _) if !full.is_empty() => Kind::Full,
            (None, _) => {
                return Err(self.problem(
                    "has an alpha or magnitudes and nothing that they belong to".to_owned(),
                ));
            }
        };
        let (rank, mut tensors) = match kind {
            Kind::Lora if self.layer.kind == LayerKind::Embedding => self.embedding(given)?,
            Kind::Lora => self.lora(given)?,
            Kind::Loha => self.loha(given)?,
            Kind::Lokr => self.lokr(given)?,
            Kind::Ia3 => (0, self.ia3(given)?),
            Kind::Full => (0, BTreeMap::new()),
        };
        // PEFT may train the bias of an adapted layer itself.
        tensors.extend(full);
        let mut update = LayerUpdate {
            path: self.layer.path.clone(),
            kind,
            rank,
            alpha: rank as f64,
            scale: 1.0,
            tensors,
        };
        if rank > 0 {
            update.alpha = match given.get(ALPHA) {
                Some(alpha) => f64::from(alpha.flatten_all()?.get(0)?.to_scalar::<f32>()?),
                None => self.config.alpha(&self.layer.path).unwrap_or(rank as f64),
            };
            update.scale = match self.config.rslora && kind == Kind::Lora {
                true => update.alpha / (rank as f64).sqrt(),
                false => update.alpha / rank as f64,
            };
        }
        if let Some(magnitude) = given.get(MAGNITUDE) {
            update.tensors.insert(MAGNITUDE, self.magnitude(magnitude)?);
        }
        Ok(update)
    }

    fn lora(&self, given: &Given) -> Result<Made, Error> {
        let (a, b) = (self.get(given, "lora_A")?, self.get(given, "lora_B")?);
        let (outputs, inputs) = self.sides();
        let rank = b.elem_count() / outputs.max(1);
        if b.dims().first() != Some(&outputs) || b.elem_count() != outputs * rank || rank == 0 {
            return Err(self.shape("lora_B", b, format!("[{outputs}, rank]")));
        }
        let mut tensors = BTreeMap::new();
        let (_, weight) = self.layer.weight();
        match given.get("lora_mid") {
            // LyCORIS's Tucker form: the kernel is in the middle, both ends are 1x1.
            Some(mid) => {
                let kernel = &weight[2..];
                let inner = a.dims().first().copied().unwrap_or_default();
                let core = [&[rank, inner], kernel].concat();
                if kernel.is_empty() || mid.dims() != core {
                    return Err(self.shape("lora_mid", mid, format!("{core:?}")));
                }
                if a.elem_count() != inner * weight[1] {
                    return Err(self.shape("lora_A", a, format!("[rank, {}]", weight[1])));
                }
                tensors.insert("lora_mid", mid.clone());
                tensors.insert("lora_A", a.reshape((inner, weight[1]))?);
                tensors.insert("lora_B", b.reshape((outputs, rank))?);
            }
            None => {
                if a.dims().first() != Some(&rank) || a.elem_count() != rank * inputs {
                    return Err(self.shape("lora_A", a, format!("[{rank}, {inputs}]")));
                }
                let ones = vec![1; weight.len() - 2];
                tensors.insert("lora_A", a.reshape([&[rank], &weight[1..]].concat())?);
                tensors.insert(
                    "lora_B",
                    b.reshape([&[outputs, rank], ones.as_slice()].concat())?,
                );
            }
        }
        if let Some(bias) = given.get(LORA_BIAS) {
            if !self.layer.bias || bias.elem_count() != outputs {
                let expected = match self.layer.bias {
                    true => format!("[{outputs}]"),
                    false => "no bias".to_owned(),
                };
                return Err(self.shape(LORA_BIAS, bias, expected));
            }
            tensors.insert(LORA_BIAS, bias.flatten_all()?);
        }
        Ok((rank, tensors))
    }

    fn embedding(&self, given: &Given) -> Result<Made, Error> {
        let (a, b) = (
            self.get(given, "lora_embedding_A")?,
            self.get(given, "lora_embedding_B")?,
        );
        let (rows, width) = (self.layer.in_features, self.layer.out_features);
        let rank = b.dims().get(1).copied().unwrap_or_default();
        if b.dims() != [width, rank] || rank == 0 {
            return Err(self.shape("lora_embedding_B", b, format!("[{width}, rank]")));
        }
        if a.dims() != [rank, rows] {
            return Err(self.shape("lora_embedding_A", a, format!("[{rank}, {rows}]")));
        }
        if given.contains_key(MAGNITUDE) {
            return Err(self.problem("is DoRA of an embedding, which is not read".to_owned()));
        }
        let tensors = [
            ("lora_embedding_A", a.clone()),
            ("lora_embedding_B", b.clone()),
        ];
        Ok((rank, BTreeMap::from(tensors)))
    }

    fn loha(&self, given: &Given) -> Result<Made, Error> {
        let (outputs, inputs) = self.sides();
        let (_, weight) = self.layer.weight();
        let tucker = given.contains_key("hada_t1") || given.contains_key("hada_t2");
        let mut tensors = BTreeMap::new();
        let mut rank = 0;
        for (a, b, t) in [
            ("hada_w1_a", "hada_w1_b", "hada_t1"),
            ("hada_w2_a", "hada_w2_b", "hada_t2"),
        ] {
            let (left, right) = (self.get(given, a)?, self.get(given, b)?);
            rank = right.dims().first().copied().unwrap_or_default();
            let (of_left, of_right) = match tucker {
                true => ([rank, outputs], [rank, weight[1]]),
                false => ([outputs, rank], [rank, inputs]),
            };
            if left.dims() != of_left {
                return Err(self.shape(a, left, format!("{of_left:?}")));
            }
            if right.dims() != of_right {
                return Err(self.shape(b, right, format!("{of_right:?}")));
            }
            if tucker {
                tensors.insert(t, self.core(given, t, rank)?);
            }
            tensors.insert(a, left.clone());
            tensors.insert(b, right.clone());
        }
        Ok((rank, tensors))
    }

    fn lokr(&self, given: &Given) -> Result<Made, Error> {
        let (outputs, inputs) = self.sides();
        let (_, weight) = self.layer.weight();
        let mut tensors = BTreeMap::new();
        let mut rank = None;
        // Rows and columns of each factor; the kernel is in the second one's columns.
        let mut sides = [(0, 0); 2];
        let factors = [
            ("lokr_w1", "lokr_w1_a", "lokr_w1_b"),
            ("lokr_w2", "lokr_w2_a", "lokr_w2_b"),
        ];
        for (side, (whole, a, b)) in sides.iter_mut().zip(factors) {
            if let Some(factor) = given.get(whole) {
                let rows = factor.dims().first().copied().unwrap_or(1);
                *side = (rows, factor.elem_count() / rows.max(1));
                tensors.insert(whole, factor.clone());
                continue;
            }
            let (left, right) = (self.get(given, a)?, self.get(given, b)?);
            let inner = right.dims().first().copied().unwrap_or_default();
            rank = Some(inner);
            let tucker = whole == "lokr_w2" && given.contains_key("lokr_t2");
            let of_left = left.dims().get(usize::from(!tucker)).copied();
            if left.rank() != 2 || right.rank() != 2 || of_left != Some(inner) {
                return Err(self.shape(
                    a,
                    left,
                    format!("two dimensions, one of them {inner}, the first of `{b}`"),
                ));
            }
            let (rows, columns) = (left.dim(usize::from(tucker))?, right.dim(1)?);
            *side = match tucker {
                true => {
                    tensors.insert("lokr_t2", self.core(given, "lokr_t2", inner)?);
                    (rows, columns * inputs / weight[1].max(1))
                }
                false => (rows, columns),
            };
            tensors.insert(a, left.clone());
            tensors.insert(b, right.clone());
        }
        let [one, two] = sides;
        if (one.0 * two.0, one.1 * two.1) != (outputs, inputs) {
            return Err(self.problem(format!(
                "is a product of {} x {} and {} x {}, but the layer's weight is {weight:?}",
                one.0, one.1, two.0, two.1
            )));
        }
        // A product of two whole factors has no rank of its own: PEFT multiplies by what its configuration says, LyCORIS by 1.
        let rank = self.config.rank(&self.layer.path).or(rank).unwrap_or(0);
        Ok((rank, tensors))
    }

    fn ia3(&self, given: &Given) -> Result<Tensors, Error> {
        let scales = self.get(given, "ia3_l")?;
        let (outputs, inputs) = match self.layer.kind {
            LayerKind::Embedding => {
                return Err(self.problem("is (IA)³ of an embedding, which is not read".to_owned()));
            }
            _ => (self.layer.out_features, self.layer.in_features),
        };
        let count = scales.elem_count();
        // PEFT writes `[O, 1]` and `[1, I]` for linear layers; for a convolution as wide as deep only the configuration tells.
        let of_inputs = match (self.layer.kind, scales.dims()) {
            (LayerKind::Linear, [1, count]) if *count == inputs && (inputs > 1 || outputs == 1) => {
                true
            }
            (LayerKind::Linear, [count, 1]) if *count == outputs => false,
            _ if inputs == outputs => self.config.is_feedforward(&self.layer.path),
            _ => count == inputs,
        };
        let (part, expected) = match of_inputs {
            true => ("ia3_l_inputs", inputs),
            false => ("ia3_l", outputs),
        };
        if count != expected {
            return Err(self.shape(
                "ia3_l",
                scales,
                format!("{outputs} numbers for its outputs or {inputs} for its inputs"),
            ));
        }
        Ok(BTreeMap::from([(part, scales.flatten_all()?)]))
    }

    fn full(&self, given: &Given) -> Result<Tensors, Error> {
        let known = self.layer.parameters();
        let mut tensors = BTreeMap::new();
        for (&part, tensor) in given
            .iter()
            .filter(|(part, _)| matches!(**part, "weight" | "bias"))
        {
            let shape = known
                .iter()
                .find(|(name, _)| name.ends_with(part))
                .map(|(_, shape)| shape);
            match shape {
                Some(shape) if tensor.dims() == shape.as_slice() => {
                    tensors.insert(part, tensor.clone())
                }
                Some(shape) => return Err(self.shape(part, tensor, format!("{shape:?}"))),
                None => return Err(self.shape(part, tensor, "none".to_owned())),
            };
        }
        Ok(tensors)
    }

    /// DoRA's magnitudes, one an output. LyCORIS can also have one an input, in a file that looks the same but for this shape.
    fn magnitude(&self, given: &Tensor) -> Result<Tensor, Error> {
        let outputs = self.layer.out_features;
        let by_input = given.rank() == 2 && given.dims()[0] == 1 && outputs > 1;
        if given.elem_count() != outputs || by_input {
            return Err(self.shape(
                MAGNITUDE,
                given,
                format!("{outputs} magnitudes, one an output"),
            ));
        }
        Ok(given.flatten_all()?)
    }

    /// The core of a Tucker form, `[r, r, KH, KW]`.
    fn core(&self, given: &Given, part: &'static str, rank: usize) -> Result<Tensor, Error> {
        let core = self.get(given, part)?;
        let (_, weight) = self.layer.weight();
        let expected = [&[rank, rank], &weight[2..]].concat();
        match weight.len() == 4 && core.dims() == expected {
            true => Ok(core.clone()),
            false => Err(self.shape(part, core, format!("{expected:?}"))),
        }
    }

    /// Outputs, and the numbers that each output multiplies.
    fn sides(&self) -> (usize, usize) {
        let (_, weight) = self.layer.weight();
        (weight[0], weight[1..].iter().product())
    }

    fn get<'t>(&self, given: &'t Given, part: &str) -> Result<&'t Tensor, Error> {
        given.get(part).ok_or_else(|| {
            let there: Vec<&str> = given.keys().copied().collect();
            self.problem(format!("lacks `{part}`: it has {}", there.join(", ")))
        })
    }

    fn problem(&self, problem: String) -> Error {
        Error::Parts {
            path: self.file.to_owned(),
            layer: self.layer.path.clone(),
            problem,
        }
    }

    fn shape(&self, part: &str, found: &Tensor, expected: String) -> Error {
        let (_, weight) = self.layer.weight();
        Error::Shape {
            path: self.file.to_owned(),
            key: format!("{}.{part}", self.layer.path),
            expected: format!("`{} {weight:?}` takes {expected}", self.layer.path),
            found: found.dims().to_vec(),
        }
    }
}

/// Tensors as a file has them.
type Given = BTreeMap<&'static str, Tensor>;
/// Tensors that fit.
type Tensors = BTreeMap<&'static str, Tensor>;
/// A rank and the tensors that fit.
type Made = (usize, Tensors);
