//! The program and the plugin files under test: what cargo makes of this working tree, in the profile of the running test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The root of the repository.
pub fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The `host` program, beside the files of the plugins in the workspace.
pub(crate) fn host() -> &'static Path {
    static HOST: OnceLock<PathBuf> = OnceLock::new();
    HOST.get_or_init(|| {
        let place = Place::of_this_test();
        let mut cargo = cargo();
        cargo.args([
            "build",
            "--quiet",
            "-p",
            "host",
            "-p",
            "controlnet",
            "-p",
            "diff_tuning",
            "-p",
            "e2e_ft",
            "-p",
            "lora",
            "-p",
            "one_pic",
            "-p",
            "probe",
        ]);
        cargo.args(place.profile_arguments());
        cargo
            .arg("--target-dir")
            .arg(&place.target)
            .current_dir(workspace());
        succeed(&mut cargo).unwrap();
        place.target.join(&place.profile).join("host")
    })
}

/// The plugin of `examples/third_party`, built as its stranger would: from its own manifest and lock, outside the workspace.
pub fn third_party() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let place = Place::of_this_test();
        let target = place.target.join("third_party");
        let build = |network: &[&str]| {
            let mut cargo = cargo();
            cargo.args(["build", "--quiet", "--locked"]).args(network);
            cargo.arg("--target-dir").arg(&target);
            cargo.current_dir(workspace().join("examples/third_party"));
            succeed(&mut cargo)
        };
        // Everything it needs is usually here already; a fresh machine may have to fetch.
        build(&["--offline"]).or_else(|_| build(&[])).unwrap();
        target.join("debug/libedge_consistency.so")
    })
}

/// Where cargo put the running test.
struct Place {
    target: PathBuf,
    /// The profile's folder: `debug`, `release`, or a profile's own name.
    profile: String,
}

impl Place {
    /// A test lies in TARGET/PROFILE/deps.
    fn of_this_test() -> Self {
        let test = std::env::current_exe().unwrap();
        let profile = test.parent().and_then(Path::parent).unwrap();
        Self {
            target: profile.parent().unwrap().to_owned(),
            profile: profile.file_name().unwrap().to_str().unwrap().to_owned(),
        }
    }

    fn profile_arguments(&self) -> Vec<String> {
        match self.profile.as_str() {
            "debug" => Vec::new(),
            profile => vec!["--profile".to_owned(), profile.to_owned()],
        }
    }
}

/// The cargo that runs this test, without what it told this test about the package it belongs to.
fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or(OsString::from("cargo")));
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            cargo.env_remove(&name);
        }
    }
    cargo
}

fn succeed(cargo: &mut Command) -> Result<(), String> {
    let output = cargo
        .output()
        .map_err(|error| format!("{cargo:?}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!(
            "{cargo:?}:\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
    }
}
