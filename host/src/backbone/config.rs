//! What network a `config.json` describes.

use serde_json::Value;

use super::{DitConfig, Error, LayerInfo, Result, UnetConfig, dit, unet};

/// The diffusers release whose format is written.
pub(crate) const DIFFUSERS_VERSION: &str = "0.42.1";

/// The configuration of a network, by its architecture.
#[derive(Clone, Debug, PartialEq)]
pub enum Config {
    /// A diffusion transformer.
    Dit(DitConfig),
    /// A UNet that attends to a text.
    Unet(UnetConfig),
}

impl From<DitConfig> for Config {
    fn from(config: DitConfig) -> Self {
        Self::Dit(config)
    }
}

impl From<UnetConfig> for Config {
    fn from(config: UnetConfig) -> Self {
        Self::Unet(config)
    }
}

impl Config {
    /// Reads the text of a `config.json`; `file` names it in errors.
    ///
    /// # Errors
    /// When it is not JSON, describes another class of model, or asks for what is not implemented.
    pub fn from_json(text: &str, file: &str) -> Result<Self, Error> {
        let value: Value = serde_json::from_str(text).map_err(|error| Error::Json {
            file: file.to_owned(),
            reason: error.to_string(),
        })?;
        Ok(match value["_class_name"].as_str() {
            Some(unet::CLASS_NAME) => Self::Unet(UnetConfig::from_value(value, file)?),
            _ => Self::Dit(DitConfig::from_json(text, file)?),
        })
    }

    /// The text of a `config.json` that diffusers reads.
    pub fn to_json(&self) -> String {
        match self {
            Self::Dit(config) => config.to_json(),
            Self::Unet(config) => config.to_json(),
        }
    }

    /// The folder of a pipeline that holds such a network.
    pub fn folder(&self) -> &'static str {
        match self {
            Self::Dit(_) => "transformer",
            Self::Unet(_) => "unet",
        }
    }

    /// The class of diffusers that it describes.
    pub fn class_name(&self) -> &'static str {
        match self {
            Self::Dit(_) => dit::CLASS_NAME,
            Self::Unet(_) => unet::CLASS_NAME,
        }
    }

    /// Whether the numbers make a network.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match self {
            Self::Dit(config) => config.check(),
            Self::Unet(config) => config.check(),
        }
    }

    /// The layers that an adapter can be for; of a DiT the embedders of every block, shared or not.
    ///
    /// # Errors
    /// A configuration that makes no network.
    pub fn layers(&self) -> Result<Vec<LayerInfo>, Error> {
        self.check()?;
        match self {
            Self::Dit(config) => Ok(dit::layers(config, dit::Sharing::PerBlock)),
            Self::Unet(config) => unet::layers(config),
        }
    }
}
