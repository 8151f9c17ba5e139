//! The closed sets of values in a run file: schedules, weightings, samplers, precision, and what trains.

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use crate::diffusion::Spacing;
pub use crate::sample::SamplerKind as Sampler;

/// An enum that is one word in a run file and on the command line.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)+ } default $default:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, clap::ValueEnum)]
        pub enum $name { $($(#[$variant_doc])* #[serde(rename = $word)] #[value(name = $word)] $variant,)+ }

        impl $name {
            /// The word that stands for this choice in a run file.
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl Default for $name {
            fn default() -> Self { Self::$default }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { f.write_str(self.word()) }
        }
    };
}

words! {
    /// Number format of weights and computation.
    Precision {
        /// 32-bit floats.
        F32 = "f32",
        /// 16-bit floats.
        F16 = "f16",
        /// 16-bit floats with the range of 32-bit ones.
        Bf16 = "bf16",
    } default F32
}

impl From<Precision> for candle_core::DType {
    fn from(precision: Precision) -> Self {
        match precision {
            Precision::F32 => Self::F32,
            Precision::F16 => Self::F16,
            Precision::Bf16 => Self::BF16,
        }
    }
}

words! {
    /// Positions of patches in pictures of another size than the backbone was trained at.
    Positions {
        /// The trained range at another density, as in diffusers.
        Stretch = "stretch",
        /// The trained positions again and again, as for tiles of the trained size.
        Repeat = "repeat",
    } default Stretch
}

impl From<Positions> for crate::backbone::Positions {
    fn from(positions: Positions) -> Self {
        match positions {
            Positions::Stretch => Self::Stretch,
            Positions::Repeat => Self::Repeat,
        }
    }
}

words! {
    /// How the learning rate moves after the warm-up.
    Schedule {
        /// It stays.
        Constant = "constant",
        /// A straight line to `lr * final_ratio`.
        Linear = "linear",
        /// Half a cosine to `lr * final_ratio`.
        Cosine = "cosine",
        /// A constant factor a step, reaching `lr * final_ratio` at the last.
        Exponential = "exponential",
    } default Constant
}

words! {
    /// Weight of a sample's loss by its timestep.
    Weighting {
        /// One for every timestep.
        None = "none",
        /// min-SNR: the signal-to-noise ratio, cut off at gamma (Hang et al. 2023).
        MinSnr = "min_snr",
        /// P2: `1 / (1 + snr)^gamma` (Choi et al. 2022).
        P2 = "p2",
    } default None
}

impl Weighting {
    /// The value of `weighting_gamma` when none is given: 5 for min-SNR, 0.5 for P2.
    pub fn default_gamma(self) -> f64 {
        match self {
            Self::None => 1.0,
            Self::MinSnr => 5.0,
            Self::P2 => 0.5,
        }
    }
}

/// Which parameters of the backbone train.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Trainable {
    /// All of them when no plugin brings parameters, else none.
    #[default]
    Auto,
    /// All of them.
    All,
    /// None of them: only what plugins bring.
    None,
    /// Every bias (BitFit).
    Bias,
    /// Biases, norms and the class embedding (DiffFit, without its learned scale a block).
    Diffit,
    /// Parameters whose names match one of these globs.
    Globs(Vec<String>),
}

const PRESETS: &[&str] = &["auto", "all", "none", "bias", "diffit"];

impl Trainable {
    /// Reads one word: a preset, or (anything with a dot or an asterisk) a glob.
    fn from_word<E: serde::de::Error>(word: &str) -> Result<Self, E> {
        match word {
            "auto" => Ok(Self::Auto),
            "all" => Ok(Self::All),
            "none" => Ok(Self::None),
            "bias" => Ok(Self::Bias),
            "diffit" => Ok(Self::Diffit),
            glob if glob.contains(['.', '*']) => Self::from_globs(vec![glob.to_owned()]),
            other => Err(E::unknown_variant(other, PRESETS)),
        }
    }

    fn from_globs<E: serde::de::Error>(globs: Vec<String>) -> Result<Self, E> {
        if globs.is_empty() {
            return Err(E::custom(
                "an empty list trains nothing; write \"none\" to mean that",
            ));
        }
        for glob in &globs {
            globset::Glob::new(glob).map_err(|error| {
                E::custom(format_args!("`{glob}` is not a glob: {}", error.kind()))
            })?;
        }
        Ok(Self::Globs(globs))
    }
}

impl Serialize for Trainable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::All => serializer.serialize_str("all"),
            Self::None => serializer.serialize_str("none"),
            Self::Bias => serializer.serialize_str("bias"),
            Self::Diffit => serializer.serialize_str("diffit"),
            Self::Globs(globs) => globs.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Trainable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WordOrGlobs;
        impl<'de> Visitor<'de> for WordOrGlobs {
            type Value = Trainable;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("auto, all, none, bias, diffit or a list of globs")
            }

            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<Trainable, E> {
                Trainable::from_word(word)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Trainable, A::Error> {
                let mut globs = Vec::new();
                while let Some(glob) = seq.next_element::<String>()? {
                    globs.push(glob);
                }
                Trainable::from_globs(globs)
            }
        }
        deserializer.deserialize_any(WordOrGlobs)
    }
}
