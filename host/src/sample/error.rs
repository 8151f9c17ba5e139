//! What can be wrong with a request for samples.

use super::SamplerKind;

/// What can be wrong with a request for samples.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A sampler takes at least one step, and no more than the schedule has.
    #[error(
        "{steps} sampling steps; there can be 1 to {timesteps}, the number of training timesteps"
    )]
    Steps {
        /// The steps asked for.
        steps: usize,
        /// The number of training timesteps.
        timesteps: usize,
    },
    /// Timesteps that someone chose and no sampler can follow.
    #[error(
        "the timesteps to visit must fall strictly, from at most {last} to at least 0, and be one at least"
    )]
    Timesteps {
        /// The last training timestep.
        last: usize,
    },
    /// Rounding leads a spacing to one timestep twice.
    #[error(
        "{steps} sampling steps are too many for this sampler and spacing: two of them fall on one timestep"
    )]
    Crowded {
        /// The steps asked for.
        steps: usize,
    },
    /// The spacing and `steps_offset` lead outside the schedule.
    #[error(
        "steps_offset {offset} leads to timestep {timestep}, but the last training timestep is {last}"
    )]
    Offset {
        /// The offset of the scheduler file.
        offset: usize,
        /// The timestep it leads to.
        timestep: i64,
        /// The last training timestep.
        last: usize,
    },
    /// `eta` is a share of the noise of DDPM.
    #[error("eta is {0}; it must be between 0 (no noise) and 1 (as much as DDPM)")]
    Eta(f64),
    /// A setting that the chosen sampler does not have.
    #[error("sampler {kind} has no setting \"{setting}\"")]
    Setting {
        /// The sampler.
        kind: SamplerKind,
        /// The setting.
        setting: &'static str,
    },
    /// The scheduler file relies on a variance that the network does not put out.
    #[error("variance_type is \"{variance_type}\", but the network puts out no variance channels")]
    NoVariance {
        /// The variance type of the scheduler file.
        variance_type: &'static str,
    },
    /// There is nothing to sample.
    #[error("no images requested: give at least one seed")]
    NoImages,
    /// A batch holds at least one image.
    #[error("the sampling batch size is 0; it must be at least 1")]
    BatchSize,
    /// Guidance must be a number.
    #[error("guidance scale is {0}; it must be a finite number of at least 0")]
    Scale(f64),
    /// Conditioning has one row an image.
    #[error("conditioning \"{name}\" has {rows} rows for {images} images")]
    Rows {
        /// The tensor.
        name: String,
        /// Its leading dimension.
        rows: usize,
        /// The number of images.
        images: usize,
    },
    /// Guidance needs the unconditional form of everything that conditions.
    #[error("guidance needs an unconditional \"{name}\" of one row")]
    Unconditional {
        /// The conditioning tensor without a counterpart.
        name: String,
    },
    /// Domain Guidance needs the pretrained network.
    #[error("Domain Guidance needs the pretrained network for its unconditional branch")]
    NoPretrained,
    /// The progress callback asked to stop.
    #[error("sampling was interrupted")]
    Interrupted,
    /// A tensor operation, the network or a hook failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}
