//! Inception-v3 up to its last pooled features, with the arithmetic that Frechet distances are published with (pytorch-fid): TensorFlow's network of 2015.
//!
//! The layers are those of Szegedy et al. (CVPR 2016), with three differences from torchvision's model: average pools do not count the padding, the last
//! block pools by maximum, and images are resized to 299 x 299 bilinearly without smoothing. Widths come from the weights, so a narrow network of the same
//! shape runs, too.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

use super::resize;
use crate::ops::{Conv2d, conv2d};

/// Side of the images it looks at, in pixels.
const SIDE: usize = 299;
/// Of every batch norm.
const EPS: f64 = 1e-3;
/// Classes of TensorFlow's network. torchvision's own weights have 1000, and their distances are not the published ones.
const FID_CLASSES: usize = 1008;

/// The network with its weights.
#[derive(Clone, Debug)]
pub(super) struct Inception {
    convs: BTreeMap<String, Conv>,
    classes: Option<usize>,
    dimensions: usize,
}

/// A convolution with its batch norm folded in.
#[derive(Clone, Debug)]
struct Conv {
    weight: Tensor,
    bias: Tensor,
}

/// What marks a file as this network's.
pub(super) const MARK: &str = "Conv2d_1a_3x3.conv.weight";

/// Images that go through together: what they need in memory is about 20 MB each.
pub(super) const BATCH: usize = 8;

impl Inception {
    /// The network of these tensors, by torchvision's names. What it does not need (`AuxLogits`, `fc`) may be missing.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape, by name.
    pub(super) fn new(tensors: &BTreeMap<String, Tensor>) -> Result<Self> {
        let mut convs = BTreeMap::new();
        for name in tensors.keys() {
            let of_features = !name.starts_with("AuxLogits.");
            if let Some(layer) = name.strip_suffix(".conv.weight")
                && of_features
            {
                convs.insert(layer.to_owned(), folded(tensors, layer)?);
            }
        }
        let mut network = Self {
            convs,
            classes: tensors.get("fc.weight").map(|fc| fc.dims()[0]),
            dimensions: 0,
        };
        // What is missing or does not fit shows on the smallest image that every layer can take.
        let probe = Tensor::zeros((1, 3, 75, 75), DType::F32, &Device::Cpu)?;
        network.dimensions = network.pooled(&probe)?.dims()[1];
        Ok(network)
    }

    /// How many features an image has: 2048 for the network of full width.
    pub(super) fn dimensions(&self) -> usize {
        self.dimensions
    }

    /// Whether the weights look like those that Frechet distances are published with.
    pub(super) fn is_published(&self) -> bool {
        self.classes == Some(FID_CLASSES) && self.dimensions == 2048
    }

    /// Images `[B, 3, H, W]` in -1..=1 to features `[B, 2048]`.
    ///
    /// # Errors
    /// Images of another shape.
    pub(super) fn features(&self, images: &Tensor) -> Result<Tensor> {
        self.pooled(&resize::bilinear(images, SIDE)?)
    }

    /// Images of the network's own size to features.
    fn pooled(&self, images: &Tensor) -> Result<Tensor> {
        let x = self.conv("Conv2d_1a_3x3", images, 2, (0, 0))?; // [B, 32, 149, 149]
        let x = self.conv("Conv2d_2a_3x3", &x, 1, (0, 0))?; // [B, 32, 147, 147]
        let x = self.conv("Conv2d_2b_3x3", &x, 1, (1, 1))?; // [B, 64, 147, 147]
        let x = shrink(&x)?; // [B, 64, 73, 73]
        let x = self.conv("Conv2d_3b_1x1", &x, 1, (0, 0))?; // [B, 80, 73, 73]
        let x = self.conv("Conv2d_4a_3x3", &x, 1, (0, 0))?; // [B, 192, 71, 71]
        let mut x = shrink(&x)?; // [B, 192, 35, 35]
        for block in ["Mixed_5b", "Mixed_5c", "Mixed_5d"] {
            x = self.block_a(block, &x)?; // [B, 256 or 288, 35, 35]
        }
        x = self.block_b("Mixed_6a", &x)?; // [B, 768, 17, 17]
        for block in ["Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"] {
            x = self.block_c(block, &x)?;
        }
        x = self.block_d("Mixed_7a", &x)?; // [B, 1280, 8, 8]
        x = self.block_e("Mixed_7b", &x, &average(&x)?)?; // [B, 2048, 8, 8]
        x = self.block_e("Mixed_7c", &x, &maximum(&x)?)?;
        x.mean((2, 3)) // [B, 2048]
    }

    fn block_a(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let at = |name: &str, x: &Tensor, padding| self.at(block, name, x, 1, (padding, padding));
        let five = at("branch5x5_1", x, 0)?;
        let three = at("branch3x3dbl_2", &at("branch3x3dbl_1", x, 0)?, 1)?;
        let branches = [
            at("branch1x1", x, 0)?,
            at("branch5x5_2", &five, 2)?,
            at("branch3x3dbl_3", &three, 1)?,
            at("branch_pool", &average(x)?, 0)?,
        ];
        Tensor::cat(&branches, 1)
    }

    fn block_b(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let three = self.at(block, "branch3x3dbl_1", x, 1, (0, 0))?;
        let three = self.at(block, "branch3x3dbl_2", &three, 1, (1, 1))?;
        let branches = [
            self.at(block, "branch3x3", x, 2, (0, 0))?,
            self.at(block, "branch3x3dbl_3", &three, 2, (0, 0))?,
            shrink(x)?,
        ];
        Tensor::cat(&branches, 1)
    }

    fn block_c(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let at = |name: &str, x: &Tensor, padding| self.at(block, name, x, 1, padding);
        let (plain, across, down) = ((0, 0), (0, 3), (3, 0));
        let seven = at("branch7x7_1", x, plain)?;
        let seven = at("branch7x7_2", &seven, across)?;
        let twice = at("branch7x7dbl_1", x, plain)?;
        let twice = at("branch7x7dbl_2", &twice, down)?;
        let twice = at("branch7x7dbl_3", &twice, across)?;
        let twice = at("branch7x7dbl_4", &twice, down)?;
        let branches = [
            at("branch1x1", x, plain)?,
            at("branch7x7_3", &seven, down)?,
            at("branch7x7dbl_5", &twice, across)?,
            at("branch_pool", &average(x)?, plain)?,
        ];
        Tensor::cat(&branches, 1)
    }

    fn block_d(&self, block: &str, x: &Tensor) -> Result<Tensor> {
        let three = self.at(block, "branch3x3_1", x, 1, (0, 0))?;
        let seven = self.at(block, "branch7x7x3_1", x, 1, (0, 0))?;
        let seven = self.at(block, "branch7x7x3_2", &seven, 1, (0, 3))?;
        let seven = self.at(block, "branch7x7x3_3", &seven, 1, (3, 0))?;
        let branches = [
            self.at(block, "branch3x3_2", &three, 2, (0, 0))?,
            self.at(block, "branch7x7x3_4", &seven, 2, (0, 0))?,
            shrink(x)?,
        ];
        Tensor::cat(&branches, 1)
    }

    fn block_e(&self, block: &str, x: &Tensor, pooled: &Tensor) -> Result<Tensor> {
        let at = |name: &str, x: &Tensor, padding| self.at(block, name, x, 1, padding);
        let three = at("branch3x3_1", x, (0, 0))?;
        let twice = at("branch3x3dbl_1", x, (0, 0))?;
        let twice = at("branch3x3dbl_2", &twice, (1, 1))?;
        let branches = [
            at("branch1x1", x, (0, 0))?,
            at("branch3x3_2a", &three, (0, 1))?,
            at("branch3x3_2b", &three, (1, 0))?,
            at("branch3x3dbl_3a", &twice, (0, 1))?,
            at("branch3x3dbl_3b", &twice, (1, 0))?,
            at("branch_pool", pooled, (0, 0))?,
        ];
        Tensor::cat(&branches, 1)
    }

    fn at(
        &self,
        block: &str,
        name: &str,
        x: &Tensor,
        stride: usize,
        padding: (usize, usize),
    ) -> Result<Tensor> {
        self.conv(&format!("{block}.{name}"), x, stride, padding)
    }

    /// Convolution, batch norm and rectifier; `padding` is (down, across).
    fn conv(
        &self,
        name: &str,
        x: &Tensor,
        stride: usize,
        padding: (usize, usize),
    ) -> Result<Tensor> {
        let Some(Conv { weight, bias }) = self.convs.get(name) else {
            candle_core::bail!("there is no `{name}.conv.weight`");
        };
        let x = x
            .pad_with_zeros(2, padding.0, padding.0)?
            .pad_with_zeros(3, padding.1, padding.1)?;
        let config = Conv2d {
            stride,
            ..Conv2d::default()
        };
        conv2d(&x.contiguous()?, weight, Some(bias), config)?.relu()
    }
}

/// `y = (w x - mean) / √(var + eps) * scale + shift` as one convolution.
fn folded(tensors: &BTreeMap<String, Tensor>, layer: &str) -> Result<Conv> {
    let get = |part: &str| match tensors.get(&format!("{layer}.{part}")) {
        Some(tensor) => tensor.to_dtype(DType::F32),
        None => candle_core::bail!("there is no `{layer}.{part}`"),
    };
    let weight = get("conv.weight")?;
    let (outputs, ..) = weight.dims4()?;
    let norm = |part: &str| {
        let tensor = get(part)?;
        match tensor.dims() == [outputs] {
            true => Ok(tensor),
            false => candle_core::bail!(
                "`{layer}.{part}` has shape {:?}, its convolution has {outputs} outputs",
                tensor.dims()
            ),
        }
    };
    let scale = (norm("bn.weight")? / (norm("bn.running_var")? + EPS)?.sqrt()?)?;
    Ok(Conv {
        weight: weight.broadcast_mul(&scale.reshape((outputs, 1, 1, 1))?)?,
        bias: (norm("bn.bias")? - (norm("bn.running_mean")? * scale)?)?,
    })
}

/// Maximum over 3 x 3 pixels, every second one.
fn shrink(x: &Tensor) -> Result<Tensor> {
    x.max_pool2d_with_stride(3, 2)
}

/// Mean over 3 x 3 pixels, of those that lie in the image.
fn average(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    let inside = Tensor::ones((1, 1, height, width), x.dtype(), x.device())?;
    let sums = |x: &Tensor| {
        let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
        padded.avg_pool2d_with_stride(3, 1)
    };
    sums(x)?.broadcast_div(&sums(&inside)?)
}

/// Maximum over 3 x 3 pixels. What comes here is not negative, so zeros around the image change nothing.
fn maximum(x: &Tensor) -> Result<Tensor> {
    let padded = x.pad_with_zeros(2, 1, 1)?.pad_with_zeros(3, 1, 1)?;
    padded.max_pool2d_with_stride(3, 1)
}
