//! What plugins find in the bag of `sample_begin`: pictures of a dataset, as in training.

use crate::data::{self, Dataset};
use crate::plugin::slots::Slot;

use super::{Drawing, Error, Session};

/// Hands the first items of a dataset to the samples of a drawing, one each and begun again after the last: their images, columns, names, and, unless
/// classes were asked for, their classes. Without a plugin that looks at the start of sampling the drawing stays as it is.
///
/// # Errors
/// Data none of which can be read.
pub(super) fn give(
    drawing: &mut Drawing,
    dataset: &dyn Dataset,
    classes_asked: bool,
    session: &Session,
) -> Result<(), Error> {
    if !session.stack()?.takes(Slot::SampleBegin) {
        return Ok(());
    }
    let mut batch = data::first_items(dataset, drawing.seeds.len())?;
    if let Some(labels) = batch
        .tensors
        .remove("class_labels")
        .filter(|_| !classes_asked)
    {
        drawing.classes = labels.to_vec1()?;
    }
    let device = session.backbone.device();
    for tensor in batch.tensors.values_mut() {
        *tensor = tensor.to_device(device)?;
    }
    drawing.inputs = batch;
    Ok(())
}
