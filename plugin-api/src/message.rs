//! Typed messages: how Rust structs become packets and packets become structs, the same way on both sides of the boundary.

use std::collections::BTreeMap;

use abi_stable::std_types::{RCowStr, ROption, RString, RVec};

use crate::{
    Error, Result, Tensor,
    abi::{Field, Packet, Value, ValueKind},
};

/// A struct that crosses the boundary as a [`Packet`]. Declared with the `message!` macro inside this crate.
pub trait Message: Sized {
    /// Name of the struct, for error messages and the ABI listing.
    const NAME: &'static str;
    /// Names and types of the fields, for the ABI listing.
    const FIELDS: &'static [(&'static str, &'static str)];
    /// The packet form.
    fn encode(self) -> Packet;
    /// The struct form.
    ///
    /// # Errors
    /// [`Error::Field`] when a field is missing or holds another kind of value. Unknown fields are ignored.
    fn decode(packet: Packet) -> Result<Self>;
}

/// A type that a message field can have.
pub trait FieldValue: Sized {
    /// The type in words, for error messages.
    const EXPECTED: &'static str;
    /// The boundary's form.
    fn into_value(self) -> Value;
    /// The Rust form, or `None` when the value is of another kind.
    fn from_value(value: Value) -> Option<Self>;
    /// What a message without the field means; `None` makes the field required.
    fn when_missing() -> Option<Self> {
        None
    }
}

/// Removes field `name` from `packet` and decodes it.
pub(crate) fn take<T: FieldValue>(
    packet: &mut Packet,
    message: &'static str,
    name: &'static str,
) -> Result<T> {
    let wrong = |got| Error::Field {
        message,
        field: name.to_owned(),
        expected: T::EXPECTED,
        got,
    };
    match packet.take(name) {
        None => T::when_missing().ok_or_else(|| wrong("nothing")),
        Some(value) => {
            let kind = value.kind;
            T::from_value(value).ok_or_else(|| wrong(kind.name()))
        }
    }
}

/// Declares a struct together with its [`Message`] form.
macro_rules! message {
    ($(#[$meta:meta])* pub struct $name:ident {
        $($(#[$field_meta:meta])* pub $field:ident : $ty:ty),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Debug, Clone)]
        pub struct $name { $($(#[$field_meta])* pub $field: $ty),* }

        impl $crate::message::Message for $name {
            const NAME: &'static str = stringify!($name);
            const FIELDS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),*];
            fn encode(self) -> $crate::abi::Packet {
                #[allow(unused_mut, reason = "a message may have no fields")]
                let mut packet = $crate::abi::Packet::new();
                $(packet.push(stringify!($field), $crate::message::FieldValue::into_value(self.$field));)*
                packet
            }
            #[allow(unused_variables, unused_mut, reason = "a message may have no fields")]
            fn decode(mut packet: $crate::abi::Packet) -> $crate::Result<Self> {
                Ok($name { $($field: $crate::message::take(&mut packet, stringify!($name), stringify!($field))?),* })
            }
        }

        impl $crate::message::FieldValue for $name {
            const EXPECTED: &'static str = stringify!($name);
            fn into_value(self) -> $crate::abi::Value {
                let packet = $crate::message::Message::encode(self);
                $crate::abi::Value { items: packet.fields, ..$crate::abi::Value::empty($crate::abi::ValueKind::PACKET) }
            }
            fn from_value(value: $crate::abi::Value) -> Option<Self> {
                if value.kind != $crate::abi::ValueKind::PACKET {
                    return None;
                }
                $crate::message::Message::decode($crate::abi::Packet { fields: value.items }).ok()
            }
        }
    };
}
pub(crate) use message;

impl FieldValue for Tensor {
    const EXPECTED: &'static str = "a tensor";
    fn into_value(self) -> Value {
        Value {
            tensor: ROption::RSome(self),
            ..Value::empty(ValueKind::TENSOR)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        value.tensor.into_option()
    }
}

impl FieldValue for bool {
    const EXPECTED: &'static str = "a yes/no value";
    fn into_value(self) -> Value {
        Value {
            bits: u64::from(self),
            ..Value::empty(ValueKind::BOOL)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        (value.kind == ValueKind::BOOL).then_some(value.bits != 0)
    }
}

impl FieldValue for f64 {
    const EXPECTED: &'static str = "a number";
    fn into_value(self) -> Value {
        Value {
            bits: self.to_bits(),
            ..Value::empty(ValueKind::FLOAT)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        (value.kind == ValueKind::FLOAT).then_some(f64::from_bits(value.bits))
    }
}

macro_rules! int_field {
    ($($ty:ty),*) => {$(
        impl FieldValue for $ty {
            const EXPECTED: &'static str = concat!("a whole number that fits ", stringify!($ty));
            fn into_value(self) -> Value {
                Value { bits: self as u64, ..Value::empty(ValueKind::INT) }
            }
            fn from_value(value: Value) -> Option<Self> {
                // Two's complement keeps every value of these types through the 64 bits and back.
                let narrow = value.bits as $ty;
                (value.kind == ValueKind::INT && narrow as u64 == value.bits).then_some(narrow)
            }
        }
    )*};
}
int_field!(i64, u64, u32, usize);

impl FieldValue for String {
    const EXPECTED: &'static str = "text";
    fn into_value(self) -> Value {
        Value {
            bytes: RString::from(self).into_bytes(),
            ..Value::empty(ValueKind::TEXT)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        if value.kind != ValueKind::TEXT {
            return None;
        }
        String::from_utf8(value.bytes.into_vec()).ok()
    }
}

impl FieldValue for Vec<u8> {
    const EXPECTED: &'static str = "bytes";
    fn into_value(self) -> Value {
        Value {
            bytes: RVec::from(self),
            ..Value::empty(ValueKind::BYTES)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        (value.kind == ValueKind::BYTES).then(|| value.bytes.into_vec())
    }
}

impl<T: FieldValue> FieldValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn into_value(self) -> Value {
        self.map_or_else(|| Value::empty(ValueKind::NOTHING), FieldValue::into_value)
    }
    fn from_value(value: Value) -> Option<Self> {
        if value.kind == ValueKind::NOTHING {
            return Some(None);
        }
        T::from_value(value).map(Some)
    }
    fn when_missing() -> Option<Self> {
        Some(None)
    }
}

/// Marks types whose `Vec` is a list of values; `u8` is not one, because bytes have their own kind.
pub(crate) trait ListItem: FieldValue {}

impl<T: ListItem> FieldValue for Vec<T> {
    const EXPECTED: &'static str = "a list";
    fn into_value(self) -> Value {
        let items = self
            .into_iter()
            .map(|item| Field {
                name: RCowStr::from(""),
                value: item.into_value(),
            })
            .collect();
        Value {
            items,
            ..Value::empty(ValueKind::LIST)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        if value.kind != ValueKind::LIST {
            return None;
        }
        value
            .items
            .into_iter()
            .map(|item| T::from_value(item.value))
            .collect()
    }
}

impl<T: FieldValue> FieldValue for BTreeMap<String, T> {
    const EXPECTED: &'static str = "a group of named values";
    fn into_value(self) -> Value {
        let items = self
            .into_iter()
            .map(|(name, item)| Field {
                name: RCowStr::from(name),
                value: item.into_value(),
            })
            .collect();
        Value {
            items,
            ..Value::empty(ValueKind::PACKET)
        }
    }
    fn from_value(value: Value) -> Option<Self> {
        if value.kind != ValueKind::PACKET {
            return None;
        }
        value
            .items
            .into_iter()
            .map(|item| Some((item.name.as_str().to_owned(), T::from_value(item.value)?)))
            .collect()
    }
}

macro_rules! list_items {
    ($($ty:ty),* $(,)?) => {$(impl $crate::message::ListItem for $ty {})*};
}
pub(crate) use list_items;
list_items!(
    Tensor,
    bool,
    f64,
    i64,
    u64,
    u32,
    usize,
    String,
    Vec<u8>,
    Option<Tensor>,
    Vec<usize>,
    Vec<String>
);
