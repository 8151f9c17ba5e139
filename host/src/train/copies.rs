//! Copies of the backbone's first blocks that plugins train beside it (ControlNet): the backbone's own network, run with the copy's parameters as stand-ins.

use std::rc::Rc;

use candle_core::{DType, Tensor};
use plugin_api::Error;

use crate::backbone::{Input, Overlay, Pass, Piece, Replay};
use crate::plugin::services::{Answer, BlockCopyInfo, CopyRequest};

use super::{Error as TrainError, Owner, Session};

/// One copy.
#[derive(Debug)]
pub(super) struct BlockCopy {
    /// The plugin that made it, by its name in the run.
    plugin: String,
    /// How many residual sites it covers.
    sites: usize,
    /// Its parameters, by the backbone's keys; shares their storage.
    overlay: Rc<Overlay>,
}

impl Session {
    /// Makes a copy of the blocks that lead up to the first residual sites, at the frozen backbone's values but for those given.
    ///
    /// # Errors
    /// Sites that the backbone does not have, values that fit nothing in it, or a name that is taken.
    pub(super) fn copy_front(&self, plugin: &str, request: CopyRequest) -> Answer<BlockCopyInfo> {
        let front = self.backbone.front(request.sites).map_err(Error::msg)?;
        let mut values = request.values;
        let mut overlay = Overlay::new();
        for (key, frozen) in self.backbone.parameters() {
            if !front.parameters.contains(key) {
                continue;
            }
            let start = values.remove(key).unwrap_or_else(|| frozen.clone());
            if start.dims() != frozen.dims() {
                return Err(Error::msg(format!(
                    "`{key}` is {:?} where the backbone's is {:?}: it was made for another backbone",
                    start.dims(),
                    frozen.dims()
                )));
            }
            let tensor = match request.trainable {
                true => {
                    let name = format!("{plugin}.{}.{key}", request.name);
                    let owner = Owner::Plugin(plugin.to_owned());
                    let mut parameters = self.parameters.borrow_mut();
                    let var = parameters.add(name, owner, true, &start);
                    var.map_err(Error::msg)?.as_tensor().clone()
                }
                false => start.to_dtype(DType::F32).map_err(Error::msg)?.detach(),
            };
            overlay.insert(key.to_owned(), tensor);
        }
        if let Some(unknown) = values.keys().next() {
            return Err(Error::msg(format!(
                "`{unknown}` is no parameter of the copied blocks"
            )));
        }
        let mut copies = self.copies.borrow_mut();
        let number = copies.len() as u64;
        let parameters = overlay.clone();
        copies.push(BlockCopy {
            plugin: plugin.to_owned(),
            sites: front.features.len(),
            overlay: Rc::new(overlay),
        });
        Ok(BlockCopyInfo {
            copy: number,
            sites: (0..front.features.len()).collect(),
            features: front.features,
            hint: front.embedding,
            parameters,
            config: self.backbone.config().to_json(),
        })
    }

    /// Refuses copies whose first layer takes another number of channels than the backbone's does in this run.
    ///
    /// # Errors
    /// [`TrainError::WidenedBesideCopy`].
    pub(super) fn check_copies(&self) -> Result<(), TrainError> {
        let channels = self.backbone.input_channels(&self.overlay());
        for copy in self.copies.borrow().iter() {
            let taken = self.backbone.input_channels(&copy.overlay);
            if taken != channels {
                return Err(TrainError::WidenedBesideCopy {
                    plugin: copy.plugin.clone(),
                    taken,
                    channels,
                });
            }
        }
        Ok(())
    }

    /// The hidden states of a copy at each site that it covers, with gradients for its parameters and for the hint; adapters have no part in it.
    ///
    /// # Errors
    /// A copy of another plugin, or inputs that do not fit.
    pub(super) fn run_copy(
        &self,
        plugin: &str,
        number: u64,
        input: &Input<'_>,
        hint: Option<&Tensor>,
    ) -> Answer<Vec<Tensor>> {
        let copies = self.copies.borrow();
        let copy = usize::try_from(number)
            .ok()
            .and_then(|number| copies.get(number))
            .filter(|copy| copy.plugin == plugin)
            .ok_or_else(|| Error::msg(format!("`{plugin}` has made no copy {number}")))?;
        let again = Again(copy.overlay.clone());
        let pass = Pass {
            overlay: Some(&copy.overlay),
            replay: (self.facts.gradient_checkpointing).then_some(&again as &dyn Replay),
            ..Pass::default()
        };
        self.backbone
            .run_front(copy.sites, input, hint, &pass)
            .map_err(Error::msg)
    }
}

/// A copy's blocks in the backward pass under gradient checkpointing: nothing in them is random, so the parameters are all they need.
#[derive(Clone)]
struct Again(Rc<Overlay>);

impl Replay for Again {
    fn piece(&self) -> Rc<dyn Piece> {
        Rc::new(self.clone())
    }
}

impl Piece for Again {
    fn run(
        &self,
        forward: &dyn Fn(&Pass<'_>) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<Tensor> {
        forward(&Pass {
            overlay: Some(&self.0),
            ..Pass::default()
        })
    }
}
