//! How a call across the boundary says whether it worked: a status code, and on failure a message and a place.

use abi_stable::{StableAbi, std_types::RString};

use crate::Error;

/// Outcome of a call across the boundary. Open: a reader treats a code it does not know as [`Status::ERROR`].
#[repr(transparent)]
#[derive(StableAbi, Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Status(pub u32);

impl Status {
    /// It worked; the out values are written.
    pub const OK: Status = Status(0);
    /// It failed for the reason in the message.
    pub const ERROR: Status = Status(1);
    /// The other side does not know this operation, service, slot or method.
    pub const UNSUPPORTED: Status = Status(2);
    /// Shapes, dtypes or values do not fit the operation.
    pub const INVALID: Status = Status(3);
    /// The code panicked; the message is the panic's, the location its file and line.
    pub const PANICKED: Status = Status(4);
    /// The run is stopping (for example Ctrl-C); give up quietly.
    pub const CANCELLED: Status = Status(5);
    /// The plugin was called while one of its hooks was running.
    pub const REENTRANT: Status = Status(6);
    /// The settings text was refused.
    pub const SETTINGS: Status = Status(7);
    /// A message lacked a field, or a field had the wrong kind.
    pub const MESSAGE: Status = Status(8);
}

/// Why a call failed. Written by the callee through its `failure` pointer whenever it returns a status other than OK.
#[repr(C)]
#[derive(StableAbi, Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// One sentence for a person.
    pub message: RString,
    /// `file:line` where a panic began; empty for ordinary errors.
    pub location: RString,
}

/// Runs `work`, catching a panic, and turns its result into the boundary's form: the value, or a status with `failure` filled.
///
/// Both sides wrap every exported function body in this, because a panic that leaves an `extern "C"` function aborts the process.
pub fn report<T>(
    failure: &mut Failure,
    work: impl FnOnce() -> Result<T, Error>,
) -> Result<T, Status> {
    match crate::panics::catch(work) {
        Ok(value) => Ok(value),
        Err(error) => {
            let status = error.status();
            *failure = error.into_failure();
            Err(status)
        }
    }
}
