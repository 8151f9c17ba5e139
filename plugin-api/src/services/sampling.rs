//! Pictures drawn by the host's sampler, for memory banks, previews and distillation.

use super::{Model, Sample};
use crate::{Batch, Host, Result, Tensor, message::message};

message! {
    /// Asks for pictures.
    pub struct SampleIn {
        /// Which weights.
        pub model: Model,
        /// How many.
        pub count: usize,
        /// Number of the first one: picture `i` depends on the seed and on `first + i` alone, whatever the batch size.
        pub first: u64,
        /// How many at a time.
        pub batch_size: usize,
        /// A class for each; missing means unconditional.
        pub class_labels: Option<Vec<u32>>,
        /// A caption for each; missing means none.
        pub captions: Option<Vec<String>>,
        /// Denoising steps.
        pub steps: usize,
        /// Scale of classifier-free guidance; 1 is none.
        pub guidance: f64,
        /// Seed.
        pub seed: u64,
        /// `ddpm`, `ddim`, `dpm++` or `euler`.
        pub sampler: String,
        /// Whether to decode: pictures if so, latents if not.
        pub decode: bool,
        /// What to call the work in the progress bar; missing means no bar.
        pub label: Option<String>,
        /// More inputs by name, one row a picture, for the hooks of the current model: they are in the bag of `sample_begin`.
        pub batch: Batch,
    }
}

message! {
    /// The pictures.
    pub struct SampleOut {
        /// `[count, 3, H, W]` f32 in -1..1, or latents.
        pub images: Tensor,
    }
}

/// What to draw; start from `SampleRequest::new(count)` and set what differs.
///
/// ```no_run
/// # fn demo(host: &plugin_api::Host) -> plugin_api::Result<()> {
/// use plugin_api::SampleRequest;
///
/// let images = host.sample(SampleRequest { guidance: 4.0, class_labels: Some(vec![0, 1, 2, 3]), ..SampleRequest::new(4) })?;
/// assert_eq!(images.dim(0)?, 4);
/// # Ok(())
/// # }
/// ```
pub type SampleRequest = SampleIn;

impl SampleIn {
    /// `count` unconditional pictures of the frozen model: 50 DDIM steps, no guidance, seed 0, eight at a time.
    pub fn new(count: usize) -> Self {
        SampleIn {
            model: Model::Frozen,
            count,
            first: 0,
            batch_size: 8,
            class_labels: None,
            captions: None,
            steps: 50,
            guidance: 1.0,
            seed: 0,
            sampler: "ddim".to_owned(),
            decode: true,
            label: None,
            batch: Batch::new(),
        }
    }
}

impl Host {
    /// Draws pictures: `[count, 3, H, W]` f32 in -1..1 (or latents, see [`SampleIn::decode`]). No gradients.
    ///
    /// The frozen model draws alone; the current one draws with every plugin's layers, residuals and sampling hooks but `output`.
    ///
    /// # Errors
    /// For an unknown sampler, labels that do not match the count, or [`Error::Reentrant`](crate::Error::Reentrant)
    /// (see [`Model::Current`]).
    pub fn sample(&self, request: SampleRequest) -> Result<Tensor> {
        Ok(self.call::<Sample>(request)?.images)
    }
}
