//! The files in which other programs read what was trained.

mod config;
mod kohya;

use plugin_api::{AdapterFile, Host, Result};

use crate::settings::{Format, LoraSettings};
use crate::targets::Target;
use crate::update::Update;

/// Everything the files are made of.
pub(crate) struct Trained<'a> {
    pub(crate) settings: &'a LoraSettings,
    /// Each layer with its update, in the backbone's order.
    pub(crate) layers: &'a [(Target, Box<dyn Update>)],
    /// The part of a diffusers pipeline that the backbone is.
    pub(crate) part: &'static str,
}

/// The part of a diffusers pipeline that a backbone of this architecture is.
pub(crate) fn part(architecture: &str) -> &'static str {
    match architecture.contains("unet") {
        true => "unet",
        false => "transformer",
    }
}

impl Trained<'_> {
    /// Declares the files that the settings ask for.
    ///
    /// # Errors
    /// What a format cannot say.
    pub(crate) fn declare(&self, host: &Host) -> Result<()> {
        for format in self.settings.formats() {
            host.adapter(match format {
                Format::Diffusers => self.diffusers(),
                Format::Peft => self.peft(),
                Format::Kohya => self.kohya(host)?,
            })?;
        }
        Ok(())
    }

    /// PEFT's names below the part of the pipeline, and PEFT's configuration in the header.
    fn diffusers(&self) -> AdapterFile {
        let prefixed: serde_json::Map<String, serde_json::Value> = self
            .config()
            .into_iter()
            .map(|(key, value)| (format!("{}.{key}", self.part), value))
            .collect();
        let file = AdapterFile::new("pytorch_lora_weights.safetensors");
        let file = file.metadata(
            "lora_adapter_metadata",
            serde_json::Value::Object(prefixed).to_string(),
        );
        self.under(self.part, file)
    }

    /// A folder of PEFT's.
    fn peft(&self) -> AdapterFile {
        let mut config = self.config();
        // As PEFT's own files have it: who loads them wants to use them.
        config.insert("inference_mode".to_owned(), true.into());
        let text = format!("{:#}\n", serde_json::Value::Object(config));
        let file = AdapterFile::new("adapter_model.safetensors").text("adapter_config.json", text);
        self.under("base_model.model", file)
    }

    fn under(&self, prefix: &str, mut file: AdapterFile) -> AdapterFile {
        for (target, update) in self.layers {
            for (part, tensor) in update.parts() {
                file = file.tensor(format!("{prefix}.{}", target.name(part)), tensor);
            }
        }
        file
    }
}
