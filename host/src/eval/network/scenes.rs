//! A small convolutional classifier of rendered scenes, whose last hidden layer is what images are compared by where no Inception weights are at hand.
//!
//! A pre-activation residual network (He et al. 2016) with group norms, on 32 x 32 pixels. It tells every class of every content in every style apart, so
//! its features know both what stands in a picture and how it is drawn.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Result, Tensor};

use crate::data::scenes::{Content, Domain, Style};
use crate::ops::{Conv2d, conv2d, group_norm_silu, linear, pixel_unshuffle};
use crate::random::Stream;

/// Side of the images it looks at, in pixels.
pub const SIDE: usize = 32;

/// Channels of the stages at 16, 8 and 4 pixels a side; the last is the number of features.
const WIDTHS: [usize; 3] = [48, 96, 128];
/// Groups of every group norm.
const GROUPS: usize = 8;
const EPS: f64 = 1e-5;
/// Pixels that the first layer takes together, along each side.
const PATCH: usize = 2;

/// How many features an image has.
pub const FEATURES: usize = WIDTHS[2];

/// The classifier with its weights.
#[derive(Clone, Debug)]
pub struct SceneClassifier {
    weights: BTreeMap<String, Tensor>,
}

/// Name and shape of every tensor.
fn layout() -> Vec<(String, Vec<usize>)> {
    let [first, second, third] = WIDTHS;
    let mut all = Vec::new();
    let mut conv = |name: &str, from: usize, to: usize| {
        all.push((format!("{name}.weight"), vec![to, from, 3, 3]));
        all.push((format!("{name}.bias"), vec![to]));
    };
    conv("stem", 3 * PATCH * PATCH, first);
    conv("block1.conv1", first, first);
    conv("block1.conv2", first, first);
    conv("down1.conv", first, second);
    conv("block2.conv1", second, second);
    conv("block2.conv2", second, second);
    conv("down2.conv", second, third);
    let norms = [
        ("block1.norm1", first),
        ("block1.norm2", first),
        ("down1.norm", first),
        ("block2.norm1", second),
        ("block2.norm2", second),
        ("down2.norm", second),
        ("last.norm", third),
    ];
    for (name, width) in norms {
        all.push((format!("{name}.weight"), vec![width]));
        all.push((format!("{name}.bias"), vec![width]));
    }
    all.push(("head.weight".to_owned(), vec![Label::COUNT, third]));
    all.push(("head.bias".to_owned(), vec![Label::COUNT]));
    all
}

impl SceneClassifier {
    /// Fresh weights, f32 on the CPU: He-normal convolutions, norms at one, biases and the head at zero.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn init(seed: u64) -> Result<BTreeMap<String, Tensor>> {
        let start = |(name, shape): (String, Vec<usize>)| {
            let fan_in: usize = shape.iter().skip(1).product();
            let tensor = if name.starts_with("head") || name.ends_with("bias") {
                Tensor::zeros(shape, DType::F32, &Device::Cpu)?
            } else if shape.len() == 1 {
                Tensor::ones(shape, DType::F32, &Device::Cpu)?
            } else {
                let mut stream = Stream::new(seed, &format!("init {name}"));
                (stream.normal(shape, &Device::Cpu)? * (2.0 / fan_in as f64).sqrt())?
            };
            Ok((name, tensor))
        };
        layout().into_iter().map(start).collect()
    }

    /// A classifier of these tensors, which compute in f32 whatever they are stored in.
    ///
    /// # Errors
    /// One that is missing or has another shape, by name.
    pub fn new(mut weights: BTreeMap<String, Tensor>) -> Result<Self> {
        for (name, shape) in layout() {
            match weights.get_mut(&name) {
                // A parameter under training stays the tensor that it is.
                Some(tensor) if tensor.dims() == shape => *tensor = tensor.to_dtype(DType::F32)?,
                Some(tensor) => candle_core::bail!(
                    "`{name}` has shape {:?}, the scene classifier's has {shape:?}",
                    tensor.dims()
                ),
                None => candle_core::bail!("there is no `{name}`"),
            }
        }
        Ok(Self { weights })
    }

    /// Images `[B, 3, 32, 32]` in -1..=1 to features `[B, 128]`.
    ///
    /// # Errors
    /// Images of another shape.
    pub fn features(&self, images: &Tensor) -> Result<Tensor> {
        let x = pixel_unshuffle(images, PATCH)?; // [B, 12, 16, 16]
        let x = self.conv("stem", &x, 1)?; // [B, 48, 16, 16]
        let x = self.block("block1", &x)?;
        let x = self.conv("down1.conv", &self.activated("down1.norm", &x)?, 2)?; // [B, 96, 8, 8]
        let x = self.block("block2", &x)?;
        let x = self.conv("down2.conv", &self.activated("down2.norm", &x)?, 2)?; // [B, 128, 4, 4]
        self.activated("last.norm", &x)?.mean((2, 3)) // [B, 128]
    }

    /// Features `[B, 128]` to a score for each [`Label`], `[B, 126]`.
    ///
    /// # Errors
    /// Features of another shape.
    pub fn scores(&self, features: &Tensor) -> Result<Tensor> {
        linear(
            features,
            &self.weights["head.weight"],
            Some(&self.weights["head.bias"]),
        )
    }

    fn block(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let h = self.activated(&format!("{name}.norm1"), x)?;
        let h = self.conv(&format!("{name}.conv1"), &h, 1)?;
        let h = self.activated(&format!("{name}.norm2"), &h)?;
        x + self.conv(&format!("{name}.conv2"), &h, 1)?
    }

    fn activated(&self, name: &str, x: &Tensor) -> Result<Tensor> {
        let (weight, bias) = self.pair(name);
        group_norm_silu(x, GROUPS, weight, bias, EPS)
    }

    fn conv(&self, name: &str, x: &Tensor, stride: usize) -> Result<Tensor> {
        let (weight, bias) = self.pair(name);
        let config = Conv2d {
            stride,
            padding: 1,
            ..Conv2d::default()
        };
        conv2d(x, weight, Some(bias), config)
    }

    fn pair(&self, name: &str) -> (&Tensor, &Tensor) {
        (
            &self.weights[&format!("{name}.weight")],
            &self.weights[&format!("{name}.bias")],
        )
    }
}

/// What a scene shows: one class of one content in one style.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Among the classes of all contents, in the order of [`Content::ALL`].
    pub class: usize,
    /// Among [`Style::ALL`].
    pub style: usize,
}

impl Label {
    /// Classes of each content.
    const PER_CONTENT: usize = 6;
    /// How many labels there are.
    pub const COUNT: usize = Content::ALL.len() * Self::PER_CONTENT * Style::ALL.len();

    /// The label of class `class` of a domain.
    pub fn of(domain: Domain, class: u32) -> Self {
        let place = |found: Option<usize>| found.unwrap_or_default();
        let content = place(Content::ALL.iter().position(|c| *c == domain.content));
        Self {
            class: content * Self::PER_CONTENT + class as usize,
            style: place(Style::ALL.iter().position(|s| *s == domain.style)),
        }
    }

    /// Its number, below [`Label::COUNT`].
    pub fn number(self) -> u32 {
        (self.class * Style::ALL.len() + self.style) as u32
    }

    /// The label of this number.
    pub fn from_number(number: u32) -> Self {
        Self {
            class: number as usize / Style::ALL.len(),
            style: number as usize % Style::ALL.len(),
        }
    }
}
