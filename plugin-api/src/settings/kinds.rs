//! The types a setting can have, each with its piece of schema.

use std::{collections::BTreeMap, path::PathBuf};

use serde_json::Value;

/// A type a setting can have: numbers, `bool`, `String`, `PathBuf`, `Option`, `Vec`, `BTreeMap<String, _>`, and whatever derives `Settings`.
pub trait SettingKind: Sized {
    /// The schema of the type as the inside of a JSON object, without the braces.
    const BODY: &'static str;
    /// The default as JSON text, for types that have one of their own.
    const DEFAULT: Option<&'static str>;
    /// Reads a value that has passed the schema; `None` when it has not.
    fn read(value: &Value) -> Option<Self>;
}

macro_rules! whole {
    ($($ty:ty: $body:literal),*) => {$(
        impl SettingKind for $ty {
            const BODY: &'static str = $body;
            const DEFAULT: Option<&'static str> = None;
            fn read(value: &Value) -> Option<Self> {
                if let Some(number) = value.as_u64() {
                    return number.try_into().ok();
                }
                if let Some(number) = value.as_i64() {
                    return number.try_into().ok();
                }
                // `2.0` is a whole number too; beyond 2^53 floats no longer hit every one.
                let number = value.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= 9.007_199_254_740_992e15)?;
                <$ty>::try_from(number as i64).ok()
            }
        }
    )*};
}
whole!(
    u8: r#""type":"integer","minimum":0,"maximum":255"#,
    u16: r#""type":"integer","minimum":0,"maximum":65535"#,
    u32: r#""type":"integer","minimum":0,"maximum":4294967295"#,
    u64: r#""type":"integer","minimum":0"#,
    usize: r#""type":"integer","minimum":0"#,
    i32: r#""type":"integer","minimum":-2147483648,"maximum":2147483647"#,
    i64: r#""type":"integer""#
);

impl SettingKind for f64 {
    const BODY: &'static str = r#""type":"number""#;
    const DEFAULT: Option<&'static str> = None;
    fn read(value: &Value) -> Option<Self> {
        value.as_f64()
    }
}

impl SettingKind for f32 {
    const BODY: &'static str = r#""type":"number""#;
    const DEFAULT: Option<&'static str> = None;
    fn read(value: &Value) -> Option<Self> {
        value.as_f64().map(|number| number as f32)
    }
}

impl SettingKind for bool {
    const BODY: &'static str = r#""type":"boolean""#;
    const DEFAULT: Option<&'static str> = None;
    fn read(value: &Value) -> Option<Self> {
        value.as_bool()
    }
}

impl SettingKind for String {
    const BODY: &'static str = r#""type":"string""#;
    const DEFAULT: Option<&'static str> = None;
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }
}

impl SettingKind for PathBuf {
    const BODY: &'static str = r#""type":"string","format":"path""#;
    const DEFAULT: Option<&'static str> = None;
    fn read(value: &Value) -> Option<Self> {
        value.as_str().map(PathBuf::from)
    }
}

impl SettingKind for () {
    const BODY: &'static str = r#""type":"object","properties":{},"additionalProperties":false"#;
    const DEFAULT: Option<&'static str> = Some("{}");
    fn read(_value: &Value) -> Option<Self> {
        Some(())
    }
}

/// Reads an optional value; used by the derive.
#[doc(hidden)]
pub fn read_option<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Option<T>> {
    if value.is_null() {
        Some(None)
    } else {
        read(value).map(Some)
    }
}

/// Reads values by name; used by the derive.
#[doc(hidden)]
pub fn read_map<T>(
    value: &Value,
    read: impl Fn(&Value) -> Option<T>,
) -> Option<BTreeMap<String, T>> {
    let entries = value.as_object()?.iter();
    entries
        .map(|(name, value)| Some((name.clone(), read(value)?)))
        .collect()
}

/// Reads a list; used by the derive.
#[doc(hidden)]
pub fn read_list<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    value.as_array()?.iter().map(read).collect()
}
