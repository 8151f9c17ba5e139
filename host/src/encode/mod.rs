//! Between images and latents.
