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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use plugin_api::testing::TestHost;

    const SIDE: usize = 16;

    /// A picture that is dark at the left and bright at the right, and one that is grey.
    fn halves(host: &TestHost) -> Tensor {
        let step = |at: usize| if at % SIDE < SIDE / 2 { -1.0 } else { 1.0 };
        let values: Vec<f32> = (0..3 * SIDE * SIDE)
            .map(step)
            .chain(vec![0.0; 3 * SIDE * SIDE])
            .collect();
        Tensor::from_slice(&values, [2, 3, SIDE, SIDE], host).unwrap()
    }

    fn batch(tensors: &[(&str, Tensor)]) -> Batch {
        let mut batch = Batch::new();
        for (name, tensor) in tensors {
            batch.set(*name, tensor.clone());
        }
        batch
    }

    fn canny(low: f64, high: f64) -> Hints {
        Hints::Canny(Canny { low, high })
    }

    #[test]
    fn edges_lie_where_brightness_jumps_and_thresholds_leave_them_out() {
        let host = TestHost::new();
        let batch = batch(&[("images", halves(&host))]);
        let found = canny(50.0, 100.0).pictures(&batch, &host).unwrap();
        assert_eq!(found.dims(), [2, 3, SIDE, SIDE]);
        let found = found.to_vec::<f32>().unwrap();
        let (first, second) = found.split_at(3 * SIDE * SIDE);
        assert!(second.iter().all(|&value| value == 0.0));
        for (at, &value) in first.iter().enumerate().filter(|(_, value)| **value > 0.0) {
            let column = at % SIDE;
            assert!(
                value == 1.0 && (SIDE / 2 - 2..=SIDE / 2 + 1).contains(&column),
                "{at}"
            );
        }
        // Down the whole step, in each of three channels.
        assert!(first.iter().sum::<f32>() >= 3.0 * (SIDE - 4) as f32);
        let none = canny(1100.0, 1140.0).pictures(&batch, &host).unwrap();
        assert_eq!(none.sum_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
    }

    #[test]
    fn columns_come_in_0_to_1_and_masks_in_three_channels() {
        let host = TestHost::new();
        let mask = Tensor::from_slice(&[0.25f32, 1.0], [1, 1, 1, 2], &host).unwrap();
        let picture = Tensor::from_slice(&[-1f32, 0.0, 1.0], [1, 3, 1, 1], &host).unwrap();
        let of = |tensor: &Tensor| {
            let batch = batch(&[("hint", tensor.clone())]);
            let hints = Hints::Column("hint".into()).pictures(&batch, &host);
            hints.unwrap().to_vec::<f32>().unwrap()
        };
        assert_eq!(of(&mask), [0.25, 1.0, 0.25, 1.0, 0.25, 1.0]);
        assert_eq!(of(&picture), [0.0, 0.5, 1.0]);
    }

    #[test]
    fn memory_has_edges_and_no_columns() {
        let host = TestHost::new();
        let memory = Tensor::from_slice(&[0f32, 1.0], [2], &host).unwrap();
        let batch = batch(&[(MEMORY, memory)]);
        let column = Hints::Column("hint".into());
        assert_eq!(column.present(&batch, 2).unwrap(), [1.0, 0.0]);
        assert_eq!(canny(1.0, 2.0).present(&batch, 2).unwrap(), [1.0, 1.0]);
        assert_eq!(column.present(&Batch::new(), 2).unwrap(), [1.0, 1.0]);
    }

    #[test]
    fn hints_of_another_size_and_missing_ones_are_refused_by_name() {
        let host = TestHost::new();
        let small = Tensor::from_slice(&[0f32; 6], [2, 3, 1, 1], &host).unwrap();
        let hints = Hints::Column("sketch".into());
        let refused = |batch: &Batch| hints.pictures(batch, &host).unwrap_err().to_string();
        let odd = refused(&batch(&[
            ("images", halves(&host)),
            ("sketch", small.clone()),
        ]));
        assert!(
            odd.contains("`sketch` is 1x1") && odd.contains("16x16"),
            "{odd}"
        );
        let missing = refused(&batch(&[("images", halves(&host)), ("hint", small)]));
        assert!(
            missing.contains("`sketch`") && missing.contains("only hint"),
            "{missing}"
        );
        let none = canny(1.0, 2.0).pictures(&Batch::new(), &host);
        assert!(none.unwrap_err().to_string().contains("--input"));
    }
}
