//! The ControlNet that a run goes on from: diffusers' folder, or that of an earlier run.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plugin_api::{Error, Host, Result, Tensor, bail};
use serde_json::Value;

/// How the names of what is no copy of the backbone begin.
const OWN: &str = "controlnet_";

/// A ControlNet as read.
pub(crate) struct Start {
    /// Where it was read from.
    pub(crate) path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    config: Value,
}

impl Start {
    /// Reads a folder.
    ///
    /// # Errors
    /// What cannot be read, or is no ControlNet, or works in a way that this plugin does not.
    pub(crate) fn read(path: &Path, host: &Host) -> Result<Self> {
        let shown = path.display();
        let read = host.read_weights(path)?;
        let Some(text) = read.config else {
            bail!("there is no config.json in {shown}, so it is no ControlNet's folder");
        };
        let config: Value = serde_json::from_str(&text)
            .map_err(|error| Error::msg(format!("cannot read {shown}/config.json: {error}")))?;
        if !read.tensors.keys().any(|name| name.starts_with(OWN)) {
            bail!("{shown} holds no ControlNet: none of its tensors begins with `{OWN}`");
        }
        if config["global_pool_conditions"] == Value::Bool(true) {
            bail!(
                "the ControlNet in {shown} averages its output over the picture (global_pool_conditions), which this plugin does not"
            );
        }
        Ok(Self {
            path: path.to_owned(),
            tensors: read.tensors,
            config,
        })
    }

    /// Refuses one that was made with other settings than these, which name the architecture. `settings` are the setting's name, the configuration's
    /// key, and the value that the run has.
    ///
    /// # Errors
    /// Naming the setting to change.
    pub(crate) fn check(&self, settings: &[(&str, &str, Value)]) -> Result<()> {
        for (setting, key, ours) in settings {
            let theirs = &self.config[*key];
            if !theirs.is_null() && theirs != ours {
                bail!(
                    "the ControlNet in {} has {key} {theirs} where this run has {ours}: set controlnet.{setting}={theirs}",
                    self.path.display()
                );
            }
        }
        Ok(())
    }

    /// The tensor of this name.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn get(&self, name: &str) -> Result<&Tensor> {
        self.tensors.get(name).ok_or_else(|| {
            Error::msg(format!(
                "{} lacks `{name}`, which a ControlNet for this backbone has",
                self.path.display()
            ))
        })
    }

    /// The names of all tensors.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The copied blocks' part, by the backbone's keys.
    pub(crate) fn copied(&self) -> BTreeMap<String, Tensor> {
        let own = |(name, tensor): (&String, &Tensor)| {
            (!name.starts_with(OWN)).then(|| (name.clone(), tensor.clone()))
        };
        self.tensors.iter().filter_map(own).collect()
    }
}
