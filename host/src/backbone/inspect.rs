//! What a checkpoint is, without loading it.

use std::path::Path;

use candle_core::{DType, Device};
use serde::{Deserialize, Serialize};

use super::checkpoint::{Checkpoint, Reading};
use super::source::Checked;
use super::unet::{self, Unet};
use super::{Assembly, Config, Error, LayerInfo, ModelInfo, dit};

/// What `host model inspect` prints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inspection {
    /// The facts about the model.
    pub info: ModelInfo,
    /// Its adaptable layers, in the order of the network.
    pub layers: Vec<LayerInfo>,
}

/// Reads a checkpoint's configuration and headers and checks one against the other, loading no tensor. (Of the weights, only the embedders of a file that stores one for each block are
/// looked at, in place: whether all are equal decides which layers there are.)
///
/// # Errors
/// As [`super::Backbone::open`], except that values are not looked at.
pub fn inspect(path: &Path) -> Result<Inspection, Error> {
    let checkpoint = Checkpoint::open(path)?;
    let config = checkpoint.config();
    config.check()?;
    let source = Reading {
        checkpoint: &checkpoint,
        device: &Device::Cpu,
        dtype: DType::F32,
    };
    match config {
        Config::Dit(config) => {
            let sharing = dit::fit(config, &source)?;
            let parameters = dit::parameters(config, sharing);
            let count = parameters
                .iter()
                .map(|(_, shape)| shape.iter().product::<usize>())
                .sum();
            Ok(Inspection {
                info: dit::info(config, sharing, count),
                layers: dit::layers(config, sharing),
            })
        }
        Config::Unet(config) => {
            let checked = Checked(&source);
            let mut net = Assembly::new(&checked);
            Unet::load(config.clone(), &mut net)?;
            let outline = net.finish()?;
            Ok(Inspection {
                info: unet::info(config, outline.count()),
                layers: outline.layers,
            })
        }
    }
}

/// The layers that an adapter of this checkpoint can be for, from its configuration alone: the embedders of every block, shared or not.
///
/// # Errors
/// As [`inspect`].
pub fn layers_of(path: &Path) -> Result<Vec<LayerInfo>, Error> {
    Checkpoint::open(path)?.config().layers()
}
