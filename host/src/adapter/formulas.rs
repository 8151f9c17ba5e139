//! What an update makes of its layer's weight and bias: PEFT's formulas, in f32.

use candle_core::{Result, Tensor, bail};

use super::keys::{LORA_BIAS, MAGNITUDE};
use super::{Kind, LayerUpdate};

impl LayerUpdate {
    /// The layer's weight with the update merged in.
    ///
    /// With `s = strength * scale`: `W + s B A` (LoRA), `W + s (A1 B1) * (A2 B2)` (LoHa), `W + s (W1 kron W2)` (LoKr); with magnitudes `m` (DoRA) each row of that is
    /// brought to the norm `m`. (IA)³ multiplies rows or columns by `1 + strength (l - 1)`, and a replaced weight `V` gives `W + strength (V - W)`.
    ///
    /// # Shapes
    /// `weight` is f32 and as the backbone has it; so is the result.
    ///
    /// # Errors
    /// A device that fails.
    pub fn weight(&self, weight: &Tensor, strength: f64) -> Result<Tensor> {
        self.weight_over(weight, weight, strength)
    }

    /// As [`LayerUpdate::weight`] for a weight that other adapters have changed already, from `base`, beside which this update was trained: DoRA's norms are of
    /// `base + s B A`.
    ///
    /// # Errors
    /// A device that fails.
    pub fn weight_over(&self, weight: &Tensor, base: &Tensor, strength: f64) -> Result<Tensor> {
        let weight = &self.replaced("weight", weight, strength)?;
        if self.kind == Kind::Ia3 {
            return self.scaled(weight, strength);
        }
        let delta = self.delta()?;
        let added = |weight: &Tensor| match &delta {
            Some(delta) => weight + (delta.reshape(weight.shape())? * (strength * self.scale))?,
            None => Ok(weight.clone()),
        };
        match self.tensors.get(MAGNITUDE) {
            None => added(weight),
            Some(magnitude) => {
                let rows = added(base)?.flatten_from(1)?; // [O, I]
                let norm = rows.sqr()?.sum_keepdim(1)?.sqrt()?; // [O, 1]
                let factor = magnitude.unsqueeze(1)?.div(&norm)?; // [O, 1]
                added(weight)?
                    .flatten_from(1)?
                    .broadcast_mul(&factor)?
                    .reshape(weight.shape())
            }
        }
    }

    /// The layer's bias with the update merged in; most updates leave it as it is.
    ///
    /// # Errors
    /// A device that fails.
    pub fn bias(&self, bias: &Tensor, strength: f64) -> Result<Tensor> {
        let bias = &self.replaced("bias", bias, strength)?;
        if let Some(added) = self.tensors.get(LORA_BIAS) {
            return bias + (added * (strength * self.scale))?;
        }
        match (self.kind, self.tensors.get("ia3_l")) {
            (Kind::Ia3, Some(scales)) => bias * factors(scales, strength)?,
            _ => Ok(bias.clone()),
        }
    }

    /// `V + strength (W - V)` where the file has a `W` of its own in place of the parameter `V`.
    fn replaced(&self, part: &str, value: &Tensor, strength: f64) -> Result<Tensor> {
        match self.tensors.get(part) {
            Some(other) => value + ((other - value)? * strength)?,
            None => Ok(value.clone()),
        }
    }

    /// What is added to the weight, before its scale, with as many numbers as the weight.
    fn delta(&self) -> Result<Option<Tensor>> {
        let part = |name: &str| match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => bail!("the update of `{}` has no `{name}`", self.path),
        };
        Ok(Some(match self.kind {
            Kind::Lora if self.tensors.contains_key("lora_embedding_A") => {
                let (a, b) = (part("lora_embedding_A")?, part("lora_embedding_B")?);
                b.matmul(a)?.t()?.contiguous()? // [rows, O]
            }
            Kind::Lora => {
                let (a, b) = (part("lora_A")?, part("lora_B")?);
                match self.tensors.get("lora_mid") {
                    Some(mid) => tucker(mid, &b.t()?.contiguous()?, a)?,
                    None => b.flatten_from(1)?.matmul(&a.flatten_from(1)?)?, // [O, I]
                }
            }
            Kind::Loha => {
                let half = |a: &str, b: &str, core: &str| match self.tensors.get(core) {
                    Some(core) => tucker(core, part(a)?, part(b)?),
                    None => part(a)?.matmul(part(b)?),
                };
                let one = half("hada_w1_a", "hada_w1_b", "hada_t1")?;
                (one * half("hada_w2_a", "hada_w2_b", "hada_t2")?)?
            }
            Kind::Lokr => {
                let factor = |whole: &str, a: &str, b: &str| match self.tensors.get(whole) {
                    Some(whole) => Ok(whole.clone()),
                    None => part(a)?.matmul(part(b)?),
                };
                let one = factor("lokr_w1", "lokr_w1_a", "lokr_w1_b")?;
                let two = match self.tensors.get("lokr_t2") {
                    Some(core) => tucker(core, part("lokr_w2_a")?, part("lokr_w2_b")?)?,
                    None => factor("lokr_w2", "lokr_w2_a", "lokr_w2_b")?,
                };
                kronecker(&one, &two)?
            }
            Kind::Ia3 | Kind::Full => return Ok(None),
        }))
    }

    /// (IA)³: rows for outputs, columns for inputs.
    fn scaled(&self, weight: &Tensor, strength: f64) -> Result<Tensor> {
        let (axis, scales) = match (self.tensors.get("ia3_l"), self.tensors.get("ia3_l_inputs")) {
            (Some(scales), _) => (0, scales),
            (None, Some(scales)) => (1, scales),
            (None, None) => bail!("the update of `{}` has no scales", self.path),
        };
        let mut shape = vec![1; weight.rank()];
        shape[axis] = scales.elem_count();
        weight.broadcast_mul(&factors(scales, strength)?.reshape(shape)?)
    }
}

/// `1 + strength (l - 1)`.
fn factors(scales: &Tensor, strength: f64) -> Result<Tensor> {
    scales.affine(strength, 1.0 - strength)
}

/// `sum over i, j of core[i, j, k, l] a[i, p] b[j, r]`, `[p, r, k, l]`.
fn tucker(core: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    let (i, j, height, width) = core.dims4()?;
    let ((_, p), (_, r)) = (a.dims2()?, b.dims2()?);
    let kernel = height * width;
    let rows = a
        .t()?
        .contiguous()?
        .matmul(&core.reshape((i, j * kernel))?)?; // [p, j*kl]
    let rows = rows
        .reshape((p, j, kernel))?
        .transpose(1, 2)?
        .contiguous()?; // [p, kl, j]
    let both = rows.reshape((p * kernel, j))?.matmul(b)?; // [p*kl, r]
    both.reshape((p, kernel, r))?
        .transpose(1, 2)?
        .contiguous()?
        .reshape((p, r, height, width))
}

/// The Kronecker product of `[a, c]` and `[b, d, ..]`, `[a b, c d ..]`.
fn kronecker(one: &Tensor, two: &Tensor) -> Result<Tensor> {
    let (a, c) = one.dims2()?;
    let two = two.flatten_from(1)?;
    let (b, d) = two.dims2()?;
    one.reshape((a, 1, c, 1))?
        .broadcast_mul(&two.reshape((1, b, 1, d))?)?
        .reshape((a * b, c * d))
}
