//! Files in the names of kohya's scripts (`lora_unet_PATH.lora_down.weight`), which LyCORIS extends to LoHa and LoKr.

use plugin_api::{AdapterFile, Host, Result, Tensor, bail};

use super::Trained;
use crate::targets::Target;

/// What every name of a denoiser's layer begins with, a DiT's too.
const PREFIX: &str = "lora_unet_";

impl Trained<'_> {
    /// # Errors
    /// An alpha that the format has no place for.
    pub(super) fn kohya(&self, host: &Host) -> Result<AdapterFile> {
        let mut file = AdapterFile::new("kohya.safetensors");
        for (target, update) in self.layers {
            let prefix = format!("{PREFIX}{}", target.layer.path.replace('.', "_"));
            let parts = update.parts();
            let whole = |part: &str| parts.iter().any(|(name, _)| *name == part);
            let alpha = self.kohya_alpha(target);
            // Readers take the rank from the narrow factors; where there are none they leave alpha out.
            if whole("lokr_w1") && whole("lokr_w2") && alpha != target.rank as f64 {
                bail!(
                    "a file in kohya's names has no place for the alpha of `{}`, whose factors are both whole: leave `alpha` out, or kohya out of `formats`",
                    target.layer.path
                );
            }
            for (part, tensor) in &parts {
                let name = format!("{prefix}.{}", kohya_name(part));
                file = match *part {
                    // One number an output, in as many dimensions as the weight has.
                    "lora_magnitude_vector" => {
                        let mut shape = vec![1; target.layer.weight_shape.len()];
                        shape[0] = target.layer.out_features;
                        file.tensor_as(name, tensor, shape)
                    }
                    _ => file.tensor(name, tensor),
                };
            }
            let alpha = Tensor::scalar(alpha as f32, host)?;
            file = file.tensor(format!("{prefix}.alpha"), &alpha);
        }
        Ok(file)
    }

    /// Readers divide it by the rank; they know no rsLoRA.
    fn kohya_alpha(&self, target: &Target) -> f64 {
        self.settings.scale(target.rank, target.alpha) * target.rank as f64
    }
}

fn kohya_name(part: &'static str) -> &'static str {
    match part {
        "lora_A.weight" => "lora_down.weight",
        "lora_B.weight" => "lora_up.weight",
        "lora_magnitude_vector" => "dora_scale",
        part => part,
    }
}
