//! Write one fine-tuning method for diffusion models as one safe file.
//!
//! A host program owns the pretrained model and the training loop. A plugin is a shared library that takes some of the loop's *slots*
//! ([`slots`]): it draws the timesteps, weighs the loss, adapts layers, makes the noise. This crate is all a plugin depends on. It never
//! sees the host's tensor library: a [`Tensor`] is a handle, its operations run in the host, on the host's device and under the host's
//! autograd, so a plugin's file is small and keeps working when the host changes.
//!
//! # A complete plugin
//!
//! Min-SNR weighting (Hang et al., ICCV 2023; arXiv 2303.09556): a sample at signal-to-noise ratio `snr` counts `min(snr, gamma) / snr`.
//!
//! ```
//! #![forbid(unsafe_code)]
//! use plugin_api::{
//!     Host, Plugin, Result, Settings, Tensor, bail, export_plugin,
//!     hooks::{LossWeightHook, LossWeightIn, PrepareHook},
//! };
//!
//! /// What can be set; the comments become the help that `host plugin inspect` prints.
//! #[derive(Settings)]
//! pub struct MinSnrSettings {
//!     /// Signal-to-noise ratio above which samples count less; the paper's choice is 5.
//!     #[setting(default = 5.0, above = 0)]
//!     gamma: f64,
//! }
//!
//! pub struct MinSnr {
//!     gamma: f64,
//! }
//!
//! impl Plugin for MinSnr {
//!     type Settings = MinSnrSettings;
//!     const ID: &'static str = "min_snr";
//!     const SUMMARY: &'static str = "Weighs samples by min(snr, gamma) / snr.";
//!
//!     fn build(settings: MinSnrSettings, _host: &Host) -> Result<Self> {
//!         Ok(MinSnr { gamma: settings.gamma })
//!     }
//! }
//!
//! export_plugin!(MinSnr: Prepare, LossWeight);
//!
//! impl PrepareHook for MinSnr {
//!     fn prepare(&mut self, host: &Host) -> Result<()> {
//!         let process = host.process()?;
//!         if process.prediction != "epsilon" {
//!             bail!("these weights are for epsilon prediction, and the model predicts {}", process.prediction);
//!         }
//!         tracing::info!(gamma = self.gamma, "samples will be weighed");
//!         Ok(())
//!     }
//! }
//!
//! impl LossWeightHook for MinSnr {
//!     fn loss_weight(&mut self, at: &LossWeightIn, host: &Host) -> Result<Tensor> {
//!         let snr = host.snr(&at.timesteps)?; // [B]
//!         let weight = (snr.minimum(self.gamma)? / &snr)?;
//!         host.metric("mean_weight", weight.mean_all()?.to_scalar()?)?;
//!         Ok(weight)
//!     }
//! }
//!
//! // A unit test needs no host program: `testing` has a small one.
//! use plugin_api::{Batch, testing::TestHost};
//!
//! # fn main() -> Result<()> {
//! let host = TestHost::new();
//! let mut plugin: MinSnr = host.build(r#"{ "gamma": 1 }"#)?;
//! plugin.prepare(&host)?;
//! let timesteps = Tensor::from_slice(&[100u32, 900], [2], &host)?;
//! let loss = timesteps.full_like(1.0, [2])?;
//! let at = LossWeightIn { batch: Batch::new(), timesteps, loss, num_train_timesteps: 1000 };
//! let weights = plugin.loss_weight(&at, &host)?.to_vec::<f32>()?;
//! assert!(weights[0] < 0.1 && weights[1] == 1.0);
//! # Ok(())
//! # }
//! ```
//!
//! Its `Cargo.toml` wants `crate-type = ["cdylib", "rlib"]`, and `plugin-api` and `tracing` as dependencies. Then
//!
//! ```text
//! cargo build --release
//! host plugin inspect target/release/libmin_snr.so      # read, not run
//! host run --plugin target/release/libmin_snr.so --set min_snr.gamma=3
//! ```
//!
//! # Where to look
//!
//! * [`hooks`]: what a plugin can do, one trait a slot, with shapes and units.
//! * [`Tensor`]: candle's method names; operators return `Result`.
//! * [`Host`]: parameters, random numbers, the model's parts, sampling, caches, metrics; by family in [`services`].
//! * [`Settings`]: typed settings whose limits the host checks before any weight loads.
//! * [`testing`]: a host for unit tests.
//! * [`abi`], [`ops`], [`slots`], [`services`], [`message`], [`manifest`]: the boundary itself, for those who write a host.
//!
//! # What the boundary promises
//!
//! * A plugin file runs in every later host of the same major version; it says which host it needs at least, and an older one refuses
//!   it with a sentence. What a host lacks is [`Error::Unsupported`], never a crash.
//! * A panic in a hook becomes an error with its message, file and line; the host stops the run after saving the last good step. Aborts
//!   and stack overflows cannot be contained: a plugin has the rights of the process.
//! * Log with `tracing`: lines reach the host's log with the plugin's name.
//! * Hooks of one plugin are called one at a time. Given the host's seed, draw random numbers from [`Host::random`] alone, and a
//!   resumed run equals an uninterrupted one.

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
    AdapterFile, AdapterUpdates, BackboneInfo, BlockCopy, CacheEntry, Init, LayerInfo, LayerKind,
    LayerUpdate, Model, ProcessInfo, RunInfo, SampleRequest, Weights,
};
pub use settings::Settings;
pub use tensor::{Conv2d, D, Dim, Dims, Operand, Tensor};

// The code on these pages is compiled by `cargo test --doc`.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

#[cfg(doctest)]
#[doc = include_str!("../../docs/src/plugin_guide.md")]
struct PluginGuide;
