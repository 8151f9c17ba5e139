//! Element types of tensors, and the Rust types that can be copied in and out.

use abi_stable::StableAbi;

/// Element type of a tensor. Open: a host may have types this version cannot name.
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DType(pub u32);

impl DType {
    /// Unsigned 8-bit: comparison results and masks.
    pub const U8: DType = DType(1);
    /// Unsigned 32-bit: class labels, timesteps, indices.
    pub const U32: DType = DType(2);
    /// Signed 64-bit.
    pub const I64: DType = DType(3);
    /// Brain float, 16-bit.
    pub const BF16: DType = DType(4);
    /// IEEE half, 16-bit.
    pub const F16: DType = DType(5);
    /// IEEE single: the default of everything here.
    pub const F32: DType = DType(6);
    /// IEEE double.
    pub const F64: DType = DType(7);

    /// The name, as in `f32`.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::U32 => "u32",
            Self::I64 => "i64",
            Self::BF16 => "bf16",
            Self::F16 => "f16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            _ => "unknown",
        }
    }

    /// Bytes an element takes, or `None` for a type this version does not know.
    pub fn size(self) -> Option<usize> {
        match self {
            Self::U8 => Some(1),
            Self::BF16 | Self::F16 => Some(2),
            Self::U32 | Self::F32 => Some(4),
            Self::I64 | Self::F64 => Some(8),
            _ => None,
        }
    }

    /// Whether gradients can flow through tensors of this type.
    pub fn is_float(self) -> bool {
        matches!(self, Self::BF16 | Self::F16 | Self::F32 | Self::F64)
    }
}

impl std::fmt::Debug for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    /// Only the types below have the fixed, padding-free layout that the byte copies rely on.
    pub trait Sealed {}
}

/// A Rust number that tensors can be made from and copied to.
pub trait Element: sealed::Sealed + Copy + Send + Sync + 'static {
    /// The matching element type.
    const DTYPE: DType;
    #[doc(hidden)]
    fn read(bytes: &[u8]) -> Option<Self>;
}

macro_rules! element {
    ($($ty:ty => $dtype:ident),*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {
            const DTYPE: DType = DType::$dtype;
            fn read(bytes: &[u8]) -> Option<Self> {
                Some(<$ty>::from_ne_bytes(bytes.try_into().ok()?))
            }
        }
    )*};
}
element!(u8 => U8, u32 => U32, i64 => I64, f32 => F32, f64 => F64);
