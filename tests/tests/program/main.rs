//! The real program with real plugin files, as a user would run them.
#![allow(clippy::unwrap_used)]

mod adapters;
mod bad_backbone;
mod bad_data;
mod bad_plugin;
mod bad_settings;
mod bench;
mod composition;
mod controlnet;
mod e2e_ft;
mod evaluation;
mod failures;
mod hub;
mod interchange;
mod latent;
mod lora;
mod lora_goldens;
mod models;
mod one_pic;
mod plugins;
mod pretrain;
mod resume;
mod run_folder;
mod sampling;
mod text;
mod tiny_sd;
mod training;
mod unet;
