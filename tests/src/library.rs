//! Copies of a plugin's file that are broken in one place each.

use std::path::{Path, PathBuf};

/// A shared library's bytes, to be changed.
#[derive(Debug, Clone)]
pub struct Library(pub Vec<u8>);

impl Library {
    /// Reads a file.
    pub fn read(file: &Path) -> Self {
        Self(std::fs::read(file).unwrap())
    }

    /// Writes `libNAME.so` into a folder, which is made, and gives its path.
    pub fn write(&self, folder: &Path, name: &str) -> PathBuf {
        std::fs::create_dir_all(folder).unwrap();
        let file = folder.join(format!("lib{name}.so"));
        std::fs::write(&file, &self.0).unwrap();
        file
    }

    /// Only the first bytes.
    #[must_use]
    pub fn cut(mut self, length: usize) -> Self {
        self.0.truncate(length);
        self
    }

    /// Another text of the same length wherever `from` stands.
    #[must_use]
    #[track_caller]
    pub fn replaced(mut self, from: &str, to: &str) -> Self {
        assert_eq!(from.len(), to.len());
        let places: Vec<usize> = (0..self.0.len() - from.len())
            .filter(|&at| self.0[at..].starts_with(from.as_bytes()))
            .collect();
        assert!(!places.is_empty(), "`{from}` is not in the file");
        for at in places {
            self.0[at..at + to.len()].copy_from_slice(to.as_bytes());
        }
        self
    }

    /// Made for a processor that is not this one.
    #[must_use]
    pub fn for_another_processor(mut self) -> Self {
        const MACHINE: usize = 18;
        const X86_64: u16 = 62;
        const AARCH64: u16 = 183;
        let here = u16::from_le_bytes([self.0[MACHINE], self.0[MACHINE + 1]]);
        let other = if here == AARCH64 { X86_64 } else { AARCH64 };
        self.0[MACHINE..MACHINE + 2].copy_from_slice(&other.to_le_bytes());
        self
    }

    /// With every instruction replaced by one that no process survives: what the file is, stays readable, and executing any of it ends in a signal.
    #[must_use]
    pub fn deadly(mut self) -> Self {
        const TABLE: usize = 32;
        const ENTRY_SIZE: usize = 54;
        const ENTRIES: usize = 56;
        const LOADED: u32 = 1;
        const EXECUTABLE: u32 = 1;
        let table = self.number(TABLE, 8);
        for entry in 0..self.number(ENTRIES, 2) {
            let at = table + entry * self.number(ENTRY_SIZE, 2);
            let (kind, flags) = (self.number(at, 4) as u32, self.number(at + 4, 4) as u32);
            if kind == LOADED && flags & EXECUTABLE != 0 {
                let (offset, size) = (self.number(at + 8, 8), self.number(at + 32, 8));
                // Zero is no instruction on ARM; on x86 it would be one, 0xCC traps.
                self.0[offset..offset + size].fill(if cfg!(target_arch = "x86_64") {
                    0xcc
                } else {
                    0
                });
            }
        }
        self
    }

    /// A little-endian number of the 64-bit ELF header or of a program header.
    fn number(&self, at: usize, bytes: usize) -> usize {
        self.0[at..at + bytes]
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | usize::from(byte))
    }
}
