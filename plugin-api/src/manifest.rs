//! What a plugin file says about itself: JSON in a section of its own, built at compile time, so that it is read without running any of
//! the plugin's code.
//!
//! The section holds [`MAGIC`], the JSON's length as a little-endian `u32`, and the JSON; linkers may pad around it.

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    abi::{ABI_MAJOR, ABI_MINOR},
    ops::Op,
    slots::Slot,
};

/// First bytes of the section's content.
pub const MAGIC: [u8; 16] = *b"diffusion-plugin";

/// Name of the section in ELF files (Linux, BSD).
pub const SECTION_ELF: &str = ".plugin_manifest";
/// Name of the section in Mach-O files (macOS), in segment `__DATA`.
pub const SECTION_MACHO: &str = "__manifest";
/// Name of the section in COFF files (Windows), which allows eight bytes.
pub const SECTION_COFF: &str = ".plugman";

/// A plugin's manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Identity: lower-case letters, digits and `_`.
    pub id: String,
    /// The plugin's own version.
    pub version: String,
    /// What it does, in one line.
    pub summary: String,
    /// Names of the slots it takes.
    pub slots: Vec<String>,
    /// Ids of plugins it cannot work without.
    pub requires: Vec<String>,
    /// Ids of plugins it cannot work with.
    pub conflicts: Vec<String>,
    /// Ids of plugins that must come after it.
    pub before: Vec<String>,
    /// Ids of plugins that must come before it.
    pub after: Vec<String>,
    /// JSON Schema of its settings.
    pub settings: serde_json::Value,
    /// Version of the boundary it was built with.
    pub abi: AbiVersion,
    /// Version of the boundary it needs of the host: the lowest with every slot and operation it cannot do without.
    pub needs: AbiVersion,
    /// Version of `plugin-api` it was built with.
    pub api_version: String,
    /// What a panic does in it: `unwind`, or `abort`, which hosts refuse.
    pub panic: String,
}

/// A version of the boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AbiVersion {
    /// Equal on both sides, or they cannot talk.
    pub major: u32,
    /// The host's must be at least what the plugin needs.
    pub minor: u32,
}

impl Manifest {
    /// Reads the JSON of a manifest.
    ///
    /// # Errors
    /// When the text is no manifest.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text)
            .map_err(|error| Error::Message(format!("the manifest is damaged: {error}")))
    }

    /// Reads the content of a manifest section.
    ///
    /// # Errors
    /// When the bytes hold no manifest, or only a part of one.
    pub fn from_section(section: &[u8]) -> Result<Self> {
        let at = section
            .windows(MAGIC.len())
            .position(|window| window == MAGIC)
            .ok_or_else(|| Error::msg("the manifest section does not hold a manifest"))?;
        let cut = || Error::msg("the manifest is cut off");
        let rest = &section[at + MAGIC.len()..];
        let (length, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(|_| cut())?;
        let text = std::str::from_utf8(rest.get(..length).ok_or_else(cut)?)
            .map_err(|_| Error::msg("the manifest is not UTF-8"))?;
        Manifest::from_json(text)
    }
}

/// What `export_plugin!` knows about a plugin at compile time.
#[doc(hidden)]
#[derive(Debug, Clone, Copy)]
pub struct ManifestSpec {
    pub id: &'static str,
    pub version: &'static str,
    pub summary: &'static str,
    pub slots: &'static [Slot],
    pub requires: &'static [&'static str],
    pub conflicts: &'static [&'static str],
    pub before: &'static [&'static str],
    pub after: &'static [&'static str],
    pub ops: &'static [Op],
    pub schema: &'static str,
    pub panic: &'static str,
}

/// Bytes before the JSON.
#[doc(hidden)]
pub const PREFIX: usize = MAGIC.len() + 4;

impl ManifestSpec {
    /// Length of the section's content.
    pub const fn size(&self) -> usize {
        let mut counter = Writer::<0>::new();
        self.write(&mut counter, 0);
        counter.len
    }

    /// The section's content; `N` is [`ManifestSpec::size`].
    pub const fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut writer = Writer::<N>::new();
        self.write(&mut writer, N - PREFIX);
        assert!(
            writer.len == N,
            "the manifest's length is not the one measured"
        );
        writer.bytes
    }

    const fn write<const N: usize>(&self, out: &mut Writer<N>, json_len: usize) {
        assert!(
            is_id(self.id),
            "Plugin::ID must be lower-case letters, digits and `_`, beginning with a letter"
        );
        out.bytes(&MAGIC);
        out.bytes(&(json_len as u32).to_le_bytes());
        out.raw("{\"id\":");
        out.quoted(self.id);
        out.raw(",\"version\":");
        out.quoted(self.version);
        out.raw(",\"summary\":");
        out.quoted(self.summary);
        out.raw(",\"slots\":[");
        let mut needs = 0;
        let mut index = 0;
        while index < self.slots.len() {
            if index > 0 {
                out.raw(",");
            }
            out.quoted(self.slots[index].name);
            if self.slots[index].since > needs {
                needs = self.slots[index].since;
            }
            index += 1;
        }
        index = 0;
        while index < self.ops.len() {
            if self.ops[index].since > needs {
                needs = self.ops[index].since;
            }
            index += 1;
        }
        out.raw("],\"requires\":");
        out.list(self.requires);
        out.raw(",\"conflicts\":");
        out.list(self.conflicts);
        out.raw(",\"before\":");
        out.list(self.before);
        out.raw(",\"after\":");
        out.list(self.after);
        out.raw(",\"settings\":");
        out.raw(self.schema);
        out.raw(",\"abi\":");
        out.version(ABI_MAJOR, ABI_MINOR);
        out.raw(",\"needs\":");
        out.version(ABI_MAJOR, needs);
        out.raw(",\"api_version\":");
        out.quoted(env!("CARGO_PKG_VERSION"));
        out.raw(",\"panic\":");
        out.quoted(self.panic);
        out.raw("}");
    }
}

const fn is_id(id: &str) -> bool {
    let bytes = id.as_bytes();
    if bytes.is_empty() || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut index = 0;
    while index < bytes.len() {
        let byte = bytes[index];
        if !(byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_') {
            return false;
        }
        index += 1;
    }
    true
}

/// Appends JSON at compile time. With `N` too small it only counts, which is how the length is found first.
struct Writer<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Writer<N> {
    const fn new() -> Self {
        Writer {
            bytes: [0; N],
            len: 0,
        }
    }

    const fn byte(&mut self, byte: u8) {
        if self.len < N {
            self.bytes[self.len] = byte;
        }
        self.len += 1;
    }

    const fn bytes(&mut self, bytes: &[u8]) {
        let mut index = 0;
        while index < bytes.len() {
            self.byte(bytes[index]);
            index += 1;
        }
    }

    const fn raw(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    const fn quoted(&mut self, text: &str) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let bytes = text.as_bytes();
        self.byte(b'"');
        let mut index = 0;
        while index < bytes.len() {
            match bytes[index] {
                byte @ (b'"' | b'\\') => {
                    self.byte(b'\\');
                    self.byte(byte);
                }
                byte @ 0..=0x1f => {
                    self.raw("\\u00");
                    self.byte(HEX[(byte >> 4) as usize]);
                    self.byte(HEX[(byte & 15) as usize]);
                }
                byte => self.byte(byte),
            }
            index += 1;
        }
        self.byte(b'"');
    }

    const fn list(&mut self, items: &[&str]) {
        self.byte(b'[');
        let mut index = 0;
        while index < items.len() {
            if index > 0 {
                self.byte(b',');
            }
            self.quoted(items[index]);
            index += 1;
        }
        self.byte(b']');
    }

    const fn number(&mut self, number: u32) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.byte(b'0' + (number % 10) as u8);
    }

    const fn version(&mut self, major: u32, minor: u32) {
        self.raw("{\"major\":");
        self.number(major);
        self.raw(",\"minor\":");
        self.number(minor);
        self.byte(b'}');
    }
}
