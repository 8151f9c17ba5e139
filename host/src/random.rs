//! Seeded random streams: every use of chance in a run has a name, and its state can be saved, so a resumed run draws what the uninterrupted one would have drawn.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Shape, Tensor};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha20Rng;
use rand_distr::StandardNormal;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// An independent stream of random numbers, named by a seed and a label.
///
/// The numbers do not depend on the device, on the number of threads, or on other streams.
#[derive(Clone, Debug)]
pub struct Stream {
    key: [u8; 32],
    rng: ChaCha20Rng,
}

/// Where a [`Stream`] stands; enough to continue it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamState {
    key: [u8; 32],
    /// Two halves, because JSON numbers end at 64 bits.
    position: [u64; 2],
}

impl Stream {
    /// The stream `label` of a run with this seed.
    pub fn new(seed: u64, label: &str) -> Self {
        let mut hash = Sha256::new();
        hash.update(seed.to_le_bytes());
        hash.update(label.as_bytes());
        let key: [u8; 32] = hash.finalize().into();
        Self {
            key,
            rng: ChaCha20Rng::from_seed(key),
        }
    }

    /// What to save so that [`Stream::restore`] continues here.
    pub fn state(&self) -> StreamState {
        let position = self.rng.get_word_pos();
        StreamState {
            key: self.key,
            position: [position as u64, (position >> 64) as u64],
        }
    }

    /// Continues a saved stream.
    pub fn restore(state: &StreamState) -> Self {
        let mut rng = ChaCha20Rng::from_seed(state.key);
        rng.set_word_pos(u128::from(state.position[0]) | u128::from(state.position[1]) << 64);
        Self {
            key: state.key,
            rng,
        }
    }

    /// `count` draws from the standard normal distribution.
    pub fn normals(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| self.rng.sample::<f32, _>(StandardNormal))
            .collect()
    }

    /// `count` draws, uniform in `0..1`.
    pub fn uniforms(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.rng.random::<f32>()).collect()
    }

    /// One integer, uniform in `0..bound`; `bound` must be positive.
    pub fn below(&mut self, bound: usize) -> usize {
        self.rng.random_range(0..bound)
    }

    /// A tensor of standard normal draws, f32.
    pub fn normal(
        &mut self,
        shape: impl Into<Shape>,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let shape = shape.into();
        Tensor::from_vec(self.normals(shape.elem_count()), shape, device)
    }

    /// A tensor of draws uniform in `0..1`, f32.
    pub fn uniform(
        &mut self,
        shape: impl Into<Shape>,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let shape = shape.into();
        Tensor::from_vec(self.uniforms(shape.elem_count()), shape, device)
    }

    /// A tensor of integers uniform in `0..bound`, u32.
    pub fn integers(
        &mut self,
        bound: usize,
        count: usize,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let draws: Vec<u32> = (0..count).map(|_| self.below(bound) as u32).collect();
        Tensor::new(draws, device)?.to_dtype(DType::U32)
    }
}

/// All streams of a run: made when first used, saved together.
#[derive(Clone, Debug)]
pub struct Streams {
    seed: u64,
    streams: BTreeMap<String, Stream>,
}

impl Streams {
    /// The streams of a run with this seed, none used yet.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            streams: BTreeMap::new(),
        }
    }

    /// The stream of this label, where it stands.
    pub fn get(&mut self, label: &str) -> &mut Stream {
        self.streams
            .entry(label.to_owned())
            .or_insert_with(|| Stream::new(self.seed, label))
    }

    /// Where every used stream stands.
    pub fn state(&self) -> BTreeMap<String, StreamState> {
        self.streams
            .iter()
            .map(|(label, stream)| (label.clone(), stream.state()))
            .collect()
    }

    /// Moves the saved streams to where they stood, and leaves the others.
    pub fn continue_from(&mut self, states: &BTreeMap<String, StreamState>) {
        for (label, state) in states {
            self.streams.insert(label.clone(), Stream::restore(state));
        }
    }

    /// Continues saved streams; one that was not saved starts from the seed.
    pub fn restore(seed: u64, states: &BTreeMap<String, StreamState>) -> Self {
        let streams = states
            .iter()
            .map(|(label, state)| (label.clone(), Stream::restore(state)))
            .collect();
        Self { seed, streams }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restored_stream_continues_bit_for_bit() {
        let mut stream = Stream::new(7, "noise");
        stream.normals(1001);
        let state = stream.state();
        let text = serde_json::to_string(&state).expect("serialises");
        let mut restored = Stream::restore(&serde_json::from_str(&text).expect("parses"));
        assert_eq!(stream.normals(50), restored.normals(50));
        assert_eq!(stream.uniforms(50), restored.uniforms(50));
        assert_eq!(stream.below(1000), restored.below(1000));
    }

    #[test]
    fn labels_and_seeds_give_different_streams() {
        let first = Stream::new(7, "noise").uniforms(8);
        assert_ne!(first, Stream::new(7, "timesteps").uniforms(8));
        assert_ne!(first, Stream::new(8, "noise").uniforms(8));
        assert_eq!(first, Stream::new(7, "noise").uniforms(8));
    }

    #[test]
    fn normals_have_zero_mean_and_unit_variance() {
        let draws = Stream::new(0, "moments").normals(100_000);
        let mean = draws.iter().sum::<f32>() / draws.len() as f32;
        let variance = draws.iter().map(|x| (x - mean).powi(2)).sum::<f32>() / draws.len() as f32;
        assert!(mean.abs() < 0.02, "mean {mean}");
        assert!((variance - 1.0).abs() < 0.02, "variance {variance}");
    }
}
