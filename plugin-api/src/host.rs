//! The host as a hook sees it: a borrowed handle whose methods are the host's services.

use crate::{
    DType, Error, Result,
    abi::{Failure, HostHandle, Packet, Phase, Status},
    message::Message,
    services::{Service, ServiceDef},
};

/// The host, for the length of one hook call. Every hook gets one; the methods are grouped by file in [`services`](crate::services).
///
/// What a service returns (tensors, parameters, paths) may be kept; the `Host` itself may not, which its borrow ensures.
pub struct Host {
    handle: HostHandle,
}

impl Host {
    /// Wraps what the host passed.
    ///
    /// # Safety
    /// The tables and pointers in `handle` are a host's, as [`HostHandle`] describes, and `context` stays valid for as long as
    /// the value lives.
    pub unsafe fn from_handle(handle: HostHandle) -> Self {
        Host { handle }
    }

    /// The boundary's form.
    pub fn handle(&self) -> &HostHandle {
        &self.handle
    }

    /// The training step, from 0; while preparing and sampling, the number of steps done.
    pub fn step(&self) -> u64 {
        self.handle.step
    }

    /// What the host is doing.
    pub fn phase(&self) -> Phase {
        self.handle.phase
    }

    /// Whether this is a training step, when dropout and similar noise should be on.
    pub fn is_training(&self) -> bool {
        self.handle.phase == Phase::TRAIN
    }

    /// Element type in which the host computes.
    ///
    /// # Errors
    /// When the host fails.
    pub fn dtype(&self) -> Result<DType> {
        Ok(DType(self.run()?.dtype))
    }

    /// Whether this host knows a service.
    pub fn supports(&self, service: Service) -> bool {
        // SAFETY: the table is a host's, valid for the process.
        unsafe { self.handle.services.supports()(service.code) }
    }

    /// Whether this host's tensors know an operation.
    pub fn supports_op(&self, op: crate::ops::Op) -> bool {
        // SAFETY: the table is a host's, valid for the process.
        unsafe { self.handle.tensors.supports()(op.code, op.revision) }
    }

    /// Calls a service with its typed messages.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when the host is too old for it, else the host's reason.
    pub fn call<S: ServiceDef>(&self, request: S::In) -> Result<S::Out> {
        let mut request = std::mem::ManuallyDrop::new(request.encode());
        let mut reply = Packet::new();
        let mut failure = Failure::default();
        // SAFETY: `context` is valid while `self` lives; the callee moves out of `request`, which is therefore never dropped here.
        let status = unsafe {
            self.handle.services.call()(
                self.handle.context,
                S::SERVICE.code,
                &raw mut *request,
                &raw mut reply,
                &raw mut failure,
            )
        };
        match status {
            Status::OK => S::Out::decode(reply),
            Status::UNSUPPORTED => Err(Error::Unsupported {
                who: "host".into(),
                what: S::SERVICE.name.into(),
                revision: 1,
            }),
            status => Err(Error::from_failure(status, failure)),
        }
    }
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("step", &self.step())
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}
