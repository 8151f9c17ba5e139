//! Settings: a plain struct whose documentation, defaults and limits become a JSON Schema in the plugin file, so that the host checks
//! every value before the plugin runs. Host and plugin check with the same function, [`validate`].

mod join;
mod kinds;
mod validate;

#[doc(hidden)]
pub use join::{join, joined_len};
pub use kinds::SettingKind;
#[doc(hidden)]
pub use kinds::{read_list, read_map, read_option};
#[doc(hidden)]
pub use serde_json::Value as Json;
pub use validate::{SettingsError, SettingsProblem, validate};

use crate::Result;

/// A plugin's settings: a struct with named fields that derives this trait.
///
/// ```
/// use plugin_api::Settings;
///
/// /// How samples are mixed.
/// #[derive(Settings, Debug)]
/// struct Mixing {
///     /// Part of each batch that comes from the memory.
///     #[setting(default = 0.2, range = 0..=1)]
///     ratio: f64,
///     /// How the two parts differ.
///     mode: Mode,
///     /// Classes to remember; all when not given.
///     classes: Option<Vec<u32>>,
/// }
///
/// #[derive(Settings, Debug, PartialEq)]
/// enum Mode {
///     /// By the timesteps drawn.
///     #[setting(default)]
///     Sampling,
///     /// By the weight of each timestep.
///     Weighting,
/// }
///
/// let mixing = Mixing::from_json(r#"{ "mode": "weighting" }"#)?;
/// assert_eq!((mixing.ratio, mixing.mode, mixing.classes), (0.2, Mode::Weighting, None));
///
/// let error = Mixing::from_json(r#"{ "ratio": 3, "moed": "sampling" }"#).unwrap_err();
/// assert_eq!(error.to_string(), "unknown setting `moed`, did you mean `mode`?; `ratio` must be in 0..=1, got 3");
/// # Ok::<(), plugin_api::Error>(())
/// ```
///
/// * A doc comment becomes the description that `host plugin inspect` prints.
/// * `#[setting(default = value)]` takes numbers, text, `true`, a choice (`Mode::Sampling`), a list, or `None`. Without one, `Option` defaults
///   to null, `Vec` and `BTreeMap` to empty, a struct to its own defaults, an enum to its variant marked `#[setting(default)]`; anything else is required.
///   `#[setting(required)]` makes any setting required.
/// * `#[setting(range = 0..=1)]` limits numbers, also inside `Option` and `Vec`; `0..`, `..=1` and `0..1` work too, and `above = 0` excludes
///   the lower end. `#[setting(one_of = ["a", "b"])]` limits text.
/// * Types: `u8` to `u64`, `usize`, `i32`, `i64`, `f32`, `f64`, `bool`, `String`, `PathBuf`, other types that derive `Settings` (structs, and
///   enums without data, whose names turn to snake case), and `Option`, `Vec` and `BTreeMap<String, _>` of these; limits hold for a map's values.
/// * `Default` comes with it, unless a setting is required.
pub trait Settings: SettingKind {
    /// The schema as JSON text: what the manifest carries.
    const SCHEMA: &'static str;

    /// Checks `text` (a JSON object; missing keys take their defaults) and builds the settings.
    ///
    /// # Errors
    /// [`SettingsError`] with every problem found, or a sentence when the text is no JSON.
    fn from_json(text: &str) -> Result<Self> {
        let values = serde_json::from_str(text)
            .map_err(|error| format!("the settings are not JSON: {error}"))?;
        let schema = serde_json::from_str(Self::SCHEMA).map_err(|error| {
            format!("the settings schema is not JSON ({error}): a fault of `derive(Settings)`")
        })?;
        let resolved = validate(&schema, &values)?;
        Self::read(&resolved).ok_or_else(|| {
            crate::Error::msg("the settings passed their schema but could not be read")
        })
    }
}

/// For plugins without settings.
impl Settings for () {
    const SCHEMA: &'static str =
        r#"{"type":"object","properties":{},"additionalProperties":false}"#;
}
