//! Everything that can be known about a plugin file without executing it, checked before the system's loader sees it.
//!
//! The loader answers a truncated file with SIGBUS, a wrong architecture with "no such file", and runs the constructors of
//! anything else; so each of these gets its own sentence here, from the file's bytes alone.

use std::fs;
use std::path::{Path, PathBuf};

use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use object::read::macho::FatArch;
use object::{
    Architecture, Endianness, FileKind, Object, ObjectKind, ObjectSection, ObjectSegment,
};
use sha2::{Digest, Sha256};

use super::manifest::{self, Manifest};

/// A file that passed every check, and what it says about itself. Nothing of it has been executed.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The file, without symbolic links.
    pub path: PathBuf,
    /// Its length in bytes.
    pub size: u64,
    /// The SHA-256 of its bytes, in lower-case hexadecimal.
    pub sha256: String,
    /// Its manifest.
    pub manifest: Manifest,
}

/// Why a file cannot be a plugin of this host.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the plugin file {}: {source}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// Anyone on this machine could replace the code that would run.
    #[error("{} can be written by every user of this machine, so it is not loaded: `chmod o-w` it", .path.display())]
    WorldWritable {
        /// The file.
        path: PathBuf,
    },
    /// The file is of no format that holds code.
    #[error("{} is not a shared library: it is {found}", .path.display())]
    NotALibrary {
        /// The file.
        path: PathBuf,
        /// What it looks like.
        found: String,
    },
    /// A library for another operating system or word size.
    #[error("{} is {found}, and this host needs {expected}", .path.display())]
    WrongFormat {
        /// The file.
        path: PathBuf,
        /// What the file is.
        found: String,
        /// What the host needs.
        expected: &'static str,
    },
    /// Code for another processor.
    #[error("{} is built for {found}, and this host runs on {expected}", .path.display())]
    WrongArchitecture {
        /// The file.
        path: PathBuf,
        /// The file's architecture.
        found: String,
        /// The host's.
        expected: &'static str,
    },
    /// A program or an object file, not a shared library.
    #[error("{} is {found}, not a shared library: build it with `crate-type = [\"cdylib\"]`", .path.display())]
    WrongKind {
        /// The file.
        path: PathBuf,
        /// What it is instead.
        found: &'static str,
    },
    /// The file ends before what its headers describe.
    #[error("{} is cut short: it has {size} bytes and its headers describe {needed}; copy or build it again", .path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        size: u64,
        /// The length its headers need.
        needed: u64,
    },
    /// The headers contradict themselves.
    #[error("{} is damaged: {reason}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not hold.
        reason: String,
    },
    /// A sound library with no plugin manifest.
    #[error(
        "{} is a shared library but not a plugin: it has no {} section (plugins are made with `export_plugin!`)",
        .path.display(), manifest::SECTION
    )]
    NotAPlugin {
        /// The file.
        path: PathBuf,
    },
    /// There is a manifest and it does not parse or does not suit this host.
    #[error("{}: {source}", .path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: manifest::Error,
    },
}

/// Checks a plugin file and reads its manifest, executing nothing.
///
/// # Errors
/// The first thing found wrong, in the order of [`Error`]'s variants.
pub fn check(path: &Path) -> Result<Checked, Error> {
    let checked = read(path)?;
    let refuse = |source| Error::Manifest {
        path: checked.path.clone(),
        source,
    };
    manifest::suits_this_host(&checked.manifest).map_err(refuse)?;
    Ok(checked)
}

/// As [`check`], but a manifest that does not suit this host (a newer ABI, say) is no error: for `host plugin inspect`.
///
/// # Errors
/// As [`check`], except for what the manifest asks for.
pub fn read(path: &Path) -> Result<Checked, Error> {
    let unreadable = |source| Error::Unreadable {
        path: path.to_owned(),
        source,
    };
    let path = path.canonicalize().map_err(unreadable)?;
    refuse_world_writable(&path)?;
    let bytes = fs::read(&path).map_err(unreadable)?;
    let section =
        manifest_section(&path, &bytes)?.ok_or_else(|| Error::NotAPlugin { path: path.clone() })?;
    let manifest = manifest::parse(section).map_err(|source| Error::Manifest {
        path: path.clone(),
        source,
    })?;
    Ok(Checked {
        size: bytes.len() as u64,
        sha256: hex(&Sha256::digest(&bytes)),
        manifest,
        path,
    })
}

#[cfg(unix)]
fn refuse_world_writable(path: &Path) -> Result<(), Error> {
    use std::os::unix::fs::PermissionsExt;
    let metadata = fs::metadata(path).map_err(|source| Error::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    match metadata.permissions().mode() & 0o002 {
        0 => Ok(()),
        _ => Err(Error::WorldWritable {
            path: path.to_owned(),
        }),
    }
}

#[cfg(not(unix))]
fn refuse_world_writable(_path: &Path) -> Result<(), Error> {
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of the manifest section of a sound shared library of this machine's format, or `None` when it has none.
fn manifest_section<'data>(path: &Path, bytes: &'data [u8]) -> Result<Option<&'data [u8]>, Error> {
    let kind = FileKind::parse(bytes).map_err(|_| Error::NotALibrary {
        path: path.to_owned(),
        found: describe(bytes),
    })?;
    let bytes = match kind {
        FileKind::MachOFat32 | FileKind::MachOFat64 => own_slice(path, kind, bytes)?,
        _ => bytes,
    };
    let kind = FileKind::parse(bytes).map_err(|error| damaged(path, error))?;
    if kind != HOST_FORMAT.0 {
        return Err(Error::WrongFormat {
            path: path.to_owned(),
            found: format_name(kind),
            expected: HOST_FORMAT.1,
        });
    }
    if kind == FileKind::Elf64 {
        check_elf(path, bytes)?;
    }
    let file = object::File::parse(bytes).map_err(|error| damaged(path, error))?;
    check_target(path, &file)?;
    check_extents(path, &file, bytes)?;
    match file.section_by_name(manifest::SECTION) {
        None => Ok(None),
        Some(section) => section
            .data()
            .map(Some)
            .map_err(|error| damaged(path, error)),
    }
}

/// The format of this machine's shared libraries.
const HOST_FORMAT: (FileKind, &str) = if cfg!(windows) {
    (FileKind::Pe64, "a 64-bit Windows library (PE)")
} else if cfg!(target_vendor = "apple") {
    (FileKind::MachO64, "a 64-bit macOS library (Mach-O)")
} else {
    (FileKind::Elf64, "a 64-bit ELF library")
};

/// ELF by hand: `object` stops at the first table it cannot reach, and the sentence about a cut-short file wants its length.
fn check_elf(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let truncated = |needed| Error::Truncated {
        path: path.to_owned(),
        size: bytes.len() as u64,
        needed,
    };
    let header_size = std::mem::size_of::<object::elf::FileHeader64<Endianness>>() as u64;
    if (bytes.len() as u64) < header_size {
        return Err(truncated(header_size));
    }
    let damaged = |error| damaged(path, error);
    let header = object::elf::FileHeader64::<Endianness>::parse(bytes).map_err(damaged)?;
    let endian = header.endian().map_err(damaged)?;
    let big = matches!(endian, Endianness::Big);
    if big != cfg!(target_endian = "big") {
        let name = |big| if big { "big-endian" } else { "little-endian" };
        return Err(Error::WrongArchitecture {
            path: path.to_owned(),
            found: format!("a {} processor", name(big)),
            expected: name(cfg!(target_endian = "big")),
        });
    }
    if header.e_machine(endian) != HOST_MACHINE.0 {
        return Err(Error::WrongArchitecture {
            path: path.to_owned(),
            found: machine_name(header.e_machine(endian)),
            expected: HOST_MACHINE.1,
        });
    }
    let table =
        |offset: u64, count: u64, entry: u64| offset.saturating_add(count.saturating_mul(entry));
    let tables = [
        table(
            header.e_phoff(endian),
            u64::from(header.e_phnum(endian)),
            u64::from(header.e_phentsize(endian)),
        ),
        table(
            header.e_shoff(endian),
            u64::from(header.e_shnum(endian)),
            u64::from(header.e_shentsize(endian)),
        ),
    ];
    let mut needed = tables.into_iter().max().unwrap_or(0);
    // The tables tell how long the whole file must be, as far as they can be reached.
    if let Ok(segments) = header.program_headers(endian, bytes) {
        for segment in segments {
            needed = needed.max(table(segment.p_offset(endian), segment.p_filesz(endian), 1));
        }
    }
    if let Ok(sections) = header.section_headers(endian, bytes) {
        for section in sections {
            if let Some((offset, size)) = section.file_range(endian) {
                needed = needed.max(table(offset, size, 1));
            }
        }
    }
    if needed > bytes.len() as u64 {
        return Err(truncated(needed));
    }
    Ok(())
}

/// Architecture, byte order and kind, for every format.
fn check_target(path: &Path, file: &object::File<'_>) -> Result<(), Error> {
    let (expected, name) = HOST_ARCHITECTURE;
    if file.architecture() != expected {
        return Err(Error::WrongArchitecture {
            path: path.to_owned(),
            found: format!("{:?}", file.architecture()),
            expected: name,
        });
    }
    let found = match file.kind() {
        ObjectKind::Dynamic => return Ok(()),
        ObjectKind::Executable => "a program",
        ObjectKind::Relocatable => "an object file",
        ObjectKind::Core => "a core dump",
        _ => "another kind of object file",
    };
    Err(Error::WrongKind {
        path: path.to_owned(),
        found,
    })
}

/// Every segment and section must lie inside the file.
fn check_extents(path: &Path, file: &object::File<'_>, bytes: &[u8]) -> Result<(), Error> {
    let size = bytes.len() as u64;
    let segments = file.segments().map(|segment| segment.file_range());
    let sections = file.sections().filter_map(|section| section.file_range());
    let needed = segments
        .chain(sections)
        .map(|(offset, length)| offset.saturating_add(length))
        .max()
        .unwrap_or(0);
    if needed > size {
        return Err(Error::Truncated {
            path: path.to_owned(),
            size,
            needed,
        });
    }
    Ok(())
}

/// This processor's part of a macOS universal file.
fn own_slice<'data>(path: &Path, kind: FileKind, bytes: &'data [u8]) -> Result<&'data [u8], Error> {
    fn pick<'data, A: FatArch>(
        arches: &[A],
        bytes: &'data [u8],
    ) -> Result<Option<&'data [u8]>, object::Error> {
        arches
            .iter()
            .find(|arch| arch.architecture() == HOST_ARCHITECTURE.0)
            .map(|arch| arch.data(bytes))
            .transpose()
    }
    let picked = match kind {
        FileKind::MachOFat32 => object::read::macho::MachOFatFile32::parse(bytes)
            .and_then(|file| pick(file.arches(), bytes)),
        _ => object::read::macho::MachOFatFile64::parse(bytes)
            .and_then(|file| pick(file.arches(), bytes)),
    };
    picked
        .map_err(|error| damaged(path, error))?
        .ok_or_else(|| Error::WrongArchitecture {
            path: path.to_owned(),
            found: "other processors (a universal file)".to_owned(),
            expected: HOST_ARCHITECTURE.1,
        })
}

fn damaged(path: &Path, error: object::Error) -> Error {
    Error::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    }
}

const HOST_ARCHITECTURE: (Architecture, &str) = if cfg!(target_arch = "x86_64") {
    (Architecture::X86_64, "x86-64")
} else if cfg!(target_arch = "aarch64") {
    (Architecture::Aarch64, "64-bit ARM")
} else if cfg!(target_arch = "riscv64") {
    (Architecture::Riscv64, "64-bit RISC-V")
} else {
    (Architecture::Unknown, "an unknown processor")
};

const HOST_MACHINE: (object::elf::Machine, &str) = if cfg!(target_arch = "x86_64") {
    (object::elf::EM_X86_64, "x86-64")
} else if cfg!(target_arch = "aarch64") {
    (object::elf::EM_AARCH64, "64-bit ARM")
} else if cfg!(target_arch = "riscv64") {
    (object::elf::EM_RISCV, "64-bit RISC-V")
} else {
    (object::elf::EM_NONE, "an unknown processor")
};

fn machine_name(machine: object::elf::Machine) -> String {
    match machine {
        object::elf::EM_X86_64 => "x86-64".to_owned(),
        object::elf::EM_386 => "32-bit x86".to_owned(),
        object::elf::EM_AARCH64 => "64-bit ARM".to_owned(),
        object::elf::EM_ARM => "32-bit ARM".to_owned(),
        object::elf::EM_RISCV => "RISC-V".to_owned(),
        object::elf::EM_PPC64 => "64-bit PowerPC".to_owned(),
        object::elf::EM_S390 => "IBM Z".to_owned(),
        other => format!("the processor of ELF machine number {}", other.0),
    }
}

fn format_name(kind: FileKind) -> String {
    match kind {
        FileKind::Elf32 => "a 32-bit ELF file",
        FileKind::Elf64 => "a 64-bit ELF file",
        FileKind::MachO32 => "a 32-bit macOS file (Mach-O)",
        FileKind::MachO64 => "a 64-bit macOS file (Mach-O)",
        FileKind::Pe32 => "a 32-bit Windows file (PE)",
        FileKind::Pe64 => "a 64-bit Windows file (PE)",
        FileKind::Archive => "a static library archive",
        FileKind::Coff | FileKind::CoffBig | FileKind::CoffImport => "a Windows object file",
        _ => "an object file of another system",
    }
    .to_owned()
}

/// What a file that holds no code looks like, for the error.
fn describe(bytes: &[u8]) -> String {
    let text = |bytes: &[u8]| {
        bytes
            .iter()
            .all(|byte| matches!(byte, b'\t' | b'\n' | b'\r' | b' '..=b'~'))
    };
    match bytes {
        [] => "empty".to_owned(),
        [0x89, b'P', b'N', b'G', ..] => "a PNG image".to_owned(),
        [b'P', b'K', 3, 4, ..] => "a ZIP archive (a PyTorch checkpoint, perhaps)".to_owned(),
        [b'#', b'!', ..] => "a script".to_owned(),
        _ if text(&bytes[..bytes.len().min(512)]) => "a text file".to_owned(),
        _ => {
            let start: Vec<String> = bytes
                .iter()
                .take(4)
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!(
                "a file of unknown format (it starts with {})",
                start.join(" ")
            )
        }
    }
}

#[cfg(test)]
#[path = "preflight_tests.rs"]
mod tests;
