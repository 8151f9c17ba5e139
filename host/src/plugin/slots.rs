//! The slots of the training step as data: their codes, how several plugins share each, and what happens when none takes it.
//!
//! This is the one table that `host plan`, the composition and the documentation read; the hooks themselves live in `plugin-api`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How several plugins share one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// One plugin at most: two would both have to decide the same value.
    Exclusive,
    /// Each plugin receives what the one before it returned.
    Chain,
    /// The `[B]` results are multiplied.
    Product,
    /// The results are added.
    Sum,
    /// The sets are united.
    Union,
    /// Every plugin is called on its own; nothing is combined.
    Each,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Mode::Exclusive => "exclusive",
            Mode::Chain => "chain",
            Mode::Product => "product",
            Mode::Sum => "sum",
            Mode::Union => "union",
            Mode::Each => "each",
        })
    }
}

macro_rules! slots {
    ($($variant:ident = $code:literal, $name:literal, $mode:ident, $default:literal, $does:literal;)*) => {
        /// A named place in the training step or in sampling where plugins take part.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Slot {
            $(#[doc = $does] $variant,)*
        }

        impl Slot {
            /// Every slot, in the order of the step.
            pub const ALL: &[Slot] = &[$(Slot::$variant),*];

            /// The slot's number at the plugin boundary.
            pub fn code(self) -> u32 {
                match self { $(Slot::$variant => $code),* }
            }

            /// The slot's name in manifests, run files and listings.
            pub fn name(self) -> &'static str {
                match self { $(Slot::$variant => $name),* }
            }

            /// How several plugins share the slot.
            pub fn mode(self) -> Mode {
                match self { $(Slot::$variant => Mode::$mode),* }
            }

            /// What the host does when no plugin takes the slot.
            pub fn default(self) -> &'static str {
                match self { $(Slot::$variant => $default),* }
            }

            /// What a plugin decides there.
            pub fn does(self) -> &'static str {
                match self { $(Slot::$variant => $does),* }
            }
        }
    };
}

slots! {
    Trainable = 1, "trainable", Union, "all, or nothing when plugins bring parameters", "which backbone parameters train";
    Prepare = 2, "prepare", Each, "nothing", "work before step 0: memory banks, module copies, parameters";
    Batch = 3, "batch", Chain, "as loaded", "what the batch holds";
    Timesteps = 4, "timesteps", Exclusive, "uniform", "the timestep of each sample, [B]";
    Noise = 5, "noise", Exclusive, "standard normal", "the noise, of the latents' shape";
    NoiseMask = 6, "noise_mask", Exclusive, "all ones", "where noise goes, broadcastable to the latents";
    DenoiserInput = 7, "denoiser_input", Exclusive, "noisy latents", "what the backbone receives";
    Layer = 8, "layer", Chain, "base layer", "the output of an adapted layer";
    Residuals = 9, "residuals", Sum, "none", "what is added at the backbone's residual sites";
    Objective = 10, "objective", Exclusive, "mean squared error to the target", "the loss of each sample, [B]";
    LossWeight = 11, "loss_weight", Product, "ones", "a weight for each sample's loss, [B]";
    LossTerm = 12, "loss_term", Sum, "none", "a scalar added to the loss";
    SampleBegin = 13, "sample_begin", Chain, "nothing", "the first latents of sampling";
    SampleStep = 14, "sample_step", Chain, "nothing", "the latents after each sampling step";
    Output = 15, "output", Exclusive, "images", "what a sample is turned into";
    Observe = 16, "observe", Each, "nothing", "nothing: it sees each finished step";
    State = 17, "state", Each, "nothing to save", "the plugin's own state, in checkpoints";
}

impl Slot {
    /// The slot of a name as manifests write it.
    pub fn from_name(name: &str) -> Option<Slot> {
        Slot::ALL.iter().copied().find(|slot| slot.name() == name)
    }

    /// The slot of a code at the plugin boundary.
    pub fn from_code(code: u32) -> Option<Slot> {
        Slot::ALL.iter().copied().find(|slot| slot.code() == code)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_lead_back_to_their_slot() {
        for (position, &slot) in Slot::ALL.iter().enumerate() {
            assert_eq!(slot.code() as usize, position + 1);
            assert_eq!(Slot::from_name(slot.name()), Some(slot));
            assert_eq!(Slot::from_code(slot.code()), Some(slot));
            assert_eq!(
                serde_json::to_value(slot).ok(),
                Some(serde_json::json!(slot.name()))
            );
        }
        assert_eq!(Slot::from_name("timestep"), None);
        assert_eq!(Slot::from_code(0), None);
    }
}
