//! The slots of the training step as the host's own values: a plain enum over the table in `plugin_api::slots`, which says their
//! codes, how several plugins share each, and what happens when none takes it.

use std::fmt;

use plugin_api::slots;
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

impl From<slots::Mode> for Mode {
    fn from(mode: slots::Mode) -> Self {
        match mode {
            slots::Mode::Exclusive => Mode::Exclusive,
            slots::Mode::Chain => Mode::Chain,
            slots::Mode::Product => Mode::Product,
            slots::Mode::Sum => Mode::Sum,
            slots::Mode::Union => Mode::Union,
            slots::Mode::Each => Mode::Each,
        }
    }
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
    ($($variant:ident: $does:literal;)*) => {
        /// A named place in the training step or in sampling where plugins take part.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Slot {
            $(#[doc = $does] $variant,)*
        }

        impl Slot {
            /// Every slot, in the order of the step.
            pub const ALL: &[Slot] = &[$(Slot::$variant),*];

            fn at_boundary(self) -> slots::Slot {
                match self { $(Slot::$variant => <slots::$variant as slots::SlotMarker>::SLOT),* }
            }

            /// What a plugin decides there.
            pub fn does(self) -> &'static str {
                match self { $(Slot::$variant => $does),* }
            }
        }
    };
}

slots! {
    Trainable: "which backbone parameters train";
    Prepare: "work before step 0: memory banks, module copies, parameters";
    Batch: "what the batch holds";
    Timesteps: "the timestep of each sample, [B]";
    Noise: "the noise, of the latents' shape";
    NoiseMask: "where noise goes, in 0..1";
    DenoiserInput: "what the backbone receives";
    Layer: "the output of an adapted layer";
    Residuals: "what is added at the backbone's residual sites";
    Objective: "the loss of each sample, [B]";
    LossWeight: "a weight for each sample's loss, [B]";
    LossTerm: "a scalar added to the loss";
    SampleBegin: "the first latents, timesteps and conditioning of sampling";
    SampleStep: "the latents after each sampling step";
    Output: "what a sample is written as";
    Observe: "nothing: it sees each finished step";
    State: "the plugin's own state, in checkpoints";
}

impl Slot {
    /// The slot's number at the plugin boundary.
    pub fn code(self) -> u32 {
        self.at_boundary().code
    }

    /// The slot's name in manifests, run files and listings.
    pub fn name(self) -> &'static str {
        self.at_boundary().name
    }

    /// How several plugins share the slot.
    pub fn mode(self) -> Mode {
        self.at_boundary().mode.into()
    }

    /// What the host does when no plugin takes the slot.
    pub fn default(self) -> &'static str {
        self.at_boundary().default
    }

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
        assert_eq!(Slot::ALL.len(), slots::ALL.len());
        for (&slot, at_boundary) in Slot::ALL.iter().zip(slots::ALL) {
            assert_eq!(slot.code(), at_boundary.code);
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
