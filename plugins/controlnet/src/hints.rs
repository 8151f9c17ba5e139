//! Hint pictures: the data's, or the edges of the images themselves.

use imageproc::edges::canny;
use imageproc::image::{GrayImage, Luma};
use plugin_api::{Batch, DType, Error, Host, Result, Tensor, bail};

use crate::settings::{Canny, ControlnetSettings, Source};

/// Where another plugin, Diff-Tuning, marks the samples that come from the pretrained model's memory, `[B]` f32, 1 for memory.
const MEMORY: &str = "diff_tuning.memory";

/// Where hints come from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Hints {
    /// This column of the data.
    Column(String),
    /// The images' edges.
    Canny(Canny),
}

impl Hints {
    pub(crate) fn new(settings: &ControlnetSettings) -> Self {
        match settings.hint {
            Source::Column => Self::Column(settings.column.clone()),
            Source::Canny => Self::Canny(settings.canny),
        }
    }

    /// Where they come from, in words.
    pub(crate) fn described(&self) -> String {
        match self {
            Self::Column(column) => format!("the data's `{column}`"),
            Self::Canny(Canny { low, high }) => {
                format!("the images' edges (Canny, thresholds {low} and {high})")
            }
        }
    }

    /// Refuses data whose batches have no such pictures.
    ///
    /// # Errors
    /// A column that is not among `columns`.
    pub(crate) fn check(&self, columns: &[String]) -> Result<()> {
        match self {
            Self::Column(column) if !columns.contains(column) => {
                Err(lacking(column, "the data", columns))
            }
            _ => Ok(()),
        }
    }

    /// The hints of a batch, `[B, 3, H, W]` f32 in 0..1.
    ///
    /// # Errors
    /// A batch without them, or hints of another size than the images.
    pub(crate) fn pictures(&self, batch: &Batch, host: &Host) -> Result<Tensor> {
        match self {
            Self::Column(column) => {
                let Some(hints) = batch.tensors.get(column) else {
                    let present: Vec<String> = pictures_of(batch);
                    return Err(lacking(column, "what is to be drawn from", &present));
                };
                let [count, channels, height, width] = hints.dims_n::<4>()?;
                if let Some(images) = batch.tensors.get("images") {
                    let [_, _, high, wide] = images.dims_n::<4>()?;
                    if (height, width) != (high, wide) {
                        bail!(
                            "`{column}` is {height}x{width} (height x width) and the images are {high}x{wide}; a hint needs the size of its image"
                        );
                    }
                }
                match channels {
                    // A mask lies in 0..1 already.
                    1 => hints.broadcast_as([count, 3, height, width])?,
                    _ => hints.affine(0.5, 0.5)?,
                }
                .to_dtype(DType::F32)
            }
            Self::Canny(thresholds) => match batch.tensors.get("images") {
                Some(images) => edges(images, *thresholds, host),
                None => bail!(
                    "hints are the edges of images, but there are no images to draw from: give some (--input)"
                ),
            },
        }
    }

    /// For each sample 1 if it has a hint and 0 if not: the memory of Diff-Tuning consists of images without columns.
    ///
    /// # Errors
    /// When the host fails.
    pub(crate) fn present(&self, batch: &Batch, count: usize) -> Result<Vec<f32>> {
        match (self, batch.tensors.get(MEMORY)) {
            (Self::Column(_), Some(memory)) => Ok(memory
                .to_vec::<f32>()?
                .into_iter()
                .map(|memory| 1.0 - memory)
                .collect()),
            _ => Ok(vec![1.0; count]),
        }
    }
}

/// Names of the pictures in a batch beside the images.
fn pictures_of(batch: &Batch) -> Vec<String> {
    let other = |(name, tensor): (&String, &Tensor)| {
        (name != "images" && tensor.rank() == 4).then(|| name.clone())
    };
    batch.tensors.iter().filter_map(other).collect()
}

/// The column that is missing, and where it could come from.
fn lacking(column: &str, whose: &str, present: &[String]) -> Error {
    let present = match present.is_empty() {
        true => "no pictures beside the images".to_owned(),
        false => format!("only {}", present.join(", ")),
    };
    Error::msg(format!(
        "hints come from `{column}`, but {whose} has {present}; name them in metadata.jsonl, rename them or take a scene's with data.columns, as in \
         data.columns={{{column} = \"edges\"}}, choose another with controlnet.column, or take the images' own edges with controlnet.hint=canny"
    ))
}

/// The edges of images `[B, 3, H, W]` in -1..1: `[B, 3, H, W]` f32, 1 on an edge and 0 elsewhere.
fn edges(images: &Tensor, thresholds: Canny, host: &Host) -> Result<Tensor> {
    let [count, channels, height, width] = images.dims_n::<4>()?;
    if channels != 3 {
        bail!("edges are found in pictures of 3 channels; these have {channels}");
    }
    let values = images.to_dtype(DType::F32)?.to_vec::<f32>()?;
    let plane = height * width;
    let mut found = Vec::with_capacity(values.len());
    for picture in values.chunks_exact(3 * plane) {
        let grey = GrayImage::from_fn(width as u32, height as u32, |x, y| {
            let at = y as usize * width + x as usize;
            Luma([brightness([0, 1, 2].map(|c| picture[c * plane + at]))])
        });
        let edges = canny(&grey, thresholds.low as f32, thresholds.high as f32);
        let edges = edges.pixels().map(|pixel| f32::from(pixel.0[0]) / 255.0);
        for _ in 0..3 {
            found.extend(edges.clone());
        }
    }
    Tensor::from_slice(&found, [count, 3, height, width], host)
}

/// The brightness of a colour in -1..1, as a byte (ITU-R 601).
fn brightness([red, green, blue]: [f32; 3]) -> u8 {
    let mixed = 0.299 * red + 0.587 * green + 0.114 * blue;
    ((mixed + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8
}
