//! The error every hook and every tensor operation returns.

use abi_stable::std_types::RString;

use crate::{
    abi::{Failure, Status},
    settings::SettingsError,
};

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, in a plugin or in what it asked of the host.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The plugin's own reason; make one with [`Error::msg`].
    #[error("{0}")]
    Message(String),
    /// The host refused or failed what was asked.
    #[error("{message}")]
    Host {
        /// The host's status code.
        status: Status,
        /// The host's sentence.
        message: String,
    },
    /// The other side is too old: it lacks an operation, a service or a hook.
    #[error("Unsupported: {who} has no {what}/{revision}")]
    Unsupported {
        /// `host` or a plugin's id.
        who: String,
        /// Name of what is missing.
        what: String,
        /// The revision asked for.
        revision: u32,
    },
    /// Tensor shapes that do not fit together.
    #[error("{what}: expected shape {expected:?}, got {got:?}")]
    Shape {
        /// Which tensor, in words.
        what: String,
        /// What it should have been.
        expected: Vec<usize>,
        /// What it is.
        got: Vec<usize>,
    },
    /// A dimension that the tensor does not have.
    #[error("{op}: dimension {dim} is out of range for shape {shape:?}")]
    Dimension {
        /// The operation.
        op: &'static str,
        /// The dimension asked for.
        dim: i64,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// A batch without a tensor or text that was asked for.
    #[error("the batch has no `{name}`; it has: {present}")]
    NotInBatch {
        /// The name asked for.
        name: String,
        /// The names it has, separated by commas.
        present: String,
    },
    /// A message across the boundary that lacks a field, or holds another kind of value in it.
    #[error("message field `{message}.{field}`: expected {expected}, got {got}")]
    Field {
        /// Name of the message type.
        message: &'static str,
        /// Name of the field.
        field: String,
        /// What should have been there.
        expected: &'static str,
        /// What was.
        got: &'static str,
    },
    /// Settings that do not fit the plugin's schema.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// Code panicked.
    #[error("panicked at {location}: {message}")]
    Panic {
        /// The panic's message.
        message: String,
        /// `file:line`.
        location: String,
    },
    /// A hook of this plugin was already running.
    #[error(
        "a hook of this plugin is already running, and what it asked of the host would run another one; ask for the frozen model instead"
    )]
    Reentrant,
    /// The run is being stopped; pass this on.
    #[error("the run is being stopped")]
    Cancelled,
    /// Reading or writing a file failed.
    #[error("{0}")]
    Io(String),
}

impl Error {
    /// An error with the plugin's own reason.
    pub fn msg(reason: impl std::fmt::Display) -> Self {
        Error::Message(reason.to_string())
    }

    /// The boundary's code for this error.
    pub fn status(&self) -> Status {
        match self {
            Error::Host { status, .. } => *status,
            Error::Unsupported { .. } => Status::UNSUPPORTED,
            Error::Shape { .. } | Error::Dimension { .. } => Status::INVALID,
            Error::Field { .. } => Status::MESSAGE,
            Error::Settings(_) => Status::SETTINGS,
            Error::Panic { .. } => Status::PANICKED,
            Error::Reentrant => Status::REENTRANT,
            Error::Cancelled => Status::CANCELLED,
            Error::Message(_) | Error::NotInBatch { .. } | Error::Io(_) => Status::ERROR,
        }
    }

    /// The boundary's form of this error; its code is [`Error::status`].
    pub fn into_failure(self) -> Failure {
        match self {
            Error::Panic { message, location } => Failure {
                message: RString::from(message),
                location: RString::from(location),
            },
            other => Failure {
                message: RString::from(other.to_string()),
                location: RString::new(),
            },
        }
    }

    /// The error that the other side reported.
    pub fn from_failure(status: Status, failure: Failure) -> Self {
        let message = failure.message.into_string();
        match status {
            Status::PANICKED => Error::Panic {
                message,
                location: failure.location.into_string(),
            },
            Status::CANCELLED => Error::Cancelled,
            Status::REENTRANT => Error::Reentrant,
            status => Error::Host { status, message },
        }
    }
}

impl From<String> for Error {
    fn from(reason: String) -> Self {
        Error::Message(reason)
    }
}

impl From<&str> for Error {
    fn from(reason: &str) -> Self {
        Error::Message(reason.to_owned())
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        Error::Io(error.to_string())
    }
}

/// Returns early with an [`Error::Message`] built as `format!` builds text.
#[macro_export]
macro_rules! bail {
    ($($text:tt)*) => {
        return ::std::result::Result::Err($crate::Error::Message(::std::format!($($text)*)))
    };
}
