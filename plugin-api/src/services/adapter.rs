//! The files in which a plugin's result reaches other programs: a LoRA for diffusers or PEFT, a ControlNet.

use std::collections::BTreeMap;

use super::Adapter;
use crate::{Host, Result, Tensor, message::message};

message! {
    /// A file of the result, for [`Host::adapter`].
    pub struct AdapterIn {
        /// Its path in the run's `adapter/` folder, with `/` between folders: ends in `.safetensors`.
        pub file: String,
        /// What it holds: each tensor under the name that the format wants.
        pub tensors: BTreeMap<String, Tensor>,
        /// Texts of its header; the host adds `format = "pt"` where it is missing, as loaders ask for it.
        pub metadata: BTreeMap<String, String>,
        /// Text files that belong to it, such as `adapter_config.json`: path in `adapter/` and content.
        pub texts: BTreeMap<String, String>,
        /// The shapes in which the format wants tensors that are kept in another, by name; missing means none.
        pub shapes: Option<BTreeMap<String, Vec<usize>>>,
    }
}

/// What to write; start from `AdapterFile::new(file)` and add to it.
///
/// ```no_run
/// # fn demo(host: &plugin_api::Host) -> plugin_api::Result<()> {
/// use plugin_api::{AdapterFile, Init};
///
/// let path = "transformer_blocks.0.attn1.to_q";
/// let a = host.parameter(&format!("{path}.lora_A.weight"), [16, 384], Init::KaimingUniform { a: 5f64.sqrt() })?;
/// let b = host.parameter(&format!("{path}.lora_B.weight"), [384, 16], Init::Zeros)?;
/// host.adapter(
///     AdapterFile::new("pytorch_lora_weights.safetensors")
///         .tensor(format!("transformer.{path}.lora_A.weight"), &a)
///         .tensor(format!("transformer.{path}.lora_B.weight"), &b)
///         .metadata("lora_adapter_metadata", r#"{"transformer.r": 16, "transformer.lora_alpha": 16}"#),
/// )
/// # }
/// ```
pub type AdapterFile = AdapterIn;

impl AdapterIn {
    /// An empty file; `file` is its path in the run's `adapter/` folder and ends in `.safetensors`.
    pub fn new(file: impl Into<String>) -> Self {
        AdapterIn {
            file: file.into(),
            tensors: BTreeMap::new(),
            metadata: BTreeMap::new(),
            texts: BTreeMap::new(),
            shapes: None,
        }
    }

    /// With this tensor under the name that the format wants: a parameter as [`Host::parameter`] gave it, or a constant.
    #[must_use]
    pub fn tensor(mut self, name: impl Into<String>, tensor: &Tensor) -> Self {
        self.tensors.insert(name.into(), tensor.clone());
        self
    }

    /// As [`AdapterIn::tensor`], for a format that wants another shape of as many elements than the parameter has.
    #[must_use]
    pub fn tensor_as(
        mut self,
        name: impl Into<String>,
        tensor: &Tensor,
        shape: impl Into<Vec<usize>>,
    ) -> Self {
        let name = name.into();
        let shapes = self.shapes.get_or_insert_default();
        shapes.insert(name.clone(), shape.into());
        self.tensor(name, tensor)
    }

    /// With this text in the header.
    #[must_use]
    pub fn metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// With this text file beside it, such as `adapter_config.json`.
    #[must_use]
    pub fn text(mut self, file: impl Into<String>, content: impl Into<String>) -> Self {
        self.texts.insert(file.into(), content.into());
        self
    }
}

impl Host {
    /// Declares a file of the result in a format that others read. Call it in [`PrepareHook`](crate::hooks::PrepareHook), once a file;
    /// another call for the same file replaces it.
    ///
    /// When the run finishes, the host writes the file into `adapter/`, with the values that the parameters then have: their averages
    /// where the run keeps averages. Where two plugins of a run declare one path, every plugin's files go into a folder of its name.
    /// Parameters of the plugin that none of its files holds go to `PLUGIN.rest.safetensors` under their own names; without any
    /// declared file, all go to `PLUGIN.safetensors`.
    ///
    /// # Errors
    /// For a path that leaves `adapter/` or takes a folder of the host's (`transformer`, `scheduler`), a file without a tensor, a tensor
    /// that is not of floats, or one computed from parameters, which would not follow them: hand over the parameter itself.
    pub fn adapter(&self, file: AdapterFile) -> Result<()> {
        self.call::<Adapter>(file)?;
        Ok(())
    }
}
