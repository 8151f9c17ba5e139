//! The machine a run ran on: what a reader needs to judge its speed, and to run it again.

use std::path::Path;
use std::time::Duration;

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

/// What the kernel tells of this process; each none where the system does not tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Time since it was started, to 10 ms.
    pub age: Option<Duration>,
    /// Time in which its threads worked, added up, to 10 ms.
    pub processor_time: Option<Duration>,
    /// The most memory it ever held, in bytes.
    pub peak_memory_bytes: Option<u64>,
    /// Its threads, working or not.
    pub threads: Option<u64>,
}

impl Process {
    /// Looks at this process, now.
    pub fn now() -> Self {
        const STATUS: &str = "/proc/self/status";
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        Self {
            age: started(&stat).and_then(|started| uptime()?.checked_sub(started)),
            processor_time: processor_time(&stat),
            peak_memory_bytes: field_of(STATUS, "VmHWM").and_then(|text| kib(&text)),
            threads: field_of(STATUS, "Threads").and_then(|text| text.parse().ok()),
        }
    }
}

/// The system's time up.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    let seconds = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

/// The system's time up when the process of this `stat` line was started.
fn started(stat: &str) -> Option<Duration> {
    stat_time(stat, 19)
}

/// Its time in user code and in the kernel.
fn processor_time(stat: &str) -> Option<Duration> {
    Some(stat_time(stat, 11)? + stat_time(stat, 12)?)
}

/// A field that holds a time, counted behind the program's name, which may itself hold spaces and brackets.
fn stat_time(stat: &str, field: usize) -> Option<Duration> {
    /// Linux counts in hundredths of a second for all who read `/proc`.
    const TICK: Duration = Duration::from_millis(10);
    let (_, fields) = stat.rsplit_once(')')?;
    let ticks: u32 = fields.split_whitespace().nth(field)?.parse().ok()?;
    Some(TICK * ticks)
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
        ("amx", crate::ops::tile_unit().is_none()),
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
    fn times_stand_at_their_places_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4 5 0 0 0 250 50 0 0 20 0 1 0 1234 99 1";
        assert_eq!(processor_time(stat), Some(Duration::from_secs(3)));
        assert_eq!(started(stat), Some(Duration::from_millis(12340)));
        assert_eq!(started(""), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_process_knows_its_age_memory_and_threads() {
        let before = Process::now();
        let held = vec![1u8; 64 << 20];
        let (stop, wait) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || wait.recv());
        std::thread::sleep(Duration::from_millis(60));
        let after = Process::now();
        drop(stop);
        thread.join().unwrap().unwrap_err();
        assert!(held.iter().all(|&byte| byte == 1));
        let passed = after.age.unwrap() - before.age.unwrap();
        assert!(passed >= Duration::from_millis(30) && passed < Duration::from_secs(60));
        assert!(after.processor_time.unwrap() >= before.processor_time.unwrap());
        assert!(after.peak_memory_bytes.unwrap() >= held.len() as u64);
        assert!(after.threads.unwrap() >= 2);
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
