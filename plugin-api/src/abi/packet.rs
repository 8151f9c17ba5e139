//! The one form in which messages cross the boundary: a list of named values.
//!
//! A reader ignores names it does not know and gives its own default to optional names that are missing, so either side may grow a message.

use abi_stable::{
    StableAbi,
    std_types::{RCowStr, ROption, RVec},
};

use crate::Tensor;

/// What a [`Value`] holds. Open: new kinds may be appended.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ValueKind(pub u32);

impl ValueKind {
    /// Nothing: an absent optional value.
    pub const NOTHING: ValueKind = ValueKind(0);
    /// `bits` is 0 or 1.
    pub const BOOL: ValueKind = ValueKind(1);
    /// `bits` is a two's complement `i64`.
    pub const INT: ValueKind = ValueKind(2);
    /// `bits` is an IEEE `f64`.
    pub const FLOAT: ValueKind = ValueKind(3);
    /// `bytes` is UTF-8.
    pub const TEXT: ValueKind = ValueKind(4);
    /// `bytes` is raw.
    pub const BYTES: ValueKind = ValueKind(5);
    /// `tensor` is present.
    pub const TENSOR: ValueKind = ValueKind(6);
    /// `items` are named values.
    pub const PACKET: ValueKind = ValueKind(7);
    /// `items` are values in order, with empty names.
    pub const LIST: ValueKind = ValueKind(8);

    /// The kind in words, for error messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::NOTHING => "nothing",
            Self::BOOL => "a yes/no value",
            Self::INT => "a whole number",
            Self::FLOAT => "a number",
            Self::TEXT => "text",
            Self::BYTES => "bytes",
            Self::TENSOR => "a tensor",
            Self::PACKET => "a group of named values",
            Self::LIST => "a list",
            _ => "a kind of value this version does not know",
        }
    }
}

/// One value. `kind` says which of the other members counts; the rest are empty.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Value {
    /// Which member counts.
    pub kind: ValueKind,
    /// Numbers and booleans.
    pub bits: u64,
    /// Text and bytes.
    pub bytes: RVec<u8>,
    /// A tensor.
    pub tensor: ROption<Tensor>,
    /// Nested values.
    pub items: RVec<Field>,
}

impl Value {
    /// A value of `kind` whose other members are all empty.
    pub fn empty(kind: ValueKind) -> Self {
        Value {
            kind,
            bits: 0,
            bytes: RVec::new(),
            tensor: ROption::RNone,
            items: RVec::new(),
        }
    }
}

/// A named value.
#[repr(C)]
#[derive(StableAbi, Clone, Debug)]
pub struct Field {
    /// The name; empty inside a list.
    pub name: RCowStr<'static>,
    /// The value.
    pub value: Value,
}

/// Named values: one message.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, Default)]
pub struct Packet {
    /// The values, in any order.
    pub fields: RVec<Field>,
}

impl Packet {
    /// A message without fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value under a name fixed at compile time.
    pub fn push(&mut self, name: &'static str, value: Value) {
        self.fields.push(Field {
            name: RCowStr::from(name),
            value,
        });
    }

    /// Removes and returns the value called `name`.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        let at = self
            .fields
            .iter()
            .position(|field| field.name.as_str() == name)?;
        Some(self.fields.swap_remove(at).value)
    }
}
