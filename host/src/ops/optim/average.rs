//! Exponential moving averages of parameters, in place.

use std::cell::RefCell;
use std::collections::BTreeMap;

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use crate::ops::elementwise::CHUNK;
use crate::ops::function::{Input, fast};
use crate::ops::simd::multiversion;

/// Averages that follow their parameters in a step of the optimiser.
#[derive(Debug)]
pub struct Averages<'a> {
    /// By parameter name.
    pub values: &'a mut BTreeMap<String, Tensor>,
    /// The share of the old average that stays.
    pub decay: f64,
}

/// Moves an average towards a value: `average = decay average + (1 - decay) value`, in the memory of `average` where it is f32 on the CPU.
///
/// # Errors
/// If the shapes differ.
pub fn follow(average: &mut Tensor, value: &Tensor, decay: f64) -> Result<()> {
    if average.dims() != value.dims() {
        candle_core::bail!(
            "an average of shape {:?} cannot follow a value of shape {:?}",
            average.dims(),
            value.dims()
        );
    }
    if fast(&[average, value]) && average.is_contiguous() {
        return average.inplace_op2(value, &Follow { decay });
    }
    *average = (average.affine(decay, 0.0)? + value.affine(1.0 - decay, 0.0)?)?;
    Ok(())
}

struct Follow {
    decay: f64,
}

impl InplaceOp2 for Follow {
    fn name(&self) -> &'static str {
        "follow"
    }

    fn cpu_fwd(
        &self,
        average: &mut CpuStorage,
        at: &Layout,
        value: &CpuStorage,
        value_at: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(average), Some((start, end))) = (average, at.contiguous_offsets())
        else {
            candle_core::bail!("follow: the average is not f32 and row-major");
        };
        let value = Input::new(value, value_at)?.contiguous();
        let (kept, taken) = (self.decay as f32, (1.0 - self.decay) as f32);
        average[start..end]
            .par_chunks_mut(CHUNK)
            .zip(value.par_chunks(CHUNK))
            .for_each(|(average, value)| mix(average, value, kept, taken));
        Ok(())
    }
}

/// Gives the memory of a row-major f32 tensor on the CPU to `work`.
pub(super) fn with_memory(
    tensor: &Tensor,
    work: impl FnOnce(&mut [f32]) -> Result<()>,
) -> Result<()> {
    tensor.inplace_op1(&Give(RefCell::new(Some(work))))
}

struct Give<F>(RefCell<Option<F>>);

impl<F: FnOnce(&mut [f32]) -> Result<()>> InplaceOp1 for Give<F> {
    fn name(&self) -> &'static str {
        "give"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        let (CpuStorage::F32(values), Some((start, end))) = (storage, layout.contiguous_offsets())
        else {
            candle_core::bail!("give: the tensor is not f32 and row-major");
        };
        match self.0.take() {
            Some(work) => work(&mut values[start..end]),
            None => Ok(()),
        }
    }
}

multiversion! {
    pub(super) fn mix(average: &mut [f32], value: &[f32], kept: f32, taken: f32) {
        for (average, &value) in average.iter_mut().zip(value) {
            *average = *average * kept + value * taken;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn an_average_moves_by_its_share_in_any_type() {
        for dtype in [DType::F32, DType::F64] {
            let mut average = Tensor::new(&[[1f64, -2.0], [0.0, 4.0]], &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            let value = Tensor::new(&[[3f64, 2.0], [0.0, -4.0]], &Device::Cpu)
                .unwrap()
                .to_dtype(dtype)
                .unwrap();
            follow(&mut average, &value, 0.75).unwrap();
            let got: Vec<Vec<f64>> = average.to_dtype(DType::F64).unwrap().to_vec2().unwrap();
            assert_eq!(got, [[1.5, -1.0], [0.0, 2.0]]);
        }
    }

    #[test]
    fn shapes_that_differ_are_refused() {
        let mut average = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
        let value = Tensor::zeros((3, 2), DType::F32, &Device::Cpu).unwrap();
        assert!(
            follow(&mut average, &value, 0.5)
                .unwrap_err()
                .to_string()
                .contains("[3, 2]")
        );
    }
}
