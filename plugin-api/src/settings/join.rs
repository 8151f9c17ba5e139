//! Joins texts at compile time, which is how a schema made of several types' schemas can be one constant.

/// Length of the texts together; used by the derive.
pub const fn joined_len(parts: &[&str]) -> usize {
    let (mut len, mut index) = (0, 0);
    while index < parts.len() {
        len += parts[index].len();
        index += 1;
    }
    len
}

/// The texts together; `N` is [`joined_len`]. Used by the derive.
pub const fn join<const N: usize>(parts: &[&str]) -> [u8; N] {
    let mut out = [0; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let bytes = parts[part].as_bytes();
        let mut index = 0;
        while index < bytes.len() {
            out[at] = bytes[index];
            at += 1;
            index += 1;
        }
        part += 1;
    }
    out
}

/// Joins constant texts into one; used by the derive.
#[doc(hidden)]
#[macro_export]
macro_rules! __join_texts {
    ($($part:expr),* $(,)?) => {{
        const PARTS: &[&str] = &[$($part),*];
        const BYTES: [u8; $crate::settings::joined_len(PARTS)] = $crate::settings::join(PARTS);
        match ::core::str::from_utf8(&BYTES) {
            Ok(text) => text,
            Err(_) => panic!("texts joined are text"),
        }
    }};
}
