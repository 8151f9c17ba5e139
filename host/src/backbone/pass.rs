//! What one forward pass computes on, and what it uses besides the frozen weights.

use std::collections::BTreeMap;

use candle_core::Tensor;

use super::Result;

/// Trainable stand-ins by parameter name; the frozen originals stay callable.
pub type Overlay = BTreeMap<String, Tensor>;

/// What the network is told besides the latents and timesteps.
///
/// A DiT reads `class_labels`, u32 `[B]`, each in `0..=num_classes`; `num_classes` is the null class.
#[derive(Clone, Debug, Default)]
pub struct Conditioning {
    /// Tensors by name.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Conditioning {
    /// Conditioning on classes alone; `labels` is u32 `[B]`.
    pub fn classes(labels: Tensor) -> Self {
        Self {
            tensors: BTreeMap::from([("class_labels".to_owned(), labels)]),
        }
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// When the conditioning has none.
    pub fn get(&self, name: &str) -> Result<&Tensor> {
        match self.tensors.get(name) {
            Some(tensor) => Ok(tensor),
            None => candle_core::bail!(
                "the backbone is conditioned on `{name}`, which the batch does not have (it has: {})",
                self.tensors
                    .keys()
                    .map(String::as_str)
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
        }
    }
}

/// What one forward pass computes on.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Noisy latents, `[B, C, H, W]`.
    pub latents: &'a Tensor,
    /// One timestep a sample, `[B]`, any numeric type; fractions are allowed.
    pub timesteps: &'a Tensor,
    /// What else the network is told.
    pub conditioning: &'a Conditioning,
}

/// Adapts the outputs of layers.
pub trait LayerHook {
    /// The output to use in place of `output`, given the layer's input; `layer` indexes [`Backbone::layers`].
    ///
    /// Called exactly once a layer and forward pass.
    fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> Result<Tensor>;
}

/// What one forward pass uses besides the frozen weights.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Stand-ins for parameters.
    pub overlay: Option<&'a Overlay>,
    /// The adapters.
    pub layers: Option<&'a dyn LayerHook>,
    /// One tensor for each residual site, added to the hidden states there (DiT: after each block, `[B, T, D]`).
    pub residuals: Option<&'a [Option<Tensor>]>,
}

impl Pass<'_> {
    /// The pretrained model, untouched.
    pub fn frozen() -> Self {
        Self::default()
    }

    /// The output of a layer after the adapters, if there are any.
    pub(crate) fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> Result<Tensor> {
        match self.layers {
            Some(hook) => hook.adapt(layer, input, output),
            None => Ok(output),
        }
    }
}
