//! Diff-Tuning (Zhong, Guo, Dong, Long; NeurIPS 2024; arXiv 2406.00773).
//!
//! Along the reverse process a pretrained diffusion model transfers well near the data (small `t`) and badly near the noise (large `t`). So
//! part of every batch are the model's own images, trained at small `t` to *retain* what it knows, and the rest are target images, trained
//! at large `t` to *reconsolidate* it. The loss is `mean(target) + weight * mean(memory)`.
//!
//! It never asks which parameters train, so it goes with full fine-tuning and with any adapter.

#![deny(unsafe_code)]

mod bank;
mod png_file;
mod settings;
mod timesteps;

use plugin_api::hooks::{
    BatchHook, LossWeightHook, LossWeightIn, PrepareHook, TimestepsHook, TimestepsIn,
};
use plugin_api::{Batch, DType, Error, Host, Plugin, Result, RunInfo, Tensor, bail, export_plugin};

use bank::Bank;
pub use settings::{DiffTuningSettings, Mode};
pub use timesteps::{PowerLaw, Side};

/// The batch's name for which of its samples come from the memory bank: `[B]` f32, 1 for memory and 0 for target.
pub const MEMORY: &str = "diff_tuning.memory";

/// The plugin.
pub struct DiffTuning {
    settings: DiffTuningSettings,
    /// Filled by `prepare`; stays empty when no memory is used.
    bank: Option<Bank>,
    /// The class label that means "no class", for a backbone conditioned on classes.
    null_class: Option<u32>,
    /// Whether the backbone is conditioned on text, whatever classes the data has.
    text: bool,
    /// Laws of target and memory samples.
    laws: [PowerLaw; 2],
}

impl Plugin for DiffTuning {
    type Settings = DiffTuningSettings;
    const ID: &'static str = "diff_tuning";
    const SUMMARY: &'static str =
        "Retain the pretrained model near the data, reconsolidate it near the noise";

    fn build(settings: DiffTuningSettings, host: &Host) -> Result<Self> {
        let timesteps = host.process()?.num_train_timesteps;
        let backbone = host.backbone()?;
        check_sizes(&settings, &host.run()?, backbone.image_size)?;
        let law = |side, power| match settings.mode {
            Mode::Sampling => PowerLaw::new(side, power, timesteps),
            Mode::Weighting => PowerLaw::new(side, 0.0, timesteps),
        };
        Ok(Self {
            laws: [
                law(Side::Noise, settings.target_power),
                law(Side::Data, settings.memory_power),
            ],
            bank: None,
            null_class: backbone.null_class,
            text: backbone.text,
            settings,
        })
    }
}

/// How many of `batch` samples come from memory.
fn memory_count(batch: usize, ratio: f64) -> usize {
    (batch as f64 * ratio).round() as usize
}

/// Refuses data that memory images of side `memory` cannot stand beside, before a bank is drawn.
fn check_sizes(settings: &DiffTuningSettings, run: &RunInfo, memory: usize) -> Result<()> {
    if run.steps == 0 || memory_count(run.batch_size, settings.ratio) == 0 {
        return Ok(());
    }
    if run.bucketing == Some(true) {
        bail!(
            "memory images are squares of {memory} pixels, and data.bucketing makes batches of other shapes: leave data.bucketing out"
        );
    }
    match run.image_size {
        Some(size) if size != memory => bail!(
            "memory images are squares of {memory} pixels, and the data's are of {size}: train at the backbone's own size (data.size={memory})"
        ),
        _ => Ok(()),
    }
}

impl PrepareHook for DiffTuning {
    fn prepare(&mut self, host: &Host) -> Result<()> {
        let run = host.run()?;
        let count = memory_count(run.batch_size, self.settings.ratio);
        if run.steps == 0 {
            return Ok(());
        }
        if count == 0 {
            tracing::warn!(
                "a batch of {} holds no memory sample at ratio {}: nothing is retained; raise diff_tuning.ratio or train.batch_size",
                run.batch_size,
                self.settings.ratio
            );
            return Ok(());
        }
        let bank = Bank::open(&self.settings, host)?;
        tracing::info!(
            "{count} of the {} samples of a batch come from {} memory images",
            run.batch_size,
            bank.len()
        );
        self.bank = Some(bank);
        Ok(())
    }
}

impl BatchHook for DiffTuning {
    /// Replaces the last samples of the batch by memory samples, and marks them in [`MEMORY`].
    fn batch(&mut self, batch: Batch, host: &Host) -> Result<Batch> {
        let size = batch.len();
        let count = memory_count(size, self.settings.ratio);
        let Some(bank) = self.bank.as_ref().filter(|_| count > 0) else {
            return marked(batch, size, 0, host);
        };
        let numbers = host
            .random()
            .integers(0, bank.len() as u32, [count])?
            .to_vec::<u32>()?;
        let memory = bank.select(&numbers, host)?; // [M, 3, H, W]
        let targets = size - count;
        let mut mixed = Batch::new();
        mixed.meta = batch.meta;
        for (name, tensor) in batch.tensors {
            let kept = tensor.narrow(0, 0, targets)?;
            let added = match name.as_str() {
                "images" => fitting(&memory, &tensor)?,
                // The label spaces differ, so memory trains the unconditional branch alone.
                // A backbone conditioned on text reads no labels; its memory goes without text (below).
                "class_labels" if !self.text => tensor
                    .narrow(0, targets, count)?
                    .full_like(self.null_label()?, [count])?,
                _ => tensor.narrow(0, targets, count)?.zeros_like()?,
            };
            mixed.set(name, Tensor::cat(&[kept, added], 0)?);
        }
        for (name, mut texts) in batch.texts {
            texts.truncate(targets);
            texts.extend(numbers.iter().map(|number| match name.as_str() {
                "names" => format!("memory {number:06}"),
                _ => String::new(),
            }));
            mixed.texts.insert(name, texts);
        }
        marked(mixed, targets, count, host)
    }
}

impl DiffTuning {
    fn null_label(&self) -> Result<f64> {
        self.null_class.map(f64::from).ok_or_else(|| {
            Error::msg("the batch has class labels but the backbone has no null class for memory samples; use data without classes")
        })
    }
}

/// The memory images, if they can stand beside the batch's.
fn fitting(memory: &Tensor, images: &Tensor) -> Result<Tensor> {
    let (ours, theirs) = (memory.dims(), images.dims());
    if ours[1..] != theirs[1..] {
        return Err(Error::msg(format!(
            "memory images are {}x{}, the batch's are {}x{}; train at the backbone's own size (data.size)",
            ours[2], ours[3], theirs[2], theirs[3]
        )));
    }
    memory.to_dtype(images.dtype())
}

fn marked(mut batch: Batch, targets: usize, count: usize, host: &Host) -> Result<Batch> {
    let marks: Vec<f32> = (0..targets + count)
        .map(|row| f32::from(row >= targets))
        .collect();
    batch.set(MEMORY, Tensor::from_slice(&marks, [targets + count], host)?);
    Ok(batch)
}

impl TimestepsHook for DiffTuning {
    fn timesteps(&mut self, at: &TimestepsIn, host: &Host) -> Result<Tensor> {
        let memory = at.batch.get(MEMORY)?.to_vec::<f32>()?;
        let draws = host.random().uniform([memory.len()])?.to_vec::<f32>()?;
        let timesteps: Vec<u32> = memory
            .iter()
            .zip(draws)
            .map(|(&memory, draw)| self.laws[usize::from(memory > 0.0)].at(draw))
            .collect();
        Tensor::from_slice(&timesteps, [timesteps.len()], host)
    }
}

impl LossWeightHook for DiffTuning {
    /// Weights whose mean over the batch, times the losses, is `mean(target) + weight * mean(memory)`; in the weighting mode each sample's
    /// further times `t / T` (target) or `1 - t / T` (memory).
    fn loss_weight(&mut self, at: &LossWeightIn, host: &Host) -> Result<Tensor> {
        let memory = at.batch.get(MEMORY)?.to_vec::<f32>()?;
        let timesteps = at.timesteps.to_vec::<u32>()?;
        let losses = at.loss.to_dtype(DType::F32)?.to_vec::<f32>()?;
        for (part, name) in [(0.0, "target"), (1.0, "memory")] {
            let rows: Vec<usize> = (0..memory.len())
                .filter(|&row| memory[row] == part)
                .collect();
            if !rows.is_empty() {
                let mean = |of: &dyn Fn(usize) -> f64| {
                    rows.iter().map(|&row| of(row)).sum::<f64>() / rows.len() as f64
                };
                host.metric(&format!("loss_{name}"), mean(&|row| f64::from(losses[row])))?;
                host.metric(&format!("t_{name}"), mean(&|row| f64::from(timesteps[row])))?;
            }
        }
        let weights = sample_weights(&self.settings, &memory, &timesteps, at.num_train_timesteps);
        Tensor::from_slice(&weights, [weights.len()], host)
    }
}

fn sample_weights(
    settings: &DiffTuningSettings,
    memory: &[f32],
    timesteps: &[u32],
    total: usize,
) -> Vec<f32> {
    let size = memory.len() as f64;
    let memories = memory.iter().filter(|&&memory| memory > 0.0).count() as f64;
    let weight = |(&memory, &t): (&f32, &u32)| {
        let noisiness = f64::from(t) / total as f64;
        let (share, emphasis) = match memory > 0.0 {
            true => (settings.weight * size / memories, 1.0 - noisiness),
            false => (size / (size - memories), noisiness),
        };
        let emphasis = if settings.mode == Mode::Weighting {
            emphasis
        } else {
            1.0
        };
        (share * emphasis) as f32
    };
    memory.iter().zip(timesteps).map(weight).collect()
}

export_plugin!(DiffTuning: Prepare, Batch, Timesteps, LossWeight);

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mode: Mode, expected: [f32; 4]) {
        let settings = DiffTuningSettings {
            mode,
            weight: 0.5,
            ..DiffTuningSettings::default()
        };
        let weights = sample_weights(&settings, &[0.0, 0.0, 0.0, 1.0], &[0, 500, 999, 250], 1000);
        for (weight, expected) in weights.iter().zip(expected) {
            assert!(
                (weight - expected).abs() < 1e-6,
                "{weights:?} against {expected:?}"
            );
        }
    }

    #[test]
    fn weighted_mean_is_target_mean_plus_weighted_memory_mean() {
        // 4/3 for each of three targets and 0.5 * 4 for the one memory sample: over a batch of 4, 1 and 0.5.
        check(Mode::Sampling, [4.0 / 3.0, 4.0 / 3.0, 4.0 / 3.0, 2.0]);
    }

    #[test]
    fn weighting_mode_adds_the_papers_two_weights() {
        check(
            Mode::Weighting,
            [0.0, 4.0 / 3.0 * 0.5, 4.0 / 3.0 * 0.999, 2.0 * 0.75],
        );
    }

    #[test]
    fn the_memory_share_is_rounded() {
        assert_eq!(
            [
                memory_count(32, 0.2),
                memory_count(8, 0.2),
                memory_count(2, 0.2),
                memory_count(4, 1.0)
            ],
            [6, 2, 0, 4]
        );
    }
}
