//! Files that are not plugins, each refused with its own sentence. Real libraries are made from the C library of this machine.
#![allow(clippy::unwrap_used)]
#![cfg(target_os = "linux")]

use std::fs;
use std::path::PathBuf;

use super::*;

/// A real shared library: the C library this very program runs on.
fn libc() -> PathBuf {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps
        .lines()
        .find(|line| line.contains("/libc.so") || line.contains("/libc-"));
    PathBuf::from(line.unwrap().split_whitespace().last().unwrap())
}

/// Checks `bytes` as a file and gives the sentence that refuses them.
fn refusal(bytes: &[u8]) -> (Error, String) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libcandidate.so");
    fs::write(&path, bytes).unwrap();
    let error = check(&path).unwrap_err();
    let text = error.to_string();
    assert!(!text.contains('\n'), "one sentence: {text}");
    (error, text)
}

fn patched(offset: usize, with: &[u8]) -> Vec<u8> {
    let mut bytes = fs::read(libc()).unwrap();
    bytes[offset..offset + with.len()].copy_from_slice(with);
    bytes
}

#[test]
fn a_library_without_a_manifest_is_no_plugin() {
    let error = check(&libc()).unwrap_err();
    assert!(matches!(error, Error::NotAPlugin { .. }), "{error}");
}

#[test]
fn a_missing_file_is_unreadable() {
    let error = check(Path::new("/nowhere/libx.so")).unwrap_err();
    assert!(matches!(error, Error::Unreadable { .. }), "{error}");
}

#[test]
fn text_is_not_a_library() {
    let (error, text) = refusal(b"just some words\n");
    assert!(matches!(error, Error::NotALibrary { .. }));
    assert!(
        text.ends_with("is not a shared library: it is a text file"),
        "{text}"
    );
    assert!(refusal(b"").1.ends_with("it is empty"));
    assert!(
        refusal(&[0xde, 0xad, 0xbe, 0xef, 0])
            .1
            .contains("starts with de ad be ef")
    );
}

#[test]
fn every_truncation_is_found() {
    let bytes = fs::read(libc()).unwrap();
    for length in [
        5,
        17,
        63,
        64,
        65,
        1000,
        4096,
        bytes.len() / 2,
        bytes.len() - 1,
    ] {
        let (error, text) = refusal(&bytes[..length]);
        assert!(
            matches!(error, Error::Truncated { size, needed, .. } if size == length as u64 && needed > size)
                || (length < 16
                    && matches!(error, Error::NotALibrary { .. } | Error::Damaged { .. })),
            "{length}: {text}"
        );
    }
}

#[test]
fn another_processor_is_named() {
    let other = if cfg!(target_arch = "aarch64") {
        object::elf::EM_X86_64
    } else {
        object::elf::EM_AARCH64
    };
    let (error, text) = refusal(&patched(18, &other.0.to_le_bytes()));
    assert!(matches!(error, Error::WrongArchitecture { .. }), "{text}");
    assert!(text.contains("is built for "), "{text}");
    let (error, text) = refusal(&patched(18, &0x1234u16.to_le_bytes()));
    assert!(matches!(error, Error::WrongArchitecture { .. }), "{text}");
    assert!(text.contains("4660"), "{text}");
}

#[test]
fn another_word_size_is_named() {
    let (error, text) = refusal(&patched(4, &[1]));
    assert!(matches!(error, Error::WrongFormat { .. }), "{text}");
    assert!(text.contains("32-bit ELF"), "{text}");
}

#[test]
fn another_byte_order_is_named() {
    let (error, text) = refusal(&patched(5, &[2]));
    assert!(matches!(error, Error::WrongArchitecture { .. }), "{text}");
    assert!(text.contains("big-endian"), "{text}");
}

#[test]
fn programs_and_object_files_are_not_libraries() {
    for (kind, name) in [
        (1u16, "an object file"),
        (2, "a program"),
        (4, "a core dump"),
    ] {
        let (error, text) = refusal(&patched(16, &kind.to_le_bytes()));
        assert!(matches!(error, Error::WrongKind { .. }), "{text}");
        assert!(text.contains(name), "{text}");
    }
}

#[test]
fn libraries_of_other_systems_are_named() {
    let mut windows = vec![0u8; 0x100];
    windows[..2].copy_from_slice(b"MZ");
    windows[0x3c] = 0x40;
    windows[0x40..0x44].copy_from_slice(b"PE\0\0");
    windows[0x44..0x46].copy_from_slice(&0x8664u16.to_le_bytes());
    windows[0x58..0x5a].copy_from_slice(&0x20bu16.to_le_bytes());
    let (error, text) = refusal(&windows);
    assert!(matches!(error, Error::WrongFormat { .. }), "{text}");
    assert!(text.contains("Windows"), "{text}");
    let (error, text) = refusal(&[0xcf, 0xfa, 0xed, 0xfe, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    assert!(matches!(error, Error::WrongFormat { .. }), "{text}");
    assert!(text.contains("macOS"), "{text}");
}

#[test]
fn a_file_everyone_can_write_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libopen.so");
    fs::copy(libc(), &path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let error = check(&path).unwrap_err();
    assert!(matches!(error, Error::WorldWritable { .. }), "{error}");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(check(&path), Err(Error::NotAPlugin { .. })));
}

#[test]
fn headers_full_of_noise_never_panic() {
    let bytes = fs::read(libc()).unwrap();
    let bytes = &bytes[..8192.min(bytes.len())];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("libnoise.so");
    let mut state = 1u64;
    for _ in 0..300 {
        let mut noisy = bytes.to_vec();
        for _ in 0..8 {
            state = state
                .wrapping_mul(6364136223846793005)
                .wrapping_add(1442695040888963407);
            let at = 16 + (state >> 33) as usize % 800;
            noisy[at] = (state >> 25) as u8;
        }
        fs::write(&path, &noisy).unwrap();
        check(&path).unwrap_err();
    }
}
