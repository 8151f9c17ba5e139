//! What a DiT is told apart from pixels: where each patch lies, which timestep it is, which class is wanted.

use candle_core::{DType, Device, Tensor, bail};

use super::super::layers::{Builder, Embedding, Linear};
use super::super::timesteps::Sinusoids;
use super::super::{Error, Pass, Positions, Result};
use super::layout::embedder_path;
use crate::ops;

/// Sinusoidal features of a timestep.
pub(crate) const TIMESTEP_FEATURES: usize = 256;

/// Slowest period of the sinusoids of positions.
const MAX_PERIOD: f64 = 10_000.0;

/// `cos` then `sin` of each timestep at 128 frequencies, f32 `[B, 256]`, by the diffusers' formula.
///
/// diffusers spaces the frequencies as `10000^(-i/127)`; the original DiT code as `10000^(-i/128)`. Like diffusers' own conversion of the released weights, this follows diffusers
/// for every checkpoint, so that a model means the same before and after it is exported.
pub(crate) fn timestep_features(timesteps: &Tensor) -> Result<Tensor> {
    let sinusoids = Sinusoids {
        width: TIMESTEP_FEATURES,
        shift: 1.0,
        cosines_first: true,
    };
    sinusoids.of(timesteps) // [B, 256]
}

/// The fixed position embedding of a grid of patches, f32 `[1, rows * columns, width]`: the first half of the features encodes the column, the second the row.
///
/// At the training size, `base` patches a side, positions are the indices themselves; what they are at another size is [`Positions`]'s to say.
pub(crate) fn position_table(
    width: usize,
    base: usize,
    grid: (usize, usize),
    positions: Positions,
    device: &Device,
) -> Result<Tensor> {
    let (rows, columns) = grid;
    let quarter = width / 4;
    let omega: Vec<f64> = (0..quarter)
        .map(|i| MAX_PERIOD.powf(-(i as f64) / quarter as f64))
        .collect();
    let position = |index: usize, count: usize| match positions {
        Positions::Stretch => f64::from(index as f32 / (count as f64 / base as f64) as f32),
        Positions::Repeat => (index % base) as f64,
    };
    let mut table = Vec::with_capacity(rows * columns * width);
    for row in 0..rows {
        for column in 0..columns {
            for position in [position(column, columns), position(row, rows)] {
                table.extend(omega.iter().map(|omega| (position * omega).sin() as f32));
                table.extend(omega.iter().map(|omega| (position * omega).cos() as f32));
            }
        }
    }
    Tensor::from_vec(table, (1, rows * columns, width), device)
}

/// The embedders of a timestep and a class, summed.
#[derive(Clone, Debug)]
pub(crate) struct ConditionEmbedder {
    linear_1: Linear,
    linear_2: Linear,
    classes: Embedding,
}

impl ConditionEmbedder {
    pub(crate) fn load(builder: &mut Builder<'_>, block: usize) -> Result<Self, Error> {
        let path = embedder_path(block);
        Ok(Self {
            linear_1: builder.linear(&format!("{path}.timestep_embedder.linear_1"))?,
            linear_2: builder.linear(&format!("{path}.timestep_embedder.linear_2"))?,
            classes: builder.embedding(&format!("{path}.class_embedder.embedding_table"))?,
        })
    }

    /// `features` `[B, 256]`, `labels` u32 `[B]`; the activation that every user applies first is applied here, once.
    pub(crate) fn forward(
        &self,
        features: &Tensor,
        labels: &Tensor,
        pass: &Pass<'_>,
    ) -> Result<Tensor> {
        let hidden = ops::silu(&self.linear_1.forward(features, pass)?)?; // [B, D]
        let timestep = self.linear_2.forward(&hidden, pass)?; // [B, D]
        let class = self.classes.forward(labels, pass)?; // [B, D]
        ops::silu(&(timestep + class)?) // [B, D]
    }
}

/// Labels as u32 `[B]`, each known to lie in the table.
pub(crate) fn checked_labels(labels: &Tensor, batch: usize, num_classes: usize) -> Result<Tensor> {
    if labels.dims() != [batch] {
        bail!(
            "class_labels must be [{batch}], one a sample; they are {:?}",
            labels.dims()
        )
    }
    // Through i64, so that a negative label is reported as what it is.
    let values = labels.to_dtype(DType::I64)?.to_vec1::<i64>()?;
    if let Some(wrong) = values
        .iter()
        .find(|&&label| label < 0 || label > num_classes as i64)
    {
        bail!("class label {wrong} is outside 0..={num_classes} ({num_classes} is the null class)")
    }
    labels.to_dtype(DType::U32)
}
