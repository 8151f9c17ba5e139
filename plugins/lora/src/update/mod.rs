//! What changes one layer: one kind a file, in the formulas, initial values and names of PEFT 0.21.

mod dora;
mod ia3;
mod loha;
mod lokr;
mod lora;
mod tucker;

use plugin_api::{Conv2d, Host, Init, LayerInfo, LayerKind, Result, Tensor};

use crate::settings::{Kind, LoraSettings};
use crate::start::Start;
use crate::targets::Target;

/// PyTorch's initialisation of a layer's weight, which PEFT takes for most factors.
const KAIMING: Init = Init::KaimingUniform {
    a: 2.236_067_977_499_79, // sqrt(5)
};

/// A trained change of one layer.
pub(crate) trait Update: Send {
    /// The layer's new output, f32, of the old one's shape.
    fn adapt(&self, pass: &Pass<'_>) -> Result<Tensor>;

    /// What trains: PEFT's names below the layer's path.
    fn parts(&self) -> Vec<(&'static str, &Tensor)>;
}

/// One pass of one layer. Parameters are f32 whatever the backbone computes in, and so is the arithmetic here.
pub(crate) struct Pass<'a> {
    pub(crate) layer: &'a LayerInfo,
    /// `[.., in]`, or `[B, in, H, W]` for a convolution; f32.
    pub(crate) input: Tensor,
    /// `[.., out]`, or `[B, out, H', W']`; f32.
    pub(crate) output: Tensor,
    pub(crate) host: &'a Host,
}

/// Makes the update that the settings ask for.
///
/// # Errors
/// A layer that the kind cannot change.
pub(crate) fn make(settings: &LoraSettings, maker: &Maker<'_>) -> Result<Box<dyn Update>> {
    let Target { rank, alpha, .. } = *maker.target;
    let scale = settings.scale(rank, alpha);
    Ok(match settings.kind {
        Kind::Lora => {
            let lora = lora::Lora::make(settings, scale, maker)?;
            match settings.dora {
                true => Box::new(dora::Dora::make(lora, maker)?),
                false => Box::new(lora),
            }
        }
        Kind::Loha => Box::new(loha::Loha::make(settings, scale, maker)?),
        Kind::Lokr => Box::new(lokr::Lokr::make(settings, scale, maker)?),
        Kind::Ia3 => Box::new(ia3::Ia3::make(maker)?),
    })
}

/// Makes the parameters of one layer's update.
pub(crate) struct Maker<'a> {
    pub(crate) target: &'a Target,
    pub(crate) host: &'a Host,
    /// Where they start, if not where the kind has it.
    pub(crate) start: &'a Start,
}

impl Maker<'_> {
    fn parameter(&self, part: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let name = self.target.name(part);
        let init = self.start.of(self.target, part, shape)?.unwrap_or(init);
        self.host.parameter(&name, shape, init)
    }

    /// One whose natural value is not zero, so that decay would not make it simpler.
    fn without_decay(&self, part: &str, shape: &[usize], init: Init) -> Result<Tensor> {
        let name = self.target.name(part);
        let init = self.start.of(self.target, part, shape)?.unwrap_or(init);
        self.host.parameter_without_decay(&name, shape, init)
    }

    /// The shape of the layer's weight: outputs, inputs, and the sides of the kernel of a convolution.
    fn shape(&self) -> (usize, usize, &[usize]) {
        let layer = &self.target.layer;
        match layer.weight_shape.as_slice() {
            [outputs, inputs, kernel @ ..] => (*outputs, *inputs, kernel),
            _ => (layer.out_features, layer.in_features, &[]),
        }
    }
}

/// How a layer's own kernel moves over its input.
fn movement(layer: &LayerInfo) -> Conv2d {
    match *layer.conv.as_slice() {
        [stride, padding, dilation, groups] => Conv2d {
            stride,
            padding,
            dilation,
            groups,
        },
        _ => Conv2d::default(),
    }
}

/// What a layer of this kind with `weight`, of the layer's shape or with fewer outputs, and no bias makes of `input`.
fn product(layer: &LayerInfo, input: &Tensor, weight: &Tensor) -> Result<Tensor> {
    match layer.kind {
        LayerKind::CONV2D => input.conv2d(weight, None, movement(layer)),
        _ => input.linear(weight, None),
    }
}

/// `base` plus `factor` times that.
fn add_product(
    layer: &LayerInfo,
    base: &Tensor,
    input: &Tensor,
    weight: &Tensor,
    factor: f64,
) -> Result<Tensor> {
    match layer.kind {
        LayerKind::CONV2D => base + product(layer, input, weight)? * factor,
        _ => base.add_linear(input, weight, factor),
    }
}

/// One value for each output, `[out]`, in a shape that broadcasts over the layer's output.
fn per_output(layer: &LayerInfo, values: &Tensor) -> Result<Tensor> {
    match layer.kind {
        LayerKind::CONV2D => values.reshape([1, layer.out_features, 1, 1]),
        _ => values.reshape([layer.out_features]),
    }
}
