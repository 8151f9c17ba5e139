//! The places of a training or sampling step that plugins can take: their codes, names, and how several plugins share one.
//!
//! Each slot has a marker type here of the same name; [`export_plugin!`](crate::export_plugin) takes those names, and
//! [`hooks`](crate::hooks) says what each one's trait does.

use crate::message::Message;

/// How several plugins share one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At most one plugin; two are an error before any weight loads.
    Exclusive,
    /// Each plugin gets what the one before it returned, in plugin order.
    Chain,
    /// Each plugin is asked, and the answers are joined as sets.
    Union,
    /// Each plugin is asked, and the answers are added.
    Sum,
    /// Each plugin is asked, and the answers are multiplied.
    Product,
    /// Each plugin is called; there is nothing to combine.
    Each,
}

impl Mode {
    /// The mode in one word.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Exclusive => "exclusive",
            Mode::Chain => "chain",
            Mode::Union => "union",
            Mode::Sum => "sum",
            Mode::Product => "product",
            Mode::Each => "each",
        }
    }
}

/// A place of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    /// What the boundary calls it.
    pub code: u32,
    /// Its name in manifests, plans and messages.
    pub name: &'static str,
    /// How several plugins share it.
    pub mode: Mode,
    /// The first [`ABI_MINOR`](crate::abi::ABI_MINOR) whose hosts call it.
    pub since: u32,
    /// What happens when no plugin takes it.
    pub default: &'static str,
}

impl Slot {
    /// The slot of this name.
    pub fn by_name(name: &str) -> Option<Slot> {
        ALL.iter().copied().find(|slot| slot.name == name)
    }

    /// The slot with this code.
    pub fn by_code(code: u32) -> Option<Slot> {
        ALL.iter().copied().find(|slot| slot.code == code)
    }
}

/// A slot's marker type.
pub trait SlotMarker {
    /// The slot.
    const SLOT: Slot;
}

/// One call that a host makes into a slot: the slot, which method of it, and the two messages.
/// The host encodes [`CallDef::In`] and decodes [`CallDef::Out`].
pub trait CallDef {
    /// The slot.
    const SLOT: Slot;
    /// Which method of the slot; most slots have only method 0.
    const METHOD: u32;
    /// The question.
    type In: Message;
    /// The answer.
    type Out: Message;
}

macro_rules! slots {
    ($($(#[$meta:meta])* $marker:ident = $code:literal $name:literal $mode:ident since $since:literal, $default:literal;)*) => {
        $(
            $(#[$meta])*
            #[derive(Debug, Clone, Copy)]
            pub struct $marker;
            impl SlotMarker for $marker {
                const SLOT: Slot =
                    Slot { code: $code, name: $name, mode: Mode::$mode, since: $since, default: $default };
            }
        )*
        /// Every slot this version knows, in the order of a run.
        pub const ALL: &[Slot] = &[$(<$marker as SlotMarker>::SLOT),*];
    };
}

slots! {
    /// Which backbone parameters train: [`TrainableHook`](crate::hooks::TrainableHook).
    Trainable = 1 "trainable" Union since 0, "all of the backbone when no plugin brings parameters, else nothing";
    /// Once before step 0: [`PrepareHook`](crate::hooks::PrepareHook).
    Prepare = 2 "prepare" Each since 0, "nothing";
    /// The loaded batch: [`BatchHook`](crate::hooks::BatchHook).
    Batch = 3 "batch" Chain since 0, "as loaded";
    /// The training timesteps: [`TimestepsHook`](crate::hooks::TimestepsHook).
    Timesteps = 4 "timesteps" Exclusive since 0, "uniform";
    /// The training noise: [`NoiseHook`](crate::hooks::NoiseHook).
    Noise = 5 "noise" Exclusive since 0, "standard normal";
    /// Where noise goes: [`NoiseMaskHook`](crate::hooks::NoiseMaskHook).
    NoiseMask = 6 "noise_mask" Exclusive since 0, "everywhere";
    /// What the backbone sees: [`DenoiserInputHook`](crate::hooks::DenoiserInputHook).
    DenoiserInput = 7 "denoiser_input" Exclusive since 0, "the noisy latents";
    /// Single layers of the backbone: [`LayerHook`](crate::hooks::LayerHook).
    Layer = 8 "layer" Chain since 0, "the backbone's layer";
    /// Additions between the backbone's blocks: [`ResidualsHook`](crate::hooks::ResidualsHook).
    Residuals = 9 "residuals" Sum since 0, "none";
    /// The per-sample loss: [`ObjectiveHook`](crate::hooks::ObjectiveHook).
    Objective = 10 "objective" Exclusive since 0, "squared error of prediction and target under the loss mask";
    /// Per-sample weights: [`LossWeightHook`](crate::hooks::LossWeightHook).
    LossWeight = 11 "loss_weight" Product since 0, "ones";
    /// An extra loss: [`LossTermHook`](crate::hooks::LossTermHook).
    LossTerm = 12 "loss_term" Sum since 0, "none";
    /// Before the first denoising step: [`SampleBeginHook`](crate::hooks::SampleBeginHook).
    SampleBegin = 13 "sample_begin" Chain since 0, "nothing";
    /// After each denoising step: [`SampleStepHook`](crate::hooks::SampleStepHook).
    SampleStep = 14 "sample_step" Chain since 0, "nothing";
    /// What a sample is written as: [`OutputHook`](crate::hooks::OutputHook).
    Output = 15 "output" Exclusive since 0, "the decoded images";
    /// After each optimizer step: [`ObserveHook`](crate::hooks::ObserveHook).
    Observe = 16 "observe" Each since 0, "nothing";
    /// The plugin's own state in checkpoints: [`StateHook`](crate::hooks::StateHook).
    State = 17 "state" Each since 0, "the plugin keeps none";
}
