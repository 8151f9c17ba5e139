//! The machine a run ran on: what a reader needs to judge its speed, and to run it again.

use std::path::Path;

use serde::{Deserialize, Serialize};

/// Host version, system and processor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Environment {
    /// Version of the host.
    pub host_version: String,
    /// Operating system and processor architecture, as in `linux x86_64`.
    pub platform: String,
    /// The processor's own name, empty where the system does not tell.
    pub cpu: String,
    /// Vector instructions found at run time, the ones the host's kernels can use.
    pub cpu_features: Vec<String>,
    /// Logical processors available to the process.
    pub cpus: usize,
    /// Threads the host computes with.
    pub threads: usize,
    /// Main memory in bytes, 0 where the system does not tell.
    pub memory_bytes: u64,
    /// The device the tensors live on, as in `cpu`.
    pub device: String,
}

impl Environment {
    /// Looks at this machine. `threads` is what the run resolved to, `device` where its tensors live.
    pub fn detect(threads: usize, device: impl Into<String>) -> Self {
        Self {
            host_version: env!("CARGO_PKG_VERSION").to_owned(),
            platform: format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
            cpu: field_of("/proc/cpuinfo", "model name").unwrap_or_default(),
            cpu_features: cpu_features(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            threads,
            memory_bytes: field_of("/proc/meminfo", "MemTotal")
                .and_then(|text| kib(&text))
                .unwrap_or(0),
            device: device.into(),
        }
    }
}

/// The machine's name for file names: letters, digits, dots and dashes only.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default();
    let name: String = name
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'))
        .collect();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

/// The first `name: value` (or `name<tabs>: value`) line of a file of the kernel's.
fn field_of(file: impl AsRef<Path>, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    let (_, value) = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)?;
    Some(value.split_whitespace().collect::<Vec<_>>().join(" "))
}

fn kib(text: &str) -> Option<u64> {
    Some(text.strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<String> {
    let found = [
        ("sse4.2", std::arch::is_x86_feature_detected!("sse4.2")),
        ("avx", std::arch::is_x86_feature_detected!("avx")),
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        (
            "avx512bf16",
            std::arch::is_x86_feature_detected!("avx512bf16"),
        ),
        (
            "avx512vnni",
            std::arch::is_x86_feature_detected!("avx512vnni"),
        ),
    ];
    found
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(target_arch = "aarch64")]
fn cpu_features() -> Vec<String> {
    let found = [
        ("neon", std::arch::is_aarch64_feature_detected!("neon")),
        ("fp16", std::arch::is_aarch64_feature_detected!("fp16")),
        (
            "dotprod",
            std::arch::is_aarch64_feature_detected!("dotprod"),
        ),
        ("bf16", std::arch::is_aarch64_feature_detected!("bf16")),
        ("sve", std::arch::is_aarch64_feature_detected!("sve")),
    ];
    found
        .into_iter()
        .filter(|(_, present)| *present)
        .map(|(name, _)| name.to_owned())
        .collect()
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn cpu_features() -> Vec<String> {
    Vec::new()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn fields_of_kernel_files_are_found_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("info");
        std::fs::write(
            &file,
            "MemTotal:       16384 kB\nmodel name\t: Some  CPU @ 2.0GHz\nmodel name\t: Other\n",
        )
        .unwrap();
        assert_eq!(field_of(&file, "model name").unwrap(), "Some CPU @ 2.0GHz");
        assert_eq!(
            field_of(&file, "MemTotal").and_then(|text| kib(&text)),
            Some(16384 * 1024)
        );
        assert_eq!(field_of(&file, "absent"), None);
    }

    #[test]
    fn the_environment_names_the_run_and_the_machine() {
        let environment = Environment::detect(3, "cpu");
        assert_eq!(environment.threads, 3);
        assert_eq!(environment.host_version, env!("CARGO_PKG_VERSION"));
        assert!(environment.cpus >= 1 && environment.platform.contains(std::env::consts::ARCH));
        assert!(!host_name().is_empty() && !host_name().contains('/'));
    }
}
