//! Listing the keys of plain data in the order in which its structs declare them, which a TOML or JSON table forgets.

use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use serde_json::Value;

/// Sections with their keys and values.
pub(super) type Sections = Vec<(String, Vec<(String, Value)>)>;

/// The sections of plain data, in the order of declaration; a field that is no section is left out. A key without a value is
/// there, as null.
pub(super) fn ordered<T: Serialize>(data: &T) -> Sections {
    #[derive(DeriveDeserialize)]
    #[serde(untagged)]
    enum Field {
        Section(Pairs<Value>),
        Other(#[allow(dead_code, reason = "only its being no section matters")] IgnoredAny),
    }

    let json = serde_json::to_string(data).unwrap_or_default();
    let Ok(Pairs(fields)) = serde_json::from_str::<Pairs<Field>>(&json) else {
        return Vec::new();
    };
    let section = |(name, field)| match field {
        Field::Section(Pairs(keys)) => Some((name, keys)),
        Field::Other(_) => None,
    };
    fields.into_iter().filter_map(section).collect()
}

/// The entries of a JSON object, in its order.
#[derive(Debug)]
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for InOrder<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(InOrder(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::ordered;
    use crate::config::RunFile;

    #[test]
    fn lists_every_section_and_key_in_the_order_of_the_run_file() {
        let sections = ordered(&RunFile::default());
        let names: Vec<_> = sections.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["run", "backbone", "data", "train", "sample"]);
        let keys: Vec<_> = sections[2].1.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "source",
                "size",
                "flip",
                "count",
                "seed",
                "workers",
                "columns",
                "caption",
                "bucketing",
                "cache_latents"
            ]
        );
    }
}
