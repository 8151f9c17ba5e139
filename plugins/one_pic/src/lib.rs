//! ONE-PIC (Tao et al. 2024; arXiv 2412.05619): in-visual-context tuning.
//!
//! The sources of a task and its target become tiles of one picture. Noise goes to the target tile alone (or to a masked part of it), and only there does
//! the loss count: `canvas_t = m * noisy + (1 - m) * x0`, loss `sum(m * (prediction - target)^2) / sum(m)`. Sampling begins with noise under the mask beside
//! the clean context, puts the context back after every step, and cuts the target tile out at the end. No new module, and one loss for every task.
//!
//! It changes what is shown to the model and nothing else, so it goes with full fine-tuning, with adapters and with Diff-Tuning.

#![deny(unsafe_code)]

mod layout;
mod mask;
mod settings;

use plugin_api::hooks::{
    BatchHook, Encoding, NoiseMaskHook, NoiseMaskIn, OutputHook, OutputIn, Picture, PrepareHook,
    SampleBegin, SampleBeginHook, SampleStepHook, SampleStepIn,
};
use plugin_api::{Batch, DType, Error, Host, Model, Plugin, Result, Tensor, bail, export_plugin};

pub use layout::{BLANK, Layout, TARGET};
pub use settings::{Mask, OnePicSettings};

/// The batch's name for the pixels to predict: `[B, 1, H, W]` f32 of the canvas in training, of its latents in sampling; 0 or 1.
pub const MASK: &str = "one_pic.mask";

/// In sampling: latents of the clean canvas, `[N, C, h, w]`, the part to predict grey.
pub const CONTEXT: &str = "one_pic.context";

/// In sampling: what is known of the canvas, `[N, 3, H, W]`, the part to predict grey.
pub const KNOWN: &str = "one_pic.known";

/// The kind of the pictures that show context, result and truth side by side.
pub const SIDE_BY_SIDE: &str = "canvas";

/// The data's column that says which pixels of the image to predict.
const MASK_COLUMN: &str = "mask";

/// The plugin.
pub struct OnePic {
    layout: Layout,
    mask: Mask,
}

impl Plugin for OnePic {
    type Settings = OnePicSettings;
    const ID: &'static str = "one_pic";
    const SUMMARY: &'static str =
        "Sources and target as tiles of one picture, of which only the target is predicted";
    // What others mix into the batch are single pictures; they become tiles like all the others.
    const AFTER: &'static [&'static str] = &["diff_tuning"];

    fn build(settings: OnePicSettings, host: &Host) -> Result<Self> {
        let plugin = Self {
            layout: Layout::new(settings.layout)?,
            mask: settings.mask,
        };
        if plugin.layout.is_single() && plugin.mask == Mask::Tile {
            bail!(
                "a layout of the target alone needs mask = \"image\": with the whole tile predicted there would be no context"
            );
        }
        if let Some(columns) = host.run()?.columns {
            let missing: Vec<&str> = plugin
                .columns()
                .into_iter()
                .filter(|name| !columns.iter().any(|column| column == name))
                .collect();
            if !missing.is_empty() {
                return Err(lacking(&missing, "the data", &columns));
            }
        }
        Ok(plugin)
    }
}

/// The pictures that are missing, and where they could come from.
fn lacking(missing: &[&str], whose: &str, present: &[String]) -> Error {
    let present = match present.is_empty() {
        true => "no pictures beside the images".to_owned(),
        false => format!("only {}", present.join(", ")),
    };
    Error::msg(format!(
        "the layout needs {}, but {whose} has {present}; name the pictures in metadata.jsonl, or rename them or take a scene's with data.columns, as in data.columns={{{} = \"edges\"}}",
        missing
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(" and "),
        missing[0]
    ))
}

impl OnePic {
    /// The columns of the data that the canvas is made from.
    fn columns(&self) -> Vec<&str> {
        let mut names = self.layout.sources();
        if self.mask == Mask::Image && !names.contains(&MASK_COLUMN) {
            names.push(MASK_COLUMN);
        }
        names
    }

    /// The canvas `[B, 3, H, W]` around `target` `[B, 3, h, w]`.
    fn canvas(&self, batch: &Batch, target: &Tensor) -> Result<Tensor> {
        self.layout.compose(|name| match name {
            TARGET => Ok(target.clone()),
            BLANK => target.zeros_like(),
            column => coloured(batch.get(column)?, target),
        })
    }

    /// What is to be predicted of a target tile `[B, 3, h, w]`: `[B, 1, h, w]`, zeros and ones.
    fn tile_mask(&self, batch: &Batch, target: &Tensor) -> Result<Tensor> {
        match self.mask {
            Mask::Tile => target.narrow(1, 0, 1)?.ones_like(),
            Mask::Image => mask::binary(batch.get(MASK_COLUMN)?),
        }
    }
}

/// A column as a picture of three channels of the target's type: a mask shows black and white.
fn coloured(column: &Tensor, target: &Tensor) -> Result<Tensor> {
    let [batch, channels, height, width] = column.dims_n::<4>()?;
    let picture = match channels {
        1 => column
            .affine(2.0, -1.0)?
            .broadcast_as([batch, 3, height, width])?,
        _ => column.clone(),
    };
    picture.to_dtype(target.dtype())
}

impl PrepareHook for OnePic {
    /// Shows the backbone an empty canvas once, so that one it cannot take is refused before the first step.
    fn prepare(&mut self, host: &Host) -> Result<()> {
        let Some(size) = host.run()?.image_size else {
            return Ok(());
        };
        let (rows, columns) = self.layout.grid();
        let (height, width) = (rows * size, columns * size);
        let canvas = Tensor::zeros([1, 3, height, width], DType::F32, host)?;
        let latents = host.encode(&canvas)?;
        let mut batch = Batch::new();
        if let Some(null) = host.backbone()?.null_class {
            batch.set("class_labels", Tensor::from_slice(&[null], [1], host)?);
        }
        let timesteps = Tensor::from_slice(&[0u32], [1], host)?;
        host.denoise(Model::Frozen, &latents, &timesteps, &batch)
            .map_err(|error| {
                Error::msg(format!(
                    "{rows} x {columns} tiles of {size} pixels make a canvas of {height}x{width} (height x width), which the backbone does not take: {error}; set data.size"
                ))
            })?;
        tracing::info!(
            "{rows} x {columns} tiles of {size} pixels make a canvas of {width} x {height}"
        );
        Ok(())
    }
}

impl BatchHook for OnePic {
    /// Puts each image and its sources on one canvas, which takes the image's place, and says in [`MASK`] what is to be predicted of it.
    fn batch(&mut self, mut batch: Batch, _host: &Host) -> Result<Batch> {
        let target = batch.images()?.clone(); // [B, 3, h, w]
        let mask = self.layout.place(&self.tile_mask(&batch, &target)?)?; // [B, 1, H, W]
        let canvas = self.canvas(&batch, &target)?; // [B, 3, H, W]
        batch.set("images", canvas);
        batch.set(MASK, mask);
        Ok(batch)
    }
}

impl NoiseMaskHook for OnePic {
    fn noise_mask(&mut self, at: &NoiseMaskIn, _host: &Host) -> Result<Tensor> {
        let [_, _, height, width] = at.latents.dims_n::<4>()?;
        mask::shrunk(at.batch.get(MASK)?, height, width)
    }
}

impl SampleBeginHook for OnePic {
    /// Begins with the drawn noise under the mask and with the clean context beside it.
    fn sample_begin(&mut self, mut begin: SampleBegin, host: &Host) -> Result<SampleBegin> {
        let batch = &begin.batch;
        let needed = self.columns();
        let missing: Vec<&str> = needed
            .into_iter()
            .filter(|name| !batch.tensors.contains_key(*name))
            .collect();
        let present: Vec<String> = batch
            .tensors
            .keys()
            .filter(|name| *name != "class_labels" && *name != "images")
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(lacking(&missing, "what is to be drawn from", &present));
        }
        let target = match (self.mask, batch.tensors.get("images")) {
            (_, Some(images)) => images.clone(),
            (Mask::Image, None) => {
                bail!(
                    "the mask says which part of an image to keep, but there are no images; draw with inputs (--input)"
                )
            }
            (Mask::Tile, None) => match batch.tensors.get(self.layout.sources()[0]) {
                Some(source) => coloured(source, source)?,
                None => bail!("there is no picture to take the size of a tile from"),
            },
        }; // [N, 3, h, w]

        let tile_mask = self.tile_mask(batch, &target)?; // [N, 1, h, w]
        let kept = target.broadcast_mul(&tile_mask.affine(-1.0, 1.0)?)?; // [N, 3, h, w]
        let known = self.canvas(batch, &kept)?; // [N, 3, H, W]
        let context = host.encode(&known)?.to_dtype(begin.latents.dtype())?; // [N, C, h, w]
        let [_, _, height, width] = context.dims_n::<4>()?;
        let mask = mask::shrunk(&self.layout.place(&tile_mask)?, height, width)?; // [N, 1, h, w]
        let noise = self.noise(&begin.latents, height, width)?;
        begin.latents = mask::mixed(&noise, &context, &mask)?;
        begin.batch.set(MASK, mask);
        begin.batch.set(CONTEXT, context);
        begin.batch.set(KNOWN, known);
        Ok(begin)
    }
}

impl OnePic {
    /// The sampler's noise at the target's place of a canvas of latents, of which the rest is zero.
    fn noise(&self, drawn: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        let [_, _, high, wide] = drawn.dims_n::<4>()?;
        let (tile_high, tile_wide) = self.layout.tile(height, width)?;
        if tile_high > high || tile_wide > wide {
            bail!(
                "a tile has latents of {tile_high}x{tile_wide}, and the backbone draws pictures of {high}x{wide}; a tile may be smaller than that, not larger: set data.size"
            );
        }
        // A part of independent noise is independent noise.
        let part = drawn.narrow(2, 0, tile_high)?.narrow(3, 0, tile_wide)?;
        self.layout.place(&part)
    }
}

impl SampleStepHook for OnePic {
    /// Puts the clean context back where nothing is predicted.
    fn sample_step(&mut self, at: &SampleStepIn, _host: &Host) -> Result<Tensor> {
        mask::mixed(&at.latents, at.batch.get(CONTEXT)?, at.batch.get(MASK)?)
    }
}

impl OutputHook for OnePic {
    /// The target tile, and beside it as [`SIDE_BY_SIDE`] what it was made from and, where the image is known, the truth.
    fn output(&mut self, at: &OutputIn, _host: &Host) -> Result<Vec<Picture>> {
        let picture = |kind: &str, images: Tensor| Picture {
            kind: kind.to_owned(),
            images,
            encoding: Encoding::RGB,
        };
        let mut parts = Vec::new();
        if self.layout.is_single() {
            parts.push(at.batch.get(KNOWN)?.to_dtype(at.images.dtype())?);
        }
        parts.push(at.images.clone());
        if let Some(truth) = at.batch.tensors.get("images") {
            let (rows, _) = self.layout.grid();
            // Beside the first row, over white.
            let mut column = vec![truth.to_dtype(at.images.dtype())?];
            column.resize(rows, column[0].ones_like()?);
            parts.push(Tensor::cat(&column, 2)?);
        }
        Ok(vec![
            picture("", self.layout.crop(&at.images)?),
            picture(SIDE_BY_SIDE, Tensor::cat(&parts, 3)?),
        ])
    }
}

export_plugin!(OnePic: Prepare, Batch, NoiseMask, SampleBegin, SampleStep, Output);
