//! The plugin side.

extern crate self as plugin_api;

pub mod abi;
mod batch;
mod dtype;
mod error;
pub mod export;
pub mod hooks;
mod host;
#[doc(hidden)]
pub mod listing;
pub mod manifest;
pub mod message;
pub mod ops;
pub mod panics;
mod plugin;
pub mod services;
pub mod settings;
pub mod slots;
mod tensor;
pub mod testing;

pub use abi::Phase;
pub use batch::Batch;
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use host::Host;
pub use plugin::{Plugin, StoredTensor};
pub use plugin_api_derive::Settings;
pub use services::{
    BackboneInfo, BlockCopy, CacheEntry, Init, LayerInfo, LayerKind, Model, ProcessInfo, RunInfo,
    SampleRequest,
};
pub use settings::Settings;
pub use tensor::{Conv2d, D, Dim, Dims, Operand, Tensor};
