//! What a command gave back, and the two ways it may: done, or refused in one sentence.

use std::process::Output;

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The exit code; none when a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The command line, for messages.
    command: String,
}

impl Outcome {
    pub(crate) fn new(command: String, output: &Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout.clone()).unwrap(),
            stderr: String::from_utf8(output.stderr.clone()).unwrap(),
            command,
        }
    }

    /// The command must have ended with exit code 0.
    #[track_caller]
    pub fn done(self) -> Self {
        self.ended(0)
    }

    /// The command must have ended with this exit code.
    #[track_caller]
    pub fn ended(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.told());
        self
    }

    /// The command must have failed with this exit code and one line of error that contains every one of `parts`; nothing but a `help:` line may
    /// come after it. Gives that line without `error: `.
    #[track_caller]
    pub fn refused(self, code: i32, parts: &[&str]) -> String {
        assert_eq!(self.code, Some(code), "{}", self.told());
        let lines: Vec<&str> = self.stderr.lines().collect();
        let at = lines.iter().position(|line| line.starts_with("error: "));
        let at = at.unwrap_or_else(|| panic!("no line begins with `error: `\n{}", self.told()));
        let rest = &lines[at + 1..];
        assert!(
            rest.iter().all(|line| line.starts_with("help: ")),
            "{}",
            self.told()
        );
        let sentence = &lines[at]["error: ".len()..];
        for part in parts {
            assert!(
                sentence.contains(part),
                "`{part}` is not in the sentence\n{}",
                self.told()
            );
        }
        sentence.to_owned()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}\n{}", self.told()))
    }

    /// All of it, for a message.
    pub fn told(&self) -> String {
        let Self {
            code,
            stdout,
            stderr,
            command,
        } = self;
        format!("host {command}\nexit code {code:?}\n--- stdout\n{stdout}--- stderr\n{stderr}")
    }
}
