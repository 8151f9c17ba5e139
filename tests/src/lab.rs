//! A folder of its own for each test, with a backbone and pictures in it, in which the program runs as a user would run it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::{Outcome, built, material};

/// The arguments of `host run` that use diff_tuning with a memory bank that takes no time.
pub const DIFF_TUNING: &str = "--plugin diff_tuning --set diff_tuning.memory=4 --set diff_tuning.memory_steps=2 --set diff_tuning.ratio=0.5";

/// The arguments of every training run: small, on one thread, without a warm-up that would hide the first steps.
const SMALL: &str = "--backbone tiny --data pictures --batch-size 4 --threads 1 --lr 0.001 --set train.warmup_steps=0 \
                     --set data.workers=1 --set sample.steps=2 --set sample.count=2";

/// A working folder that holds the backbone `tiny` and the data folder `pictures`, and a cache and a home folder of its own.
#[derive(Debug)]
pub struct Lab {
    folder: TempDir,
}

impl Lab {
    /// A fresh folder.
    #[expect(clippy::new_without_default, reason = "it writes to the disk")]
    pub fn new() -> Self {
        let lab = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        material::write_backbone(&lab.path("tiny"));
        material::write_pictures(&lab.path("pictures"));
        lab
    }

    /// A fresh folder that also holds the text-to-image pipeline `sd` and the captioned pictures `captioned`.
    pub fn of_text() -> Self {
        let lab = Self::new();
        material::write_text_pipeline(&lab.path("sd"));
        material::write_captioned(&lab.path("captioned"));
        lab
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The file of a plugin of the workspace.
    pub fn plugin(&self, name: &str) -> PathBuf {
        built::host().with_file_name(format!("lib{name}.so"))
    }

    /// The program in this folder, with this test's cache, home and plugin path and nothing of the caller's that could change what it does.
    pub fn command(&self) -> Command {
        let mut command = Command::new(built::host());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        for name in [
            "HOST_LOG",
            "RUST_BACKTRACE",
            "RAYON_NUM_THREADS",
            "NO_COLOR",
            "HF_HUB_CACHE",
            "HF_HOME",
            "HF_ENDPOINT",
            "HF_TOKEN",
            "XDG_CACHE_HOME",
        ] {
            command.env_remove(name);
        }
        command
            .env("HOST_CACHE_DIR", self.path("cache"))
            .env("HOST_PLUGIN_PATH", self.path("plugins"))
            .env("HOME", self.path("home"))
            .env("XDG_DATA_HOME", self.path("home/data"));
        command
    }

    /// Runs the program with arguments separated by spaces.
    pub fn host(&self, arguments: &str) -> Outcome {
        self.host_with(&arguments.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`Lab::host`], with further environment variables.
    pub fn host_under(&self, variables: &[(&str, &str)], arguments: &str) -> Outcome {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        let output = command.args(arguments.split_whitespace()).output().unwrap();
        Outcome::new(arguments.to_owned(), &output)
    }

    /// Runs the program with these arguments.
    pub fn host_with(&self, arguments: &[&str]) -> Outcome {
        let output = self.command().args(arguments).output().unwrap();
        Outcome::new(arguments.join(" "), &output)
    }

    /// `host run` with the small settings of tests and these further arguments.
    pub fn train(&self, further: &str) -> Outcome {
        self.host(&training(further))
    }

    /// Runs four steps into `whole`, and two and then the others into `halves`: both end in the same checkpoint, byte for byte. `run` is given what to append to the
    /// arguments of a training run.
    #[track_caller]
    pub fn resumes_exactly(&self, run: impl Fn(&str) -> Outcome) {
        run("--steps 4 --out whole").done();
        run("--steps 2 --out halves").done();
        run("--steps 4 --out halves --resume").done();
        assert_eq!(self.checkpoint("whole", 4), self.checkpoint("halves", 4));
    }

    /// Starts what [`Lab::train`] runs, and leaves it running.
    pub fn start_training(&self, further: &str) -> Child {
        let mut command = self.command();
        command.args(training(further).split_whitespace());
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Waits for a process that [`Lab::start_training`] started.
    pub fn wait(&self, child: Child) -> Outcome {
        Outcome::new(
            "run, in the background".to_owned(),
            &child.wait_with_output().unwrap(),
        )
    }

    /// The lines of a run's metrics.jsonl; a number that was not finite reads as NaN.
    #[track_caller]
    pub fn metrics(&self, run: &str) -> Vec<BTreeMap<String, f64>> {
        let file = self.path(run).join("metrics.jsonl");
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let line = |line: &str| {
            let values: BTreeMap<String, Option<f64>> = serde_json::from_str(line).unwrap();
            values
                .into_iter()
                .map(|(name, value)| (name, value.unwrap_or(f64::NAN)))
                .collect()
        };
        text.lines().map(line).collect()
    }

    /// A JSON file.
    #[track_caller]
    pub fn json(&self, file: &str) -> serde_json::Value {
        let path = self.path(file);
        let text =
            std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        serde_json::from_slice(&text).unwrap()
    }

    /// Every file below a folder with its bytes, by path relative to it.
    #[track_caller]
    pub fn files(&self, folder: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.path(folder);
        let mut files = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder)
                .unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
            for entry in entries {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(files.insert(
                        path.strip_prefix(&root).unwrap().to_owned(),
                        std::fs::read(&path).unwrap(),
                    )),
                }
            }
        }
        files
    }

    /// Every file of a checkpoint with its bytes, but for the profile, which is the clock's.
    #[track_caller]
    pub fn checkpoint(&self, run: &str, step: u64) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut files = self.files(&format!("{run}/checkpoints/step-{step}"));
        assert!(files.remove(Path::new("profile.json")).is_some());
        files
    }

    /// The steps of the checkpoints of a run, ascending. A folder of another name in their place is a mistake of the program's.
    #[track_caller]
    pub fn checkpoints(&self, run: &str) -> Vec<u64> {
        let Ok(entries) = std::fs::read_dir(self.path(run).join("checkpoints")) else {
            return Vec::new();
        };
        let step = |name: &str| {
            name.strip_prefix("step-")
                .and_then(|step| step.parse().ok())
        };
        let mut steps: Vec<u64> = entries
            .map(|entry| entry.unwrap().file_name())
            .map(|name| {
                step(&name.to_string_lossy()).unwrap_or_else(|| panic!("{name:?} is no checkpoint"))
            })
            .collect();
        steps.sort_unstable();
        steps
    }

    /// Copies a folder of this lab.
    pub fn copy(&self, from: &str, to: &str) {
        for (file, bytes) in self.files(from) {
            self.write(Path::new(to).join(file), bytes);
        }
    }

    /// Writes a file; the folders above it are made.
    pub fn write(&self, file: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

/// A whole command line. What `further` says again replaces what [`SMALL`] says, since the program takes a flag once.
fn training(further: &str) -> String {
    let given: Vec<&str> = further
        .split_whitespace()
        .filter(|word| word.starts_with("--"))
        .collect();
    let mut words = SMALL.split_whitespace();
    let mut line = String::from("run");
    while let (Some(flag), Some(value)) = (words.next(), words.next()) {
        if flag == "--set" || !given.contains(&flag) {
            line += &format!(" {flag} {value}");
        }
    }
    format!("{line} {further}")
}
