//! Slot `layer`: single layers inside the backbone.

use super::{Dispatch, Instance, answer, unknown_method};
use crate::{
    Error, Host, Result, Tensor,
    abi::Packet,
    message::message,
    services::{LayerInfo, TensorOut},
    slots::{CallDef, Layer, Slot, SlotMarker},
};

/// Changes what chosen layers of the backbone compute: low-rank updates, learned scales, gates.
///
/// Several plugins on one layer work one after the other, each on the output the one before it returned.
pub trait LayerHook {
    /// Whether this plugin wants the layer. Asked once for each layer, after `prepare`; layers not wanted cost nothing later.
    fn adapts(&self, layer: &LayerInfo) -> bool;

    /// Returns the layer's new output, of the old one's shape. `input` is what the layer got (`[.., in_features]`, or
    /// `[B, C, H, W]` for a convolution), `output` what it made of it.
    ///
    /// Called in every pass of the network, in training and in sampling ([`Host::is_training`] tells whether dropout is on). A host that
    /// recomputes activations to save memory calls it twice a step for one layer, with the same random numbers: let the result depend
    /// on the arguments, the parameters and [`Host::random`] alone.
    ///
    /// # Errors
    /// The host refuses another shape.
    fn layer(
        &mut self,
        layer: &LayerInfo,
        input: &Tensor,
        output: Tensor,
        host: &Host,
    ) -> Result<Tensor>;
}

message! {
    /// All layers at once, for `adapts`.
    pub struct LayerSelectIn {
        /// The backbone's adaptable layers, in the order of their numbers.
        pub layers: Vec<LayerInfo>,
    }
}

message! {
    /// The choice.
    pub struct LayerSelectOut {
        /// For each layer asked about, whether the plugin wants it.
        pub adapts: Vec<bool>,
    }
}

message! {
    /// One pass of one layer.
    pub struct LayerIn {
        /// The layer's number.
        pub layer: u32,
        /// What the layer got.
        pub input: Tensor,
        /// What it made of it.
        pub output: Tensor,
    }
}

/// Method 1 of the slot: which layers the plugin wants.
#[derive(Debug, Clone, Copy)]
pub struct LayerSelect;

impl CallDef for LayerSelect {
    const SLOT: Slot = <Layer as SlotMarker>::SLOT;
    const METHOD: u32 = 1;
    type In = LayerSelectIn;
    type Out = LayerSelectOut;
}

impl CallDef for Layer {
    const SLOT: Slot = <Layer as SlotMarker>::SLOT;
    const METHOD: u32 = 0;
    type In = LayerIn;
    type Out = TensorOut;
}

impl<P: LayerHook> Dispatch<P> for Layer {
    fn dispatch(
        instance: &mut Instance<P>,
        method: u32,
        host: &Host,
        request: Packet,
    ) -> Result<Packet> {
        let Instance { plugin, layers } = instance;
        match method {
            <Layer as CallDef>::METHOD => answer::<Layer>(request, |message| {
                let number = message.layer as usize;
                // Numbers are positions in nearly every backbone; the search is for those where they are not.
                let layer = layers
                    .get(number)
                    .filter(|layer| layer.id == message.layer)
                    .or_else(|| layers.iter().find(|layer| layer.id == message.layer))
                    .ok_or_else(|| {
                        Error::Message(format!("the host never described layer {number}"))
                    })?;
                Ok(TensorOut {
                    tensor: plugin.layer(layer, &message.input, message.output, host)?,
                })
            }),
            LayerSelect::METHOD => answer::<LayerSelect>(request, |message| {
                *layers = message.layers;
                Ok(LayerSelectOut {
                    adapts: layers.iter().map(|layer| plugin.adapts(layer)).collect(),
                })
            }),
            other => Err(unknown_method::<Layer>(other)),
        }
    }
}
