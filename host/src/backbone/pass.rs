//! What one forward pass computes on, and what it uses besides the frozen weights.

use std::collections::BTreeMap;
use std::rc::Rc;

use candle_core::Tensor;

use super::Result;
use crate::ops;

/// Where patches lie in a picture of another size than the backbone was trained at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Positions {
    /// Index `i` of a side of `n` patches lies at `i * base / n`: any size covers the trained range at another density, as in diffusers.
    #[default]
    Stretch,
    /// Index `i` lies at `i mod base`: a canvas of tiles of the trained size sees in each tile the positions it knows, and what lies at the same place of two
    /// tiles has the same position.
    Repeat,
}

/// Trainable stand-ins by parameter name; the frozen originals stay callable.
pub type Overlay = BTreeMap<String, Tensor>;

/// What the network is told besides the latents and timesteps.
///
/// A DiT reads `class_labels`, u32 `[B]`, each in `0..=num_classes`; `num_classes` is the null class. A UNet reads `encoder_hidden_states`, `[B, S, D]`: what the
/// text encoder makes of each of `S` tokens; and as SDXL's also `text_embeds`, `[B, P]`, of the whole text, and `time_ids`, `[B, 6]`: height and width of the
/// picture before it was cropped, top and left of the crop, height and width to make, all in pixels.
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
    /// Called once a layer and forward pass, and once more in the backward pass where a block is computed again ([`Pass::replay`]).
    fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> Result<Tensor>;
}

/// How a block of the network is computed a second time in the backward pass, when its activations were not kept (gradient checkpointing).
pub trait Replay {
    /// A way to run a piece of the network that gives the same values each time; called once before the first run of each piece.
    fn piece(&self) -> Rc<dyn Piece>;
}

/// A piece of the network that may run more than once.
pub trait Piece {
    /// Runs `forward` with the stand-ins and adapters of the pass that the piece belongs to.
    ///
    /// # Errors
    /// What `forward` fails with.
    fn run(&self, forward: &dyn Fn(&Pass<'_>) -> Result<Tensor>) -> Result<Tensor>;
}

/// What one forward pass uses besides the frozen weights.
#[derive(Clone, Copy, Default)]
pub struct Pass<'a> {
    /// Stand-ins for parameters.
    pub overlay: Option<&'a Overlay>,
    /// The adapters.
    pub layers: Option<&'a dyn LayerHook>,
    /// One tensor for each residual site, added to the hidden states there. A DiT: after each block, `[B, T, D]`. A UNet: to what each level of the way down
    /// hands to the way up, `[B, C, H, W]` from the input inwards, and last to the output of the middle, as a ControlNet gives them.
    pub residuals: Option<&'a [Option<Tensor>]>,
    /// Given, blocks keep no activations for the backward pass but are computed again there: less memory, a third more work.
    pub replay: Option<&'a dyn Replay>,
}

impl Pass<'_> {
    /// The pretrained model, untouched.
    pub fn frozen() -> Self {
        Self::default()
    }

    /// Runs a piece of the network: now, and where activations are not kept once more in the backward pass.
    pub(crate) fn piece(
        &self,
        forward: impl Fn(&Pass<'_>) -> Result<Tensor> + 'static,
    ) -> Result<Tensor> {
        match self.replay {
            None => forward(self),
            Some(replay) => {
                let piece = replay.piece();
                ops::autograd::checkpoint(move || piece.run(&forward))
            }
        }
    }

    /// The output of a layer after the adapters, if there are any.
    pub(crate) fn adapt(&self, layer: usize, input: &Tensor, output: Tensor) -> Result<Tensor> {
        match self.layers {
            Some(hook) => hook.adapt(layer, input, output),
            None => Ok(output),
        }
    }
}
