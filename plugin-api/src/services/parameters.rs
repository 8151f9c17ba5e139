//! Trainable parameters: the host makes, names, optimises, averages, saves and restores them; the plugin computes with them.

use super::{CurrentWeight, Parameter, StandIn, TensorOut, Weight};
use crate::{Host, Result, Tensor, message::message};

/// How a new parameter starts. Random starts come from the run's seed, the plugin's id and the parameter's name, so they do not
/// depend on the order of creation.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Init {
    /// All zero.
    Zeros,
    /// All one.
    Ones,
    /// One value everywhere.
    Constant(f64),
    /// Normal with this mean and standard deviation.
    Normal {
        /// Mean.
        mean: f64,
        /// Standard deviation.
        std: f64,
    },
    /// Uniform in `low..high`.
    Uniform {
        /// Lower bound.
        low: f64,
        /// Upper bound.
        high: f64,
    },
    /// PyTorch's `kaiming_uniform_` with negative slope `a`, over the fan-in (all extents but the first):
    /// uniform in `-b..b`, `b = sqrt(6 / ((1 + a^2) * fan_in))`. LoRA's A uses `a = sqrt(5)`.
    KaimingUniform {
        /// Negative slope.
        a: f64,
    },
    /// These values.
    Value(Tensor),
}

message! {
    /// [`Init`] on the boundary: its name in snake case and its numbers in the order of its members.
    pub struct InitMessage {
        /// `zeros`, `ones`, `constant`, `normal`, `uniform`, `kaiming_uniform` or `value`.
        pub kind: String,
        /// The numbers.
        pub numbers: Vec<f64>,
        /// The values of `value`.
        pub value: Option<Tensor>,
    }
}

impl From<Init> for InitMessage {
    fn from(init: Init) -> Self {
        let (kind, numbers, value) = match init {
            Init::Zeros => ("zeros", vec![], None),
            Init::Ones => ("ones", vec![], None),
            Init::Constant(value) => ("constant", vec![value], None),
            Init::Normal { mean, std } => ("normal", vec![mean, std], None),
            Init::Uniform { low, high } => ("uniform", vec![low, high], None),
            Init::KaimingUniform { a } => ("kaiming_uniform", vec![a], None),
            Init::Value(tensor) => ("value", vec![], Some(tensor)),
        };
        InitMessage {
            kind: kind.to_owned(),
            numbers,
            value,
        }
    }
}

impl InitMessage {
    /// The typed form, or `None` for a kind this version does not know.
    pub fn decode_init(self) -> Option<Init> {
        match (self.kind.as_str(), self.numbers.as_slice(), self.value) {
            ("zeros", [], None) => Some(Init::Zeros),
            ("ones", [], None) => Some(Init::Ones),
            ("constant", &[value], None) => Some(Init::Constant(value)),
            ("normal", &[mean, std], None) => Some(Init::Normal { mean, std }),
            ("uniform", &[low, high], None) => Some(Init::Uniform { low, high }),
            ("kaiming_uniform", &[a], None) => Some(Init::KaimingUniform { a }),
            ("value", [], Some(tensor)) => Some(Init::Value(tensor)),
            _ => None,
        }
    }
}

message! {
    /// Asks for a parameter.
    pub struct ParameterIn {
        /// Name, unique within the plugin; becomes part of file names' keys, so keep to letters, digits, `_`, `-` and `.`.
        pub name: String,
        /// Shape.
        pub shape: Vec<usize>,
        /// First values.
        pub init: InitMessage,
        /// Whether weight decay applies; missing means yes.
        pub decay: Option<bool>,
    }
}

message! {
    /// Asks for a stand-in for a backbone weight.
    pub struct StandInIn {
        /// Name of the backbone's parameter.
        pub name: String,
        /// First values, of any shape the backbone can use there; missing means a copy of the frozen ones.
        pub value: Option<Tensor>,
        /// Whether it trains.
        pub trainable: bool,
    }
}

message! {
    /// A name.
    pub struct NameIn {
        /// The name.
        pub name: String,
    }
}

impl Host {
    /// A trainable parameter of this plugin, f32, made on the first call and the same one on every later call.
    ///
    /// The host updates the values in place after each optimizer step and swaps averaged values in for sampling, so keep the tensor:
    /// it is always current. Make parameters in [`PrepareHook`](crate::hooks::PrepareHook), so that a resumed run finds them before it
    /// restores their values. They are saved as `<plugin>.<name>`.
    ///
    /// # Errors
    /// For a name already taken with another shape, or training that has begun.
    pub fn parameter(&self, name: &str, shape: impl AsRef<[usize]>, init: Init) -> Result<Tensor> {
        let (name, shape) = (name.to_owned(), shape.as_ref().to_vec());
        Ok(self
            .call::<Parameter>(ParameterIn {
                name,
                shape,
                init: init.into(),
                decay: None,
            })?
            .tensor)
    }

    /// As [`Host::parameter`], for one that weight decay must leave alone (biases, norms, scales).
    ///
    /// # Errors
    /// As [`Host::parameter`].
    pub fn parameter_without_decay(
        &self,
        name: &str,
        shape: impl AsRef<[usize]>,
        init: Init,
    ) -> Result<Tensor> {
        let (name, shape) = (name.to_owned(), shape.as_ref().to_vec());
        Ok(self
            .call::<Parameter>(ParameterIn {
                name,
                shape,
                init: init.into(),
                decay: Some(false),
            })?
            .tensor)
    }

    /// A tensor that stands in for the backbone weight `name`, trainable or fixed; the frozen original stays what
    /// [`Model::Frozen`](super::Model::Frozen) uses. The shape may differ where the backbone allows it: a first convolution widened
    /// to more input channels, say.
    ///
    /// # Errors
    /// For an unknown name (with near ones), or a shape the backbone cannot use there.
    pub fn stand_in(&self, name: &str, value: Option<Tensor>, trainable: bool) -> Result<Tensor> {
        Ok(self
            .call::<StandIn>(StandInIn {
                name: name.to_owned(),
                value,
                trainable,
            })?
            .tensor)
    }

    /// A weight of the backbone as the current model has it: what stands in for it where it trains, with gradient; else the frozen one.
    ///
    /// For plugins whose formula has a layer's weight in it. Ask for it where it is used, in [`LayerHook`](crate::hooks::LayerHook): asking costs little, and in
    /// [`PrepareHook`](crate::hooks::PrepareHook) another plugin may bring a stand-in later.
    ///
    /// # Errors
    /// For an unknown name (with near ones).
    pub fn current_weight(&self, name: &str) -> Result<Tensor> {
        let TensorOut { tensor } = self.call::<CurrentWeight>(NameIn {
            name: name.to_owned(),
        })?;
        Ok(tensor)
    }

    /// A weight of the frozen backbone, by parameter name; it carries no gradient.
    ///
    /// # Errors
    /// For an unknown name (with near ones).
    pub fn weight(&self, name: &str) -> Result<Tensor> {
        let TensorOut { tensor } = self.call::<Weight>(NameIn {
            name: name.to_owned(),
        })?;
        Ok(tensor)
    }
}
