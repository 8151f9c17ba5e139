//! Settings: a plain struct whose documentation, defaults and limits become a JSON Schema in the plugin file, so that the host checks
//! every value before the plugin runs. Host and plugin check with the same function, [`validate`].

mod kinds;
mod validate;

pub use kinds::{Quoted, SettingKind};
pub use validate::{SettingsError, SettingsProblem, validate};

use crate::Result;

/// A plugin's settings; derive it with `#[derive(Settings)]`.
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
